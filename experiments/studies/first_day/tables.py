"""The tables of the study from its records: common rates, scores of the arms, paired differences with intervals."""

import json
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from experiments.lab.statistics import critical
from experiments.studies.first_day.arms import (
    ALL_ARMS,
    ARMS,
    CANDIDATES,
    FACTORS,
    OPTIMIZERS,
    PROTOCOL,
    TEMPERATURES,
    own_temperature,
)

SCREENED = ("shapes", "digits")
Columns = dict[tuple[str, str, float, float], dict[int, dict]]  # {(arm, optimizer, T, rate): {seed: record}}


class Interval(NamedTuple):
    """A mean with the half width of its 95% interval (Student's t over seeds), in points."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.half:.1f}"


def interval(values: Sequence[float]) -> Interval:
    """The mean of values of several seeds, times 100."""
    half = (
        critical(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    )
    return Interval(100 * statistics.mean(values), 100 * half)


def read(records: pathlib.Path, name: str) -> Columns:
    """The records of a set by their settings and seeds; empty if it has not been run."""
    columns: Columns = {}
    for line in (line for path in sorted(records.glob(f"{name}.*.jsonl")) for line in path.read_text().splitlines()):
        record = json.loads(line)
        key = record["arm"], record["optimizer"], record["temperature"], record["rate"]
        columns.setdefault(key, {})[record["seed"]] = record
    return columns


def rate_means(columns: Columns, optimizer: str) -> dict[float, float]:
    """{rate: mean top-1 of alone over seeds}, ascending."""
    means = {
        key[3]: statistics.mean(record["accuracy"] for record in seeds.values())
        for key, seeds in columns.items()
        if key[:2] == ("alone", optimizer)
    }
    return dict(sorted(means.items()))


def common_rates(records: pathlib.Path, stage: str) -> dict[str, float]:
    """{optimizer: rate} by the protocol's rule: best mean of alone; each set counts relative to its own best rate.

    Args:
      records: the folder of records.
      stage: "screen" takes the screened sets, another one cifar10_5000 too.
    """
    names = SCREENED if stage == "screen" else (*SCREENED, "cifar10_5000")
    common = {}
    for optimizer in OPTIMIZERS:
        means = [rate_means(read(records, name), optimizer) for name in names]
        shared = set.intersection(*(set(mean) for mean in means))
        common[optimizer] = max(sorted(shared), key=lambda rate: sum(m[rate] - max(m.values()) for m in means))
    return common


class Screen:
    """The screening of one set under one optimizer."""

    def __init__(self, columns: Columns, optimizer: str, rate: float):
        self._columns, self._optimizer, self._rate = columns, optimizer, rate

    def accuracy(self, arm: str, temperature: float, factor: float = 1.0) -> dict[int, float]:
        """{seed: top-1} of a cell; empty if it has not been run."""
        seeds = self._columns.get((arm, self._optimizer, temperature, self._rate * factor), {})
        return {seed: record["accuracy"] for seed, record in seeds.items()}

    def own(self, arm: str, temperature: float | None = None) -> dict[int, float]:
        """{seed: top-1} at the arm's own T and the common rate."""
        if arm == "alone":
            return self.accuracy("alone", 0)
        return self.accuracy(arm, own_temperature(ALL_ARMS[arm]) if temperature is None else temperature)

    def robust(self, arm: str) -> dict[int, float]:
        """{seed: mean top-1}: over T at the common rate, and over three rates at the own T, both averages equal in weight."""
        own = own_temperature(ALL_ARMS[arm])
        over_t = [self.accuracy(arm, float(t)) for t in TEMPERATURES] if own else [self.accuracy(arm, own)]
        over_rates = [self.accuracy(arm, own, factor) for factor in FACTORS]
        seeds = set.intersection(*(set(column) for column in (*over_t, *over_rates)))

        def mean(columns, seed):
            return statistics.mean(column[seed] for column in columns)

        return {seed: (mean(over_t, seed) + mean(over_rates, seed)) / 2 for seed in seeds}

    def records(self, arm: str, temperature: float, factor: float = 1.0) -> list[dict]:
        return list(self._columns.get((arm, self._optimizer, temperature, self._rate * factor), {}).values())


