"""The studies: which students are trained to answer which question, as one literal table."""

from experiments.lab.cells import NO_PAIR, RESULTS, ROOT, Cell, Study, cells, config_of

__all__ = ["NO_PAIR", "RESULTS", "ROOT", "STUDIES", "Cell", "Study", "cells", "config_of"]


def _files(folder, *names):
    return {name: f"{folder}/{name}.flags" for name in names}


def _taught_by(teacher):
    """Flags of a pair whose teacher has been trained or converted before; all methods and seeds share its logits."""
    return f"--teacher_checkpoint=teachers/{teacher}", "--teacher_cache_dir=runs/studies/teacher_cache"


def _adamw(rate):
    return "--optimizer=adamw", "--weight_decay=0.05", f"--learning_rate={rate:g}"


RATES = (0.1, 0.2, 0.4)
_FLOAT32 = ("--precision=float32", "--teacher_precision=float32")
_BFLOAT16 = ("--precision=bfloat16", "--teacher_precision=bfloat16")
TEMPERATURES = (1, 2, 4, 8, 16)
_THREE, _FIVE = (0, 1, 2), (0, 1, 2, 3, 4)
_SKD, _KD = "rows/skd.flags", "rows/kd.flags"
_PAIR56 = _files("pairs", "resnet56")
_PAIR100 = _files("pairs", "cifar100_resnet56")


def _at_rates(name, question, base, alone, rows, pair):
    """A study of every row at every rate, "kd_0.1" being "kd" at 0.1; a row that ends in "_half" has kd_weight 0.5."""
    further = {}
    for row, where in (("none", NO_PAIR), *((row, *pair) for row in rows)):
        half = ("--kd_weight=0.5",) if row.endswith("_half") else ()
        further |= {(f"{row}_{rate:g}", where): (*half, f"--learning_rate={rate:g}") for rate in RATES}
    at_rates = {f"{row}_{rate:g}": path for row, path in rows.items() for rate in RATES}
    alone = {f"none_{rate:g}": alone for rate in RATES}
    return Study(name, question, base=base, alone=alone, rows=at_rates, pairs=pair, further=further)


def _in_float32(name, question, rows, three_seeds):
    """A study on CIFAR-100 of {row: (method, further flags)}; most rows have one seed."""
    pairs = {row: NO_PAIR if method == "none" else "cifar100_resnet56" for row, (method, _) in rows.items()}
    files = {row: f"rows/cifar100/{method}.flags" for row, (method, _) in rows.items()}
    return Study(
        name,
        question,
        base="base_cifar100.flags",
        alone={row: file for row, file in files.items() if pairs[row] == NO_PAIR},
        rows={row: file for row, file in files.items() if pairs[row] != NO_PAIR},
        pairs=_PAIR100,
        further={(row, pairs[row]): (*_FLOAT32, *flags) for row, (_, flags) in rows.items()},
        seeds_of={(row, pairs[row]): _THREE for row in three_seeds},
    )


