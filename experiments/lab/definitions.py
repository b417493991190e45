"""The studies: which students are trained to answer which question, as one literal table."""

from experiments.lab.cells import NO_PAIR, RESULTS, ROOT, Cell, Study, cells, config_of

__all__ = ["NO_PAIR", "RESULTS", "ROOT", "STUDIES", "Cell", "Study", "cells", "config_of"]


def _taught_by(teacher):
    """Flags of a pair whose teacher is trained, or converted, before; its logits serve all methods and seeds."""
    return f"--teacher_checkpoint=teachers/{teacher}", "--teacher_cache_dir=runs/studies/teacher_cache"


RATES = (0.1, 0.2, 0.4)


def _at_rates(name, question, base, alone, rows, pair):
    """A study of every row at every rate, "kd_0.1" being "kd" at 0.1; a row that ends in "_half" has kd weight 0.5."""

    def tried(row):
        weight = ("--kd_weight=0.5",) if row.endswith("_half") else ()
        return {f"{row}_{rate:g}": (*weight, f"--learning_rate={rate:g}") for rate in RATES}

    return Study(
        name,
        question,
        base=base,
        alone={f"none_{rate:g}": alone for rate in RATES},
        rows={tried_row: path for row, path in rows.items() for tried_row in tried(row)},
        pairs={pair: f"pairs/{pair}.flags"},
        further={(tried_row, NO_PAIR): flags for tried_row, flags in tried("none").items()}
        | {(tried_row, pair): flags for row in rows for tried_row, flags in tried(row).items()},
    )


_RATED_ROWS = {
    "kd": "rows/kd.flags",
    "kd_half": "rows/kd.flags",
    "skd": "rows/skd.flags",
    "skd_half": "rows/skd.flags",
    "skd_teacher_mean": "rows/sphere/teacher_mean.flags",
    "no_distillation": "rows/sphere/no_distillation.flags",
}
TEMPERATURES = (1, 2, 4, 8, 16)
BY_TEMPERATURE = ("kd", "skd", "skd_teacher_mean")
_ENDS = ("resnet20", "resnet56")  # the smallest and the largest teacher
_THREE, _FIVE = (0, 1, 2), (0, 1, 2, 3, 4)
_CIFAR100_ROWS = {
    row: f"rows/cifar100/{row}.flags"
    for row in (
        "kd",
        "skd",
        "logit_standardization",
        "logit_standardization_authors",
        "dkd",
        "dkd_authors",
        "dist",
        "dist_authors",
    )
}
# KD's temperatures and SKD's with about the same R / T, 20 to 2.5: there R is 20, the teacher's mean norm 37.
EQUAL_HARDNESS = ((2, 1), (4, 2), (8, 4), (16, 8))
HARDNESS_RATES = (0.2, 0.4)  # KD's own at T = 4, and SKD's
_HARDNESS_CELLS = {
    f"{method}_t{t}_{rate:g}": (method, t, rate)
    for pair in EQUAL_HARDNESS
    for method, t in zip(("kd", "skd"), pair, strict=True)
    for rate in HARDNESS_RATES
}
PILOT_SCHEDULES = {  # step by step, from a rate of 0.1 without a warm-up
    "": (),
    "_linear": ("--lr_schedule=linear",),
    "_linear_all": ("--lr_schedule=linear", "--validation_fraction=0"),
    "_linear_all_warm": ("--lr_schedule=linear", "--validation_fraction=0", "--warmup_epochs=0.6"),
}
CIFAR100_TEACHERS = {  # of the ten pairs of the field's tables
    "resnet56_resnet20": "resnet56",
    "resnet110_resnet32": "resnet110",
    "resnet32x4_resnet8x4": "resnet32x4",
    "wrn_40_2_wrn_16_2": "wrn_40_2",
    "wrn_40_2_wrn_40_1": "wrn_40_2",
    "vgg13_vgg8": "vgg13",
    "vgg13_mobilenet_v2": "vgg13",
    "cifar_resnet50_mobilenet_v2": "cifar_resnet50",
    "resnet32x4_shufflenet_v1": "resnet32x4",
    "resnet32x4_shufflenet_v2": "resnet32x4",
}
_DKD_BETAS = {  # its authors'; elsewhere the 8 of methods/dkd.flags
    "resnet56_resnet20": 2,
    "resnet110_resnet32": 2,
    "vgg13_vgg8": 6,
    "wrn_40_2_wrn_16_2": 6,
    "wrn_40_2_wrn_40_1": 6,
}
_IMAGENET_TEACHERS = ("resnet34", "resnet50", "resnet101", "resnet152")