def difference(one: dict[int, float], other: dict[int, float]) -> Interval | None:
    """The paired difference over the seeds that both have."""
    seeds = sorted(set(one) & set(other))
    return interval([one[seed] - other[seed] for seed in seeds]) if seeds else None


def screens(records: pathlib.Path, stage: str = "screen", names: Sequence[str] = SCREENED) -> dict[tuple, Screen]:
    """{(set, optimizer): Screen} of the sets that have records."""
    common = common_rates(records, stage)
    tables = {name: read(records, name) for name in names}
    return {(name, o): Screen(table, o, common[o]) for name, table in tables.items() if table for o in OPTIMIZERS}


def all_tables(records: pathlib.Path) -> str:
    """Every table, as Markdown."""
    parts = [_rate_table(records)]
    found = screens(records)
    parts.append(_arm_table(found))
    parts.extend(_temperature_table(found, optimizer) for optimizer in OPTIMIZERS)
    parts.append(_best_temperatures(found))
    parts.append("If no arm passes: methods without a sphere, all with a warm-up of 100 steps, and alone likewise.")
    parts.append(_candidate_table(found))
    parts.extend(_temperature_table(found, optimizer, CANDIDATES) for optimizer in OPTIMIZERS)
    parts.append(_best_temperatures(found, CANDIDATES))
    parts.append(_own_rate_table(records))
    parts.append("With the warm-up of 100 steps, exploratory:")
    parts.append(_warmed_rate_table(records))
    parts.append("The measurement sets, eight seeds, with the warm-up:")
    parts.append(_measured_table(records))
    parts.append(_detail_table(found))
    return "\n\n".join(parts)


def _rate_table(records):
    lines = []
    for optimizer in OPTIMIZERS:
        for name in (*SCREENED, "cifar10_5000"):
            means = rate_means(read(records, name), optimizer)
            if means:
                cells = ", ".join(f"{rate:g}: {100 * mean:.1f}" for rate, mean in means.items())
                lines.append(f"* {name}, {optimizer}: {cells}")
    return "\n".join(
        ["Alone at each rate, top-1 in %:", "", *lines, "", f"Common rates: {common_rates(records, 'screen')}"]
    )


def _arm_table(found: dict[tuple, Screen]) -> str:
    """(arm - KD) averaged over T and rates, (arm - alone) at the own T, per set and optimizer; the score is their mean."""
    rows = []
    for arm in ARMS:
        if arm == "alone":
            continue
        robust = [difference(screen.robust(arm), screen.robust("kd")) for screen in found.values()]
        safe = [difference(screen.own(arm), screen.own("alone")) for screen in found.values()]
        if any(value is None for value in (*robust, *safe)):
            score = None
        else:
            score = statistics.mean(value.mean for value in robust)
        rows.append((arm, robust, safe, score))
    rows.sort(key=lambda row: -1e9 if row[3] is None else row[3], reverse=True)
    places = [f"{name} {optimizer}" for name, optimizer in found]
    head = ["arm", "score", *(f"- KD, {p}" for p in places), *(f"- alone, {p}" for p in places)]
    body = [
        [arm, "" if score is None else f"{score:+.1f}", *map(_text, robust), *map(_text, safe)]
        for arm, robust, safe, score in rows
    ]
    return _markdown(head, body)


def _candidate_table(found: dict[tuple, Screen]) -> str:
    """(candidate - KD) over T and rates, and (candidate - alone) at its own T; the score is the mean over the screened sets."""
    own, places = own_temperatures(found, CANDIDATES), [f"{name} {optimizer}" for name, optimizer in found]
    head = ["candidate", "score", "own T", *(f"- KD, {p}" for p in places), *(f"- alone, {p}" for p in places)]
    body = []
    for arm in CANDIDATES:
        t = own.get(arm, own_temperature(CANDIDATES[arm]))
        robust = [difference(screen.robust(arm), screen.robust("kd_warmup")) for screen in found.values()]
        safe = [difference(screen.own(arm, t), screen.accuracy("alone_warmup", 0.0)) for screen in found.values()]
        if all(value is not None for value in (*robust, *safe)):
            score = statistics.mean(value.mean for value in robust)
            body.append([arm, f"{score:+.1f}", f"{t:g}" if t else "", *map(str, robust), *map(str, safe)])
    return _markdown(head, body)