_RATED_ROWS = {"kd": _KD, "kd_half": _KD, "skd": _SKD, "skd_half": _SKD}
_RATED_ROWS |= {"skd_teacher_mean": "rows/sphere/teacher_mean.flags"}
_RATED_ROWS |= _files("rows/sphere", "no_distillation")
_BY_TEMPERATURE = ("kd", "skd", "skd_teacher_mean")
_CIFAR100_ROWS = _files(
    "rows/cifar100",
    *("kd", "skd", "logit_standardization", "logit_standardization_authors"),
    *("dkd", "dkd_authors", "dist", "dist_authors"),
)
_CIFAR100_TEMPERATURES = {
    f"{method}_t{t}_{rate:g}": (method, t, rate)
    for method, temperatures in (("kd", (2, 4, 8, 16)), ("skd", (1, 2, 4, 8)))
    for t in temperatures
    for rate in (0.2, 0.4)
}
TOP_LOGITS = (0, 32, 16, 8, 4)  # 0: all
_TOP_ROWS = {f"{method}_top{k}" if k else method: (method, k) for method in ("kd", "skd") for k in TOP_LOGITS}
_TRAINING = {  # what is added to SKD
    "plain": (),
    "mixup": ("--augmentation=crop, mirror, mixup:0.2",),
    "cutmix": ("--augmentation=crop, mirror, cutmix:1",),
    "trivial": ("--augmentation=crop, mirror, trivial",),
    "features": ("--feature_pairs=stage3_block9_relu:stage3_block1_relu", "--feature_weight=1", "--teacher_cache_dir="),
    "two_teachers": ("--teacher_checkpoint=teachers/cifar100_resnet56.keras,released:cifar100_resnet20",),
}
_ADAMW = {"adamw": 0.008, "adamw_slower": 0.002, "adamw_faster": 0.032, "adamw_fastest": 0.128}  # rates
_TRAINING |= {row: _adamw(rate) for row, rate in _ADAMW.items()}
ADAMW_RATES = (0.008, 0.032, 0.128)
BUDGETS = (12, 30, 60)  # epochs
IN_12_EPOCHS = {"kd": "head_to_head/skd_tf/kd", "skd": "training/cifar100_resnet56/plain"}  # SGD, float32
_BUDGETED = [("none", 12), ("dist_authors", 12)]
_BUDGETED += [(m, epochs) for m in ("none", "kd", "skd", "dist_authors") for epochs in BUDGETS[1:]]
PILOT_SCHEDULES = {  # from rate 0.1 without a warm-up, one step at a time
    "": (),
    "_linear": ("--lr_schedule=linear",),
    "_linear_all": ("--lr_schedule=linear", "--validation_fraction=0"),
    "_linear_all_warm": ("--lr_schedule=linear", "--validation_fraction=0", "--warmup_epochs=0.6"),
}
_CIFAR100_PAIRS = {  # the ten of the field's tables, {teacher: {student: DKD's beta by its authors}}
    "resnet56": {"resnet20": 2},
    "resnet110": {"resnet32": 2},
    "resnet32x4": {"resnet8x4": 8, "shufflenet_v1": 8, "shufflenet_v2": 8},
    "wrn_40_2": {"wrn_16_2": 6, "wrn_40_1": 6},
    "vgg13": {"vgg8": 6, "mobilenet_v2": 8},
    "cifar_resnet50": {"mobilenet_v2": 8},
}
_CIFAR100_FULL = [(f"{t}_{s}", t, beta) for t, students in _CIFAR100_PAIRS.items() for s, beta in students.items()]
_IMAGENET_TEACHERS = ("resnet34", "resnet50", "resnet101", "resnet152")

