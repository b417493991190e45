"""The studies: which students are trained to answer which question, as one literal table.

A cell is one training: base + pair + row + --seed, flagfiles all; a row that needs no teacher is trained once for all pairs.
Nothing here imports TensorFlow.
"""

import contextlib
import dataclasses
import functools
import pathlib

from absl import flags

from skd_tf import cli

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = "experiments/studies"
RESULTS = "experiments/results"
NO_PAIR = "none"


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and the trainings that answer it.

    Attributes:
      name: its command, its folder of records, its marker in a page.
      question: one line.
      base: flagfile of what all cells share.
      rows: {name: flagfile}, the methods or settings that are compared; trained with every pair.
      alone: {name: flagfile}, rows without a teacher.
      pairs: {name: flagfile}, who teaches whom.
      seeds: of every cell.
      seeds_of: {(row, pair): seeds} where it is others.
      teachers: {name: flagfile} of teachers that are trained first, into <teachers_dir>/<name>.
      drawn_from: studies whose records its table or figure reads beside its own, if it has any.
    """

    name: str
    question: str
    base: str = ""
    rows: dict = dataclasses.field(default_factory=dict)
    alone: dict = dataclasses.field(default_factory=dict)
    pairs: dict = dataclasses.field(default_factory=dict)
    seeds: tuple = (0,)
    seeds_of: dict = dataclasses.field(default_factory=dict)
    teachers: dict = dataclasses.field(default_factory=dict)
    drawn_from: tuple = ()

    def seeds_for(self, row, pair):
        return self.seeds_of.get((row, pair), self.seeds)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of a study."""

    study: str
    pair: str
    row: str
    seed: int
    flagfiles: tuple
    is_teacher: bool = False

    @property
    def path(self):
        """Where its record lies under the results, without the suffix."""
        return f"{self.study}/{self.pair}/{self.row}/seed{self.seed}"

    @property
    def arguments(self):
        """What `python -m skd_tf.train` is given, without the places; flagfiles as seen from the repository's root."""
        return [*(f"--flagfile={file}" for file in self.flagfiles), f"--seed={self.seed}"]


def cells(*chosen):
    """The cells of studies, teachers first, then seed by seed: what is finished at any moment is balanced tables."""
    found = []
    for study in chosen:
        found += [Cell(study.name, NO_PAIR, name, 0, (_file(path),), True) for name, path in study.teachers.items()]
        found += [Cell(study.name, NO_PAIR, row, seed, (_file(study.base), _file(path)))
                  for row, path in study.alone.items() for seed in study.seeds_for(row, NO_PAIR)]  # fmt: skip
        for pair, pair_path in study.pairs.items():
            for row, path in study.rows.items():
                files = _file(study.base), _file(pair_path), _file(path)
                found += [Cell(study.name, pair, row, seed, files) for seed in study.seeds_for(row, pair)]
    return sorted(found, key=lambda cell: (not cell.is_teacher, cell.seed))


def config_of(cell):
    """The Config that a cell's flagfiles and seed resolve to, without TensorFlow; InputError for a bad one."""
    return _resolved(cell.flagfiles).replace(seed=cell.seed)


@functools.cache
def _resolved(flagfiles):
    flag_values = flags.FlagValues()
    cli.define_flags(flag_values)
    with contextlib.chdir(ROOT):  # where includes are read from
        cli.parse([f"--flagfile={file}" for file in flagfiles], flag_values)
    return cli.config_from(flag_values)


def _file(path):
    return str(pathlib.PurePosixPath(FOLDER, path))


TEMPERATURES = (1, 2, 4, 8, 16)
BY_TEMPERATURE = ("kd", "skd", "skd_teacher_mean")
_ENDS = ("resnet20", "resnet56")  # the smallest and the largest teacher
_THREE, _FIVE = (0, 1, 2), (0, 1, 2, 3, 4)

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
                f"{method}_t{t}": f"rows/temperature/{method}_t{t}.flags" for method in BY_TEMPERATURE for t in TEMPERATURES
            },
            pairs={"resnet56": "pairs/resnet56.flags"},
            seeds=(0,),
            seeds_of={(f"{method}_t{t}", "resnet56"): _THREE for method in BY_TEMPERATURE for t in (1, 4, 16)},
            drawn_from=("capacity_gap", "sphere"),  # the student alone, other radii
        ),
        Study(
            "radius",
            "Why does the radius matter as much as the method? At the teacher's mean norm, one change at a time.",
            base="base.flags",
            rows={
                "t1": "rows/temperature/skd_teacher_mean_t1.flags",
                "t1_rate_0.1": "rows/radius/t1_rate_0.1.flags",
                "t1_rate_0.05": "rows/radius/t1_rate_0.05.flags",
                "t1_no_label": "rows/radius/t1_no_label.flags",
                "t1_label_on_default": "rows/radius/t1_label_on_default.flags",
                "t4": "rows/temperature/skd_teacher_mean_t4.flags",
                "t4_rate_0.1": "rows/radius/t4_rate_0.1.flags",
            },
            pairs={"resnet56": "pairs/resnet56.flags"},
            drawn_from=("temperature",),  # the default radius
        ),
        Study(
            "sphere",
            "What does each part of the sphere do? One change at a time.",
            base="base.flags",
            rows={
                "skd": "rows/skd.flags",
                "label_on_raw": "rows/sphere/label_on_raw.flags",
                "not_centered": "rows/sphere/not_centered.flags",
                "teacher_mean": "rows/skd_teacher_mean.flags",
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
        ),
        Study(
            "calibration",
            "How far are confidence and accuracy apart, on the sphere and in the raw softmax?",
            drawn_from=("capacity_gap", "sphere"),
        ),
        Study(
            "cifar100",
            "How do the methods compare on CIFAR-100, at matched weights and at their authors'?",
            base="base_cifar100.flags",
            alone={"none": "rows/cifar100/none.flags"},
            rows={
                "kd": "rows/cifar100/kd.flags",
                "skd": "rows/cifar100/skd.flags",
                "logit_standardization": "rows/cifar100/logit_standardization.flags",
                "logit_standardization_authors": "rows/cifar100/logit_standardization_authors.flags",
                "dkd": "rows/cifar100/dkd.flags",
                "dkd_authors": "rows/cifar100/dkd_authors.flags",
                "dist": "rows/cifar100/dist.flags",
                "dist_authors": "rows/cifar100/dist_authors.flags",
            },
            pairs={"cifar100_resnet32": "pairs/cifar100_resnet32.flags"},
            seeds=_THREE,
            teachers={"cifar100_resnet32": "teachers/cifar100_resnet32.flags"},
        ),
    )
}