def _warmed_rate_table(records: pathlib.Path) -> str:
    """Alone, and KD at T = 1 and 4, at every candidate rate on the screened sets; and minus alone at the same rate."""
    lines = []
    for optimizer in OPTIMIZERS:
        rates = PROTOCOL["common_rate"]["candidates"][optimizer]
        body = []
        for name in SCREENED:
            columns = read(records, name)
            for arm, t in (("alone_warmup", 0.0), ("kd_warmup", 1.0), ("kd_warmup", 4.0)):
                cells = [_accuracies(columns, arm, optimizer, t, rate) for rate in rates]
                alone = [_accuracies(columns, "alone_warmup", optimizer, 0.0, rate) for rate in rates]
                means = [f"{100 * statistics.mean(cell.values()):.1f}" if cell else "" for cell in cells]
                if t:
                    pairs = zip(cells, alone, means, strict=True)
                    means = [f"{mean} ({_text(difference(cell, other))})" for cell, other, mean in pairs]
                body.append([name, f"{arm}, T = {t:g}" if t else arm, *means])
        lines.append(_markdown(["set", f"{optimizer}: arm", *(f"{rate:g}" for rate in rates)], body))
    return "\n\n".join(lines)


def _accuracies(columns: Columns, arm: str, optimizer: str, temperature: float, rate: float) -> dict[int, float]:
    return {s: r["accuracy"] for s, r in columns.get((arm, optimizer, temperature, rate), {}).items()}


def _measured_table(records: pathlib.Path) -> str:
    """Every arm with eight seeds on the measurement sets, and minus alone at the same rate."""
    body = []
    for name in (name for name in PROTOCOL["measurement_sets"] if name != "touched"):
        columns = read(records, name)
        for arm, optimizer, t, rate in sorted(
            columns, key=lambda key: (key[1] != "sgd", key[3], list(ARMS).index(key[0]), key[2])
        ):
            cell = _accuracies(columns, arm, optimizer, t, rate)
            if len(cell) == len(PROTOCOL["seeds"]["primary_test"]):
                minus = (
                    ""
                    if arm == "alone"
                    else _text(difference(cell, _accuracies(columns, "alone", optimizer, 0.0, rate)))
                )
                what = f"{arm}, T = {t:g}" if t else arm
                body.append([name, optimizer, f"{rate:g}", what, f"{100 * statistics.mean(cell.values()):.1f}", minus])
    return _markdown(["set", "optimizer", "rate", "arm", "top-1", "minus alone"], body)


def _temperature_table(found: dict[tuple, Screen], optimizer: str, names: Iterable[str] = ARMS) -> str:
    """Mean top-1 at every T, per set."""
    chosen = {name: screen for (name, o), screen in found.items() if o == optimizer}
    head = [f"{optimizer}: arm", *(f"{name} T={t}" for name in chosen for t in TEMPERATURES)]
    body = []
    for arm in names:
        if own_temperature(ALL_ARMS[arm]):
            values = [screen.accuracy(arm, float(t)) for screen in chosen.values() for t in TEMPERATURES]
            body.append([arm, *(f"{100 * statistics.mean(v.values()):.1f}" if v else "" for v in values)])
    return _markdown(head, body)


class BestTemperature(NamedTuple):
    """The T with the highest mean over sets and optimizers, its distance to T = 4 in points, and the standard error."""

    temperature: float
    gain: float
    error: float