_ALL = (
    Study(
        "capacity_gap",
        "Does a larger teacher hurt a small student under KD, and help it under SKD?",
        base="base.flags",
        alone=_files("rows", "none"),
        rows=_files("rows", "kd", "skd"),
        pairs=_files("pairs", "resnet20", "resnet32", "resnet44", "resnet56"),
        seeds=_THREE,
        seeds_of={("none", NO_PAIR): _FIVE}
        | {(row, pair): _FIVE for row in ("kd", "skd") for pair in ("resnet20", "resnet56")},
    ),
    _at_rates(
        "rates",
        "Which learning rate is best over 12 epochs on CIFAR-10, by held-out images?",
        "base.flags",
        "rows/none.flags",
        _RATED_ROWS,
        _PAIR56,
    ),
    Study(
        "precision",
        "Do bfloat16 and cached logits cost accuracy over 6 epochs?",
        base="base_short.flags",
        rows=_files("rows/precision", "float32_live", "bfloat16_live", "bfloat16_cached"),
        pairs=_files("pairs", "resnet20"),
        seeds=_THREE,
    ),
    Study(
        "precision_long",
        "Do bfloat16 and cached logits cost accuracy over 12 epochs?",
        base="base.flags",
        rows=_files("rows/precision_long", "float32_live") | {"bfloat16_cached": _SKD},
        pairs=_files("pairs", "resnet20"),
        seeds=_THREE,
    ),
    Study(
        "temperature",
        "How much does accuracy depend on the temperature, at either radius?",
        base="base.flags",
        rows=_files("rows/temperature", *(f"{method}_t{t}" for method in _BY_TEMPERATURE for t in TEMPERATURES)),
        pairs=_PAIR56,
        seeds_of={(f"{method}_t{t}", "resnet56"): _THREE for method in _BY_TEMPERATURE for t in (1, 4, 16)},
    ),
    Study(
        "radius",
        "Why is a sphere of the teacher's norm worse? One change at a time.",
        base="base.flags",
        rows={"default": _SKD, "t4": "rows/sphere/teacher_mean.flags", "no_teacher": _RATED_ROWS["no_distillation"]}
        | _files(
            "rows/radius",
            *("label_on_large", "t4_not_centered", "t4_label_on_default", "t4_no_label", "t4_scaled", "t4_rate_0.1"),
            *("t4_rate_0.05", "t1", "t1_scaled", "t1_rate_0.1", "t1_rate_0.05", "no_teacher_large"),
        ),
        pairs=_PAIR56,
    ),
    Study(
        "sphere",
        "What does each part of the sphere do? One change at a time.",
        base="base.flags",
        rows={"skd": _SKD}
        | _files(
            "rows/sphere",
            *("label_on_raw", "not_centered", "teacher_mean", "teacher_sample", "radius_1", "radius_3", "radius_4"),
            *("stepwise_weight", "no_distillation"),
        ),
        pairs=_PAIR56,
        seeds=_THREE,
    ),
    Study(
        "pilot_schedule",
        "How much of SKD's lead depends on the learning-rate schedule?",
        base="base.flags",
        alone={f"none{end}": "rows/none.flags" for end in PILOT_SCHEDULES},
        rows={f"{row}{end}": path for row, path in (("kd", _KD), ("skd", _SKD)) for end in PILOT_SCHEDULES}
        | _files("rows/sphere", "not_centered"),
        pairs=_PAIR56,
        further=dict.fromkeys((NO_PAIR, "resnet56"), ("--learning_rate=0.1", "--warmup_epochs=0"))
        | {
            (f"{row}{end}", NO_PAIR if row == "none" else "resnet56"): changes
            for row in ("none", "kd", "skd")
            for end, changes in PILOT_SCHEDULES.items()
        },
    ),
    _at_rates(
        "cifar100_rates",
        "Which learning rate is best over 12 epochs on CIFAR-100, for each method?",
        "base_cifar100.flags",
        "rows/cifar100/none.flags",
        _CIFAR100_ROWS,
        _PAIR100,
    ),
    Study(
        "cifar100",
        "How do the methods compare on CIFAR-100, at matched weights and at their authors'?",
        base="base_cifar100.flags",
        alone=_files("rows/cifar100", "none"),
        rows=_CIFAR100_ROWS,
        pairs=_PAIR100,
        seeds=_THREE,
    ),
    Study(
        "cifar100_temperature",
        "Does another temperature close the gap between KD and SKD on CIFAR-100?",
        base="base_cifar100.flags",
        rows={row: _CIFAR100_ROWS[method] for row, (method, _, _) in _CIFAR100_TEMPERATURES.items()},
        pairs=_PAIR100,
        further={
            (row, "cifar100_resnet56"): (f"--temperature={t}", f"--learning_rate={rate:g}")
            for row, (_, t, rate) in _CIFAR100_TEMPERATURES.items()
        },
    ),
    Study(
        "top_logits",
        "What do students lose if the cache keeps only the teacher's largest logits?",
        base="base_short.flags",
        rows={row: _CIFAR100_ROWS[method] for row, (method, _) in _TOP_ROWS.items()},
        pairs=_PAIR100,
        further={"cifar100_resnet56": ("--dataset=cifar100", "--precision=float32", "--teacher_precision=float32")}
        | {(row, "cifar100_resnet56"): (f"--teacher_cache_top={k}",) for row, (_, k) in _TOP_ROWS.items() if k},
        seeds=_THREE,
    ),
    Study(
        "training",
        "What do augmentation, a second teacher, features, other losses and AdamW add?",
        base="base_cifar100.flags",
        rows=dict.fromkeys(_TRAINING, "rows/cifar100/skd.flags") | _files("rows/training", "rld", "wttm"),
        pairs=_PAIR100,
        further={"cifar100_resnet56": _FLOAT32}
        | {(row, "cifar100_resnet56"): changes for row, changes in _TRAINING.items()},
        seeds=_THREE,
        seeds_of={(row, "cifar100_resnet56"): (0,) for row in ("adamw_slower", "adamw_fastest")},
    ),
    _in_float32(
        "adamw",
        "How much of SKD's lead is left with AdamW, over 12 epochs on CIFAR-100?",
        {f"{m}_{rate:g}": (m, _adamw(rate)) for m in ("none", "kd", "skd") for rate in ADAMW_RATES},
        three_seeds=("none_0.032", "kd_0.032", "skd_0.032"),
    ),
    _in_float32(
        "budget",
        "Where does SKD's lead go in longer training? A small student on CIFAR-100.",
        {f"{m}_{epochs}": (m, (f"--epochs={epochs}",)) for m, epochs in _BUDGETED},
        three_seeds=[f"{m}_{epochs}" for m, epochs in _BUDGETED if epochs < 60],
    ),
    Study(
        "anchor",
        "The field's protocol once, resnet56 -> resnet20 on CIFAR-100: does KD reach the published 70.66%?",
        folder="skd_tf/recipes/cifar100",
        rows=_files("methods", "kd", "skd"),
        pairs={"resnet56_resnet20": "resnet56_resnet20.flags"},
        further={
            "resnet56_resnet20": (
                "--teacher_flagfile=",
                "--teacher_checkpoint=teachers/cifar100_resnet56.keras",
                *_BFLOAT16,
                "--noreport",
                "--calibrate=none",
            )
        },
    ),
    Study(
        "cifar100_full",
        "The field's protocol on CIFAR-100: ten pairs, 240 epochs, authors' weights. For GPUs.",
        folder="skd_tf/recipes/cifar100",
        rows={"none": "methods/cross_entropy.flags"}
        | _files("methods", "kd", "skd", "logit_standardization", "dkd", "dist"),
        pairs={pair: f"{pair}.flags" for pair, _, _ in _CIFAR100_FULL},
        further={pair: _taught_by(f"cifar100_full_{teacher}") for pair, teacher, _ in _CIFAR100_FULL}
        | {("dkd", pair): (f"--loss_settings=alpha=1, beta={beta}",) for pair, _, beta in _CIFAR100_FULL if beta != 8},
        seeds=_THREE,
        teachers={f"cifar100_full_{teacher}": f"teachers/{teacher}.flags" for teacher in _CIFAR100_PAIRS},
    ),
    Study(
        "imagenet",
        "The paper's table: ResNet18 from teachers of growing size on ImageNet, 100 epochs. For GPUs.",
        folder="skd_tf/recipes/imagenet",
        rows=_files("methods", "none", "kd", "skd"),
        pairs={f"{teacher}_resnet18": f"{teacher}_resnet18.flags" for teacher in _IMAGENET_TEACHERS},
        further={
            f"{teacher}_resnet18": (f"--teacher_checkpoint=teachers/imagenet_{teacher}.keras",)
            for teacher in _IMAGENET_TEACHERS
        },
    ),
)
STUDIES = {study.name: study for study in _ALL}
