"""What the first page shows: every lead of SKD on record for the forest plot, and the summary table."""

import dataclasses
import statistics
from collections.abc import Callable

from experiments.lab import definitions
from experiments.lab.statistics import Estimate
from experiments.lab.summaries import HELD_OUT, OWN_BEST, TEST, Runs, column, difference_text, markdown, mean_text
from experiments.lab.tables import SCHEDULES, SPECS, TEACHERS


@dataclasses.dataclass(frozen=True)
class Lead:
    """A difference of two entries of a spec, in `column` where the spec is a Grid; one line of the forest plot."""

    label: str
    spec: str
    ours: str
    theirs: str
    column: str = ""

    def estimate(self, runs: Runs, measure: str) -> Estimate | None:
        return SPECS[self.spec].difference(runs, measure, self.ours, self.theirs, *[self.column] * bool(self.column))


_DIST = "DIST, authors' weights"
_KEPT = [f", {k} largest" if k else "" for k in definitions.TOP_LOGITS]
_AT_RATES = [f"rate {rate:g}" for rate in definitions.RATES]
# heading: every SKD - KD and SKD - DIST with the default weights on record, each once; first_day has its own page.
LEADS = {
    "SKD - KD, CIFAR-10, resnet8, 12 epochs": [
        *(Lead(f"from {t}", "capacity_gap", f"SKD from {t}", f"KD from {t}") for t in TEACHERS),
        *(Lead(f"from resnet56, T = {t}", "temperature", f"SKD, T = {t}", f"KD, T = {t}") for t in (1, 2, 8, 16)),
        *(Lead(f"from resnet56, {rate}", "rates", "SKD", "KD", rate) for rate in ("rate 0.1", "rate 0.4")),
        *(Lead(name, "pilot_schedule", "SKD", "KD", name) for name in SCHEDULES),
    ],
    "SKD - KD, CIFAR-100, resnet8 from resnet56, 12 epochs": [
        Lead("each at its chosen rate", "cifar100", "SKD", "KD"),
        *(Lead(rate, "cifar100_rates", "SKD", "KD", rate) for rate in _AT_RATES),
        *(
            Lead(
                f"T = {t}, rate {rate}", "cifar100_temperature", f"SKD at rate {rate}", f"KD at rate {rate}", f"T = {t}"
            )
            for t in (2, 8)
            for rate in (0.2, 0.4)
        ),
        *(
            Lead(f"float32, AdamW, {rate}", "adamw", f"SKD, {rate}", f"KD, {rate}")
            for rate in (f"rate {rate:g}" for rate in definitions.ADAMW_RATES)
        ),
        *(
            Lead(f"float32, {name}, each at its chosen rate", "head_to_head", f"SKD, {name}", f"KD, {name}")
            for name in ("skd_tf", "PyTorch")
        ),
    ],
    "SKD - KD, CIFAR-100, resnet8 from resnet56, 6 epochs, float32": [
        Lead(f"cache{kept or ', all'} logits", "top_logits", f"SKD{kept}", f"KD{kept}") for kept in _KEPT
    ],
    "SKD - KD, CIFAR-100, resnet8 from resnet56, 30 epochs, float32": [
        Lead("each at its chosen rate", "budget", "SKD, 30 epochs", "KD, 30 epochs")
    ],
    "SKD - KD, CIFAR-100, resnet20 from resnet56, 50 epochs": [
        *(Lead(f"first run, {rate}", "longer_rates", f"SKD, {rate}", f"KD, {rate}") for rate in _AT_RATES),
        Lead("second run, rate 0.2", "longer", "SKD", "KD"),
    ],
    "SKD - KD, CIFAR-100, resnet20 from resnet56, 240 epochs": [Lead("one run of each", "anchor", "SKD", "KD")],
    "SKD - DIST, CIFAR-100, resnet8 from resnet56, 12 epochs": [
        Lead("matched weights, each at its chosen rate", "cifar100", "SKD", "DIST"),
        Lead("authors' weights, each at its chosen rate", "cifar100", "SKD", _DIST),
        *(Lead(f"authors' weights, {rate}", "cifar100_rates", "SKD", _DIST, rate) for rate in _AT_RATES),
        Lead("authors' weights, each at its own best rate", "cifar100_rates", "SKD", _DIST, OWN_BEST),
        Lead("authors' weights, float32, each at its chosen rate", "budget", "SKD, 12 epochs", "DIST, 12 epochs"),
    ],
    "SKD - DIST, CIFAR-100, resnet8 from resnet56, 30 epochs, float32": [
        Lead("authors' weights, each at its chosen rate", "budget", "SKD, 30 epochs", "DIST, 30 epochs")
    ],
    "SKD - DIST, CIFAR-100, resnet20 from resnet56, 50 epochs": [
        Lead("authors' weights, second run, rate 0.2", "longer", "SKD", _DIST)
    ],
}
_LS = "Logit Standardization, authors' weights"
_ALL = {"alone": "alone", "KD": "KD", "SKD": "SKD", "DIST": _DIST, "Logit Standardization": _LS}
_FRONT = [  # pair, epochs, spec, {column: label}
    *(
        (
            f"{t} -> resnet8, CIFAR-10",
            12,
            "capacity_gap",
            {"alone": "alone", "KD": f"KD from {t}", "SKD": f"SKD from {t}"},
        )
        for t in (TEACHERS[0], TEACHERS[-1])
    ),
    ("resnet56 -> resnet8, CIFAR-100", 12, "cifar100", _ALL),
    (
        "resnet56 -> resnet8, CIFAR-100",
        30,
        "budget",
        {method: f"{method}, 30 epochs" for method in ("alone", "KD", "SKD", "DIST")},
    ),
    ("resnet56 -> resnet20, CIFAR-100", 50, "longer", {m: _ALL[m] for m in ("alone", "KD", "SKD", "DIST")}),
    ("resnet56 -> resnet20, CIFAR-100", 240, "anchor", {"KD": "KD", "SKD": "SKD"}),
]


def summary(runs: Runs) -> str:
    """The table of the first page: each pair's methods, and SKD's lead over KD and over the best other method."""
    methods, lines = ("alone", "KD", "SKD", "DIST", "Logit Standardization"), []
    for pair, epochs, name, labels in _FRONT:
        spec = SPECS[name]
        texts = [mean_text(column(runs, spec.entries.get(labels.get(method), ""), TEST)) for method in methods]
        held_out = {m: column(runs, spec.entries[labels[m]], HELD_OUT) for m in labels if m not in ("alone", "SKD")}
        others = {method: statistics.mean(values.values()) for method, values in held_out.items() if values}
        best = max(others, key=others.get, default="KD")
        leads = [difference_text(spec.difference(runs, TEST, labels["SKD"], labels[m])) for m in ("KD", best)]
        lines.append([pair, str(epochs), *texts, leads[0], f"{leads[1]} ({best})"])
    return markdown(["pair", "epochs", *methods, "SKD - KD", "SKD - best other"], lines)


TABLES: dict[str, Callable[[Runs], str]] = {name: spec.text for name, spec in SPECS.items()}
TABLES["summary"] = summary