def best_temperatures(found: dict[tuple, Screen], names: Iterable[str] = ARMS) -> dict[str, BestTemperature]:
    """By arm, of those whose cells at all T are there."""
    best = {}
    for arm in names:
        columns = {float(t): [screen.accuracy(arm, float(t)) for screen in found.values()] for t in TEMPERATURES}
        if not own_temperature(ALL_ARMS[arm]) or not all(all(column) for column in columns.values()):
            continue
        seeds = set.intersection(*(set(column) for several in columns.values() for column in several))
        means = {t: {s: statistics.mean(c[s] for c in several) for s in seeds} for t, several in columns.items()}
        highest = max(means, key=lambda t: statistics.mean(means[t].values()))
        values = [100 * (means[highest][seed] - means[4.0][seed]) for seed in sorted(seeds)]
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        best[arm] = BestTemperature(highest, statistics.mean(values), error)
    return best


def own_temperatures(found: dict[tuple, Screen], names: Iterable[str] = ARMS) -> dict[str, float]:
    """{arm: its own T}, the best one if it beats T = 4 by more than a standard error; only arms that differ from T = 4."""
    return {arm: best.temperature for arm, best in best_temperatures(found, names).items() if best.gain > best.error}


def _best_temperatures(found, names=ARMS):
    lines = [
        f"* {arm}: T = {best.temperature:g}, {best.gain:+.1f} against T = 4, standard error {best.error:.1f}"
        for arm, best in best_temperatures(found, names).items()
    ]
    return "\n".join(["Best temperature over all sets and optimizers (arms with all cells):", "", *lines])


def _own_rate_table(records: pathlib.Path) -> str:
    """Exploratory: arms at T = 4 and every candidate rate; the last column pairs each at its own best rate with alone at its."""
    lines = []
    for optimizer in OPTIMIZERS:
        rates = PROTOCOL["common_rate"]["candidates"][optimizer]
        head = ["set", f"{optimizer}: arm", *(f"{rate:g}" for rate in rates), "own best - alone's best"]
        body = []
        for name in SCREENED:
            columns, best = read(records, name), {}
            for arm in ARMS:
                own = 0.0 if arm == "alone" else own_temperature(ARMS[arm])
                cells = [
                    {s: r["accuracy"] for s, r in columns.get((arm, optimizer, own, rate), {}).items()}
                    for rate in rates
                ]
                if sum(len(cell) > 1 for cell in cells) < len(rates) - 1:
                    continue
                best[arm] = max(cells, key=lambda cell: statistics.mean(cell.values()) if cell else 0.0)
                means = [f"{100 * statistics.mean(cell.values()):.1f}" if cell else "" for cell in cells]
                body.append([name, arm, *means, "" if arm == "alone" else _text(difference(best[arm], best["alone"]))])
        lines.append(_markdown(head, body))
    return "\n\n".join(lines)


def _detail_table(found: dict[tuple, Screen]) -> str:
    """At the own T and the common rate: top-1, NLL, ECE, and the student's norm in the first, middle and last epoch."""
    head = ["set", "optimizer", "arm", "T", "top-1", "NLL", "ECE", "norm: first", "middle", "last epoch"]
    body = []
    for (name, optimizer), screen in found.items():
        for arm in ALL_ARMS:
            own = 0.0 if arm == "alone" else own_temperature(ALL_ARMS[arm])
            records = screen.records(arm, own)
            if records:
                body.append([name, optimizer, arm, f"{records[0]['used_temperature']:.3g}", *_details(records)])
    return _markdown(head, body)


def _details(records: list[dict]) -> list[str]:
    def mean(value: Callable[[dict], float | None]) -> float:
        values = [v for v in map(value, records) if v is not None]
        return statistics.mean(values) if values else float("nan")

    last = len(records[0]["norms"]) - 1
    norms = [mean(lambda r, epoch=epoch: r["norms"][epoch]) for epoch in (0, last // 2, last)]
    quality = (
        f"{100 * mean(lambda r: r['accuracy']):.1f}",
        f"{mean(lambda r: r['nll']):.3f}",
        f"{mean(lambda r: r['ece']):.3f}",
    )
    return [*quality, *(f"{norm:.3g}" for norm in norms)]


def _text(value):
    return "" if value is None else str(value)


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
