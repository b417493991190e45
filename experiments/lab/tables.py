"""The studies' tables, one literal description each; experiments/lab/summaries.py turns records into their numbers."""

from experiments.lab import definitions
from experiments.lab.summaries import Grid, Table

_GAP, _C100 = "capacity_gap/{}/{}", "cifar100/cifar100_resnet56/{}"
TEACHERS = ("resnet20", "resnet32", "resnet44", "resnet56")
_METHODS = {
    "KD": "kd",
    "SKD": "skd",
    "DIST": "dist",
    "DIST, authors' weights": "dist_authors",
    "Logit Standardization": "logit_standardization",
    "Logit Standardization, authors' weights": "logit_standardization_authors",
    "DKD": "dkd",
    "DKD, authors' weights": "dkd_authors",
}
_CHANGES = {
    "SKD": "skd",
    "label term on raw logits": "label_on_raw",
    "not centred": "not_centered",
    "R = the teacher's mean norm": "teacher_mean",
    "R = each image's teacher norm": "teacher_sample",
    "R = sqrt(C)": "radius_1",
    "R = 3 sqrt(C)": "radius_3",
    "R = 4 sqrt(C)": "radius_4",
    "kd_weight in steps": "stepwise_weight",
    "no teacher": "no_distillation",
}
_RADIUS = {  # label: (row, the label that it changes)
    "R = 6.3, T = 4 (the default)": ("default", None),
    "its label term at R = 22": ("label_on_large", "R = 6.3, T = 4 (the default)"),
    "R = 22, T = 4": ("t4", "R = 6.3, T = 4 (the default)"),
    "T = 4: not centred": ("t4_not_centered", "R = 22, T = 4"),
    "T = 4: label term at R = 6.3": ("t4_label_on_default", "R = 22, T = 4"),
    "T = 4: no label term": ("t4_no_label", "R = 22, T = 4"),
    "T = 4: loss times 6.3 / 22": ("t4_scaled", "R = 22, T = 4"),
    "T = 4: rate 0.1": ("t4_rate_0.1", "R = 22, T = 4"),
    "T = 4: rate 0.05": ("t4_rate_0.05", "R = 22, T = 4"),
    "R = 22, T = 1": ("t1", None),
    "T = 1: loss times 6.3 / 22": ("t1_scaled", "R = 22, T = 1"),
    "T = 1: rate 0.1": ("t1_rate_0.1", "R = 22, T = 1"),
    "T = 1: rate 0.05": ("t1_rate_0.05", "R = 22, T = 1"),
    "R = 6.3, no teacher": ("no_teacher", None),
    "R = 22, no teacher": ("no_teacher_large", "R = 6.3, no teacher"),
}
_PRECISIONS = {"float32, teacher live": "float32_live", "bfloat16, cached logits": "bfloat16_cached"}
_TOP = {  # (label, the label that it is compared with): row
    (f"{method}, {k} largest" if k else method, method): f"{method.lower()}_top{k}" if k else method.lower()
    for method in ("KD", "SKD")
    for k in definitions.TOP_LOGITS
}
_TRAINING = {
    "SKD": "plain",
    "mixup": "mixup",
    "CutMix": "cutmix",
    "TrivialAugment": "trivial",
    "features": "features",
    "two teachers": "two_teachers",
    "RLD in place of SKD": "rld",
    "WTTM in place of SKD": "wttm",
    "AdamW, rate 0.008": "adamw",
    "AdamW, rate 0.002": "adamw_slower",
    "AdamW, rate 0.032": "adamw_faster",
    "AdamW, rate 0.128": "adamw_fastest",
}
_ADAMW = {"alone": "adamw/none/none", "KD": "adamw/cifar100_resnet56/kd", "SKD": "adamw/cifar100_resnet56/skd"}
_SGD = {f"{label}, SGD": definitions.IN_12_EPOCHS[label.lower()] for label in ("KD", "SKD")}
BUDGETS = definitions.BUDGETS[:2]  # those that have run
_BUDGET = {
    f"{label}, {epochs} epochs": f"budget/{key}_{epochs}"
    for epochs in BUDGETS
    for label, key in {
        "alone": "none/none",
        "KD": "cifar100_resnet56/kd",
        "SKD": "cifar100_resnet56/skd",
        "DIST": "cifar100_resnet56/dist_authors",
    }.items()
}
_BUDGET |= {f"{label}, 12 epochs": definitions.IN_12_EPOCHS[label.lower()] for label in ("KD", "SKD")}
_FRAMEWORKS = {"PyTorch": "pytorch", "keras.distillation": "keras", "skd_tf": "skd_tf"}
_SPHERES = {"KD": "kd", "SKD": "skd", "SKD, R = 22": "skd_teacher_mean"}
_LARGE = tuple(f"SKD, R = 22, T = {t}" for t in definitions.TEMPERATURES)
SCHEDULES = {  # steps to the schedule of an earlier pilot, all at rate 0.1
    "rate 0.1, no warm-up": "",
    "no warm-up, linear": "_linear",
    "no warm-up, linear, 50,000 images": "_linear_all",
    "linear, 50,000 images": "_linear_all_warm",
}