STUDIES = {
    study.name: study
    for study in (
        Study(
            "capacity_gap",
            "Does a student lose by a larger teacher under KD, and gain under SKD?",
            base="base.flags",
            alone={"none": "rows/none.flags"},
            rows={"kd": "rows/kd.flags", "skd": "rows/skd.flags"},
            pairs={
                "resnet20": "pairs/resnet20.flags",
                "resnet32": "pairs/resnet32.flags",
                "resnet44": "pairs/resnet44.flags",
                "resnet56": "pairs/resnet56.flags",
            },
            seeds=_THREE,
            seeds_of={("none", NO_PAIR): _FIVE} | {(row, pair): _FIVE for row in ("kd", "skd") for pair in _ENDS},
            meant_epochs=15,
        ),
        _at_rates(
            "rates",
            "Which learning rate is best over 12 epochs, by held-out images?",
            base="base.flags",
            alone="rows/none.flags",
            rows=_RATED_ROWS,
            pair="resnet56",
        ),
        Study(
            "precision",
            "Do bfloat16 and cached logits cost accuracy?",
            base="base_short.flags",
            rows={
                "float32_live": "rows/precision/float32_live.flags",
                "bfloat16_live": "rows/precision/bfloat16_live.flags",
                "bfloat16_cached": "rows/precision/bfloat16_cached.flags",
            },
            pairs={"resnet20": "pairs/resnet20.flags"},
            seeds=_THREE,
        ),
        Study(
            "precision_long",
            "The same as the studies train: over twice as many epochs, at SKD's own rate.",
            base="base.flags",
            rows={"float32_live": "rows/precision_long/float32_live.flags", "bfloat16_cached": "rows/skd.flags"},
            pairs={"resnet20": "pairs/resnet20.flags"},
            seeds=_THREE,
        ),
        Study(
            "temperature",
            "How much does the accuracy depend on the temperature, at either radius?",
            base="base.flags",
            rows={
                f"{method}_t{t}": f"rows/temperature/{method}_t{t}.flags"
                for method in BY_TEMPERATURE
                for t in TEMPERATURES
            },
            pairs={"resnet56": "pairs/resnet56.flags"},
            seeds=(0,),
            seeds_of={(f"{method}_t{t}", "resnet56"): _THREE for method in BY_TEMPERATURE for t in (1, 4, 16)},
            drawn_from=("capacity_gap", "sphere"),  # the student alone, other radii
            meant_epochs=15,
        ),
        Study(
            "radius",
            "Why does the radius matter as much as the method? At the teacher's mean norm, one change at a time.",
            base="base.flags",
            rows={
                "default": "rows/skd.flags",
                "label_on_large": "rows/radius/label_on_large.flags",
                "t4": "rows/sphere/teacher_mean.flags",
                "t4_not_centered": "rows/radius/t4_not_centered.flags",
                "t4_label_on_default": "rows/radius/t4_label_on_default.flags",
                "t4_no_label": "rows/radius/t4_no_label.flags",
                "t4_scaled": "rows/radius/t4_scaled.flags",
                "t4_rate_0.1": "rows/radius/t4_rate_0.1.flags",
                "t4_rate_0.05": "rows/radius/t4_rate_0.05.flags",
                "t1": "rows/radius/t1.flags",
                "t1_scaled": "rows/radius/t1_scaled.flags",
                "t1_rate_0.1": "rows/radius/t1_rate_0.1.flags",
                "t1_rate_0.05": "rows/radius/t1_rate_0.05.flags",
                "no_teacher": "rows/sphere/no_distillation.flags",
                "no_teacher_large": "rows/radius/no_teacher_large.flags",
            },
            against={
                "label_on_large": "default",
                **dict.fromkeys(
                    (
                        "t4_not_centered",
                        "t4_label_on_default",
                        "t4_no_label",
                        "t4_scaled",
                        "t4_rate_0.1",
                        "t4_rate_0.05",
                    ),
                    "t4",
                ),
                **dict.fromkeys(("t1_scaled", "t1_rate_0.1", "t1_rate_0.05"), "t1"),
                "no_teacher_large": "no_teacher",
            },
            pairs={"resnet56": "pairs/resnet56.flags"},
        ),
        Study(
            "sphere",
            "What does each part of the sphere do? One change at a time.",
            base="base.flags",
            rows={
                "skd": "rows/skd.flags",
                "label_on_raw": "rows/sphere/label_on_raw.flags",
                "not_centered": "rows/sphere/not_centered.flags",
                "teacher_mean": "rows/sphere/teacher_mean.flags",
                "teacher_sample": "rows/sphere/teacher_sample.flags",
                "radius_1": "rows/sphere/radius_1.flags",
                "radius_3": "rows/sphere/radius_3.flags",
                "radius_4": "rows/sphere/radius_4.flags",
                "stepwise_weight": "rows/sphere/stepwise_weight.flags",
                "no_distillation": "rows/sphere/no_distillation.flags",
            },
            pairs={"resnet56": "pairs/resnet56.flags"},
            seeds=_THREE,
            drawn_from=("capacity_gap",),  # the student alone
            meant_epochs=15,
        ),
        Study(
            "pilot_schedule",
            "Is the pilot's higher accuracy one of its schedule, or of more images?",
            base="base.flags",
            alone={f"none{end}": "rows/none.flags" for end in PILOT_SCHEDULES},
            rows={
                **{f"kd{end}": "rows/kd.flags" for end in PILOT_SCHEDULES},
                **{f"skd{end}": "rows/skd.flags" for end in PILOT_SCHEDULES},
                "not_centered": "rows/sphere/not_centered.flags",
            },
            pairs={"resnet56": "pairs/resnet56.flags"},
            further=dict.fromkeys((NO_PAIR, "resnet56"), ("--learning_rate=0.1", "--warmup_epochs=0"))
            | {
                (f"{row}{end}", NO_PAIR if row == "none" else "resnet56"): changes
                for row in ("none", "kd", "skd")
                for end, changes in PILOT_SCHEDULES.items()
            },
            drawn_from=("capacity_gap", "rates", "sphere"),  # the other schedules
        ),
        Study(
            "calibration",
            "How far are confidence and accuracy apart, on the sphere and in the raw softmax?",
            drawn_from=("capacity_gap", "temperature", "sphere"),
        ),
        _at_rates(
            "cifar100_rates",
            "The same on CIFAR-100, for each of its methods.",
            base="base_cifar100.flags",
            alone="rows/cifar100/none.flags",
            rows=_CIFAR100_ROWS,
            pair="cifar100_resnet56",
        ),
        Study(
            "cifar100",
            "How do the methods compare on CIFAR-100, at matched weights and at their authors'?",
            base="base_cifar100.flags",
            alone={"none": "rows/cifar100/none.flags"},
            rows=_CIFAR100_ROWS,
            pairs={"cifar100_resnet56": "pairs/cifar100_resnet56.flags"},
            seeds=_THREE,
            meant_epochs=15,
        ),
        Study(
            "cifar100_temperature",
            "Is SKD's lead on CIFAR-100 one of softer targets? Both methods at equal R / T.",
            base="base_cifar100.flags",
            rows={row: _CIFAR100_ROWS[method] for row, (method, _, _) in _HARDNESS_CELLS.items()},
            pairs={"cifar100_resnet56": "pairs/cifar100_resnet56.flags"},
            further={
                (row, "cifar100_resnet56"): (f"--temperature={t}", f"--learning_rate={rate:g}")
                for row, (_, t, rate) in _HARDNESS_CELLS.items()
            },
        ),
        Study(
            "cifar100_full",
            "The same by the field's protocol, 240 epochs, at the authors' weights. For GPUs.",
            folder="experiments/cifar100",
            rows={
                "none": "methods/cross_entropy.flags",
                "kd": "methods/kd.flags",
                "skd": "methods/skd.flags",
                "logit_standardization": "methods/logit_standardization.flags",
                "dkd": "methods/dkd.flags",
                "dist": "methods/dist.flags",
            },
            pairs={pair: f"{pair}.flags" for pair in CIFAR100_TEACHERS},
            further={pair: _taught_by(f"cifar100_full_{teacher}") for pair, teacher in CIFAR100_TEACHERS.items()}
            | {("dkd", pair): (f"--loss_settings=alpha=1, beta={beta}",) for pair, beta in _DKD_BETAS.items()},
            seeds=_THREE,
            teachers={
                f"cifar100_full_{teacher}": f"teachers/{teacher}.flags" for teacher in CIFAR100_TEACHERS.values()
            },
        ),
        Study(
            "imagenet",
            "The paper's own table: ResNet18 from teachers of growing size on ImageNet, 100 epochs. For GPUs.",
            folder="experiments/imagenet",
            rows={"none": "methods/none.flags", "kd": "methods/kd.flags", "skd": "methods/skd.flags"},
            pairs={f"{teacher}_resnet18": f"{teacher}_resnet18.flags" for teacher in _IMAGENET_TEACHERS},
            further={
                f"{teacher}_resnet18": (f"--teacher_checkpoint=teachers/imagenet_{teacher}.keras",)
                for teacher in _IMAGENET_TEACHERS
            },
        ),
    )
}