def _schedules(row, pair, first="capacity_gap", rated=True, ends=SCHEDULES):
    """The keys of a row under each schedule, from the studies' own to the pilot's."""
    keys = {"rate 0.2": f"{first}/{pair}/{row}"} | ({"rate 0.1": f"rates/{pair}/{row}_0.1"} if rated else {})
    return keys | {words: f"pilot_schedule/{pair}/{row}{end}" for words, end in ends.items()}


def _rated(study, pair, rows):
    """The keys of rows at each rate."""
    pairs = {label: "none" if row == "none" else pair for label, row in rows.items()}
    return {
        label: {f"rate {rate:g}": f"{study}/{pairs[label]}/{row}_{rate:g}" for rate in definitions.RATES}
        for label, row in rows.items()
    }


def _changes(label, high, low):
    return {f"{label}, T = {high}": 1, f"{label}, T = {low}": -1}


_SEED_TO_SEED = {f"{label} from {t}": _GAP.format(t, label.lower()) for t in TEACHERS for label in ("KD", "SKD")}
_LONGER = {"alone": "none", "KD": "kd", "DIST, authors' weights": "dist_authors", "SKD": "skd"}
_LONGER_RATES = {
    f"{label}, rate {rate:g}": f"gpu_students/resnet56/{label.lower()}_{rate:g}"
    for rate in definitions.RATES
    for label in ("KD", "SKD")
}

SPECS = {
    "capacity_gap": Table(
        {"alone": _GAP.format("none", "none")} | _SEED_TO_SEED,
        against={f"SKD from {teacher}": f"KD from {teacher}" for teacher in TEACHERS},
        contrasts={
            "SKD - KD, mean of the four teachers": {
                f"{label} from {teacher}": sign / 4 for teacher in TEACHERS for label, sign in (("SKD", 1), ("KD", -1))
            },
            "KD: from resnet56 minus from resnet20": {"KD from resnet56": 1, "KD from resnet20": -1},
            "SKD: from resnet56 minus from resnet20": {"SKD from resnet56": 1, "SKD from resnet20": -1},
        },
    ),
    "temperature": Table(
        {
            f"{label}, T = {t}": f"temperature/resnet56/{row}_t{t}"
            for label, row in _SPHERES.items()
            for t in definitions.TEMPERATURES
        },
        against={f"SKD, T = {t}": f"KD, T = {t}" for t in definitions.TEMPERATURES}
        | {label: label.replace(", R = 22", "") for label in _LARGE},
        apart=_LARGE,
        contrasts={
            f"{m}: T = {a} minus T = {b}": _changes(m, a, b) for a, b in ((4, 1), (16, 4)) for m in ("KD", "SKD")
        }
        | {
            "SKD's gain from T = 1 to T = 4, minus KD's": _changes("SKD", 4, 1)
            | {label: -weight for label, weight in _changes("KD", 4, 1).items()}
        },
    ),
    "cifar100_temperature": Grid(
        {
            f"{label} at rate {rate:g}": {
                f"T = {t}": f"cifar100_temperature/cifar100_resnet56/{row}_t{t}_{rate:g}" for t in temperatures
            }
            for rate in (0.2, 0.4)
            for label, row, temperatures in (("SKD", "skd", (1, 2, 4, 8)), ("KD", "kd", (2, 4, 8, 16)))
        },
        minus=(("SKD at rate 0.2", "KD at rate 0.2"), ("SKD at rate 0.4", "KD at rate 0.4")),
    ),
    "sphere": Table(
        {label: f"sphere/resnet56/{row}" for label, row in _CHANGES.items()}
        | {"student alone": _GAP.format("none", "none")},
        against=dict.fromkeys((*list(_CHANGES)[1:], "student alone"), "SKD"),
        measures=("R", "NLL", "ECE", "logit norm"),
        contrasts={"no teacher, on the sphere, minus student alone": {"no teacher": 1, "student alone": -1}},
    ),
    "radius": Table(
        {label: f"radius/resnet56/{row}" for label, (row, _) in _RADIUS.items()},
        against={label: other for label, (_, other) in _RADIUS.items() if other},
        measures=("NLL", "ECE"),
    ),
    "rates": Grid(
        _rated(
            "rates",
            "resnet56",
            {
                "alone": "none",
                "KD": "kd",
                "KD, kd_weight 0.5": "kd_half",
                "SKD": "skd",
                "SKD, kd_weight 0.5": "skd_half",
            }
            | {"SKD, R = 22": "skd_teacher_mean", "on the sphere, no teacher": "no_distillation"},
        ),
        minus=(("SKD", "KD"),),
        own_best=True,
    ),
    "pilot_schedule": Grid(
        {
            "alone": _schedules("none", "none"),
            "KD": _schedules("kd", "resnet56"),
            "SKD": _schedules("skd", "resnet56"),
            "SKD, not centred": _schedules("not_centered", "resnet56", "sphere", False, {"rate 0.1, no warm-up": ""}),
        },
        minus=(("SKD", "KD"),),
    ),
    "cifar100": Table(
        {"alone": "cifar100/none/none"} | {label: _C100.format(row) for label, row in _METHODS.items()},
        against=dict.fromkeys(["alone", *(label for label in _METHODS if label != "SKD")], "SKD"),
        measures=("rate", "NLL", "ECE", "NLL, fitted", "ECE, fitted"),
    ),
    "cifar100_rates": Grid(
        _rated("cifar100_rates", "cifar100_resnet56", {"alone": "none"} | _METHODS),
        minus=(("SKD", "KD"), ("SKD", "DIST, authors' weights")),
        own_best=True,
    ),
    "longer": Table(
        {label: f"gpu_students_seeds/resnet56/{row}_0.2" for label, row in _LONGER.items()},
        against=dict.fromkeys(("alone", "KD", "DIST, authors' weights"), "SKD"),
        measures=("NLL", "ECE", "logit norm"),
    ),
    "longer_rates": Table(
        {f"alone, rate {rate:g}": f"gpu_students/resnet56/none_{rate:g}" for rate in definitions.RATES} | _LONGER_RATES,
        against={f"SKD, rate {rate:g}": f"KD, rate {rate:g}" for rate in definitions.RATES},
        measures=("NLL", "ECE"),
    ),
    "calibration": Table(
        {"alone": _GAP.format("none", "none")}
        | {f"{label} from {t}": _GAP.format(t, label.lower()) for label in ("KD", "SKD") for t in TEACHERS}
        | {f"{label}, T = {t}": f"temperature/resnet56/{row}_t{t}" for label, row in _SPHERES.items() for t in (1, 16)}
        | {"CIFAR-100: alone": "cifar100/none/none"}
        | {f"CIFAR-100: {label}": _C100.format(_METHODS[label]) for label in ("KD", "SKD", "DIST, authors' weights")},
        measures=(
            *("ECE", "NLL", "ECE, raw logits", "NLL, raw logits"),
            *("fitted temperature", "ECE, fitted", "NLL, fitted"),
        ),
    ),
    "training": Table(
        {label: f"training/cifar100_resnet56/{row}" for label, row in _TRAINING.items()},
        against=dict.fromkeys([*_TRAINING][1:], "SKD"),
        measures=("rate", "NLL", "ECE", "NLL, fitted", "ECE, fitted"),
    ),
    "adamw": Table(
        {
            f"{label}, rate {rate:g}": f"{key}_{rate:g}"
            for label, key in _ADAMW.items()
            for rate in definitions.ADAMW_RATES
        }
        | _SGD,
        against={f"KD, rate {rate:g}": f"alone, rate {rate:g}" for rate in definitions.ADAMW_RATES}
        | {f"SKD, rate {rate:g}": f"KD, rate {rate:g}" for rate in definitions.ADAMW_RATES},
        contrasts={
            "SKD - alone, rate 0.032": {"SKD, rate 0.032": 1, "alone, rate 0.032": -1},
            "KD, rate 0.032, minus KD, SGD": {"KD, rate 0.032": 1, "KD, SGD": -1},
            "SKD, rate 0.032, minus SKD, SGD": {"SKD, rate 0.032": 1, "SKD, SGD": -1},
        },
        measures=("NLL", "ECE", "NLL, fitted", "ECE, fitted"),
    ),
    "budget": Table(
        _BUDGET,
        against={
            f"{label}, {epochs} epochs": f"{other}, {epochs} epochs"
            for epochs in BUDGETS
            for label, other in (("KD", "alone"), ("SKD", "KD"), ("DIST", "SKD"))
        },
        contrasts={
            f"{high} - {low}, 30 epochs minus 12": {
                f"{label}, {epochs} epochs": sign * (1 if epochs == 30 else -1)
                for epochs in BUDGETS
                for label, sign in ((high, 1), (low, -1))
            }
            for high, low in (("KD", "alone"), ("SKD", "alone"), ("SKD", "KD"), ("DIST", "SKD"))
        },
        measures=("rate", "NLL", "ECE"),
    ),
    "anchor": Table(
        {"KD": "anchor/resnet56_resnet20/kd", "SKD": "anchor/resnet56_resnet20/skd"},
        against={"SKD": "KD"},
        measures=("NLL", "ECE", "logit norm"),
    ),
    "head_to_head": Table(
        {
            f"{method}, {name}": f"head_to_head/{folder}/{method.lower()}"
            for method in ("KD", "SKD")
            for name, folder in _FRAMEWORKS.items()
            if (method, name) != ("SKD", "keras.distillation")
        },
        against={
            f"{m}, {name}": f"{m}, skd_tf"
            for m, name in (("KD", "PyTorch"), ("KD", "keras.distillation"), ("SKD", "PyTorch"))
        },
        contrasts={f"SKD - KD, {name}": {f"SKD, {name}": 1, f"KD, {name}": -1} for name in ("PyTorch", "skd_tf")},
        measures=("rate", "CPU minutes"),
    ),
    "top_logits": Table(
        {label: f"top_logits/cifar100_resnet56/{row}" for (label, _), row in _TOP.items()},
        against={label: method for label, method in _TOP if label != method},
        measures=("NLL", "ECE"),
    ),
    **{
        name: Table(
            {label: f"{name}/resnet20/{row}" for label, row in _PRECISIONS.items()},
            against={"bfloat16, cached logits": "float32, teacher live"},
            measures=("NLL", "ECE", "minutes"),
        )
        for name in ("precision", "precision_long")
    },
}
