"""Studies and their cells. A cell is one training: the flagfiles of base, pair and row, then --seed. No TensorFlow."""

import contextlib
import dataclasses
import functools
import pathlib

from absl import flags

from skd_tf.config import Config
from skd_tf.config.flags import config_from, define_flags, parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = "experiments/results"
NO_PAIR = "none"  # where a row has no teacher, and so serves all pairs with the same student


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and the trainings that answer it.

    Attributes:
      name: names the study on the command line and its folder of records.
      question: one line.
      folder: where its flagfiles are.
      base: the flagfile that all cells share; "" where the pairs include it.
      rows: {name: flagfile} of the methods or settings to compare; each is trained with every pair.
      alone: {name: flagfile} of rows without a teacher.
      pairs: {name: flagfile} of teacher and student.
      further: {pair, or (row, pair): flags} that follow the flagfiles.
      seeds: the seeds of every cell.
      seeds_of: {(row, pair): seeds} where they differ.
      teachers: {name: flagfile} of teachers to train first, into <teachers_dir>/<name>.
    """

    name: str
    question: str
    folder: str = "experiments/studies"
    base: str = ""
    rows: dict = dataclasses.field(default_factory=dict)
    alone: dict = dataclasses.field(default_factory=dict)
    pairs: dict = dataclasses.field(default_factory=dict)
    further: dict = dataclasses.field(default_factory=dict)
    seeds: tuple = (0,)
    seeds_of: dict = dataclasses.field(default_factory=dict)
    teachers: dict = dataclasses.field(default_factory=dict)

    def file(self, path: str) -> str:
        """A flagfile's path from the repository's root."""
        return str(pathlib.PurePosixPath(self.folder, path))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of a study."""

    study: str
    pair: str
    row: str
    seed: int
    flagfiles: tuple
    further: tuple = ()
    is_teacher: bool = False

    @property
    def path(self) -> str:
        """The path of its record under the results, without the suffix."""
        return f"{self.study}/{self.pair}/{self.row}/seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The arguments of `python -m skd_tf.train`, without folders."""
        return [*(f"--flagfile={file}" for file in self.flagfiles), *self.further, f"--seed={self.seed}"]


def cells(*studies: Study) -> list[Cell]:
    """The cells of studies, teachers first, then seed by seed, so that a stopped study leaves balanced tables."""
    found = []
    for study in studies:
        found += [
            Cell(study.name, NO_PAIR, name, 0, (study.file(path),), is_teacher=True)
            for name, path in study.teachers.items()
        ]
        base = (study.file(study.base),) if study.base else ()
        trained: list[tuple] = [(NO_PAIR, (), row, path) for row, path in study.alone.items()]
        trained += [
            (p, (study.file(f),), row, path) for p, f in study.pairs.items() for row, path in study.rows.items()
        ]
        for pair, pair_files, row, path in trained:
            files = (*base, *pair_files, study.file(path))
            further = (*study.further.get(pair, ()), *study.further.get((row, pair), ()))
            seeds = study.seeds_of.get((row, pair), study.seeds)
            found += [Cell(study.name, pair, row, seed, files, further) for seed in seeds]
    return sorted(found, key=lambda cell: (not cell.is_teacher, cell.seed))


@functools.cache
def config_of(cell: Cell) -> Config:
    """The Config that a cell's flagfiles and seed give; InputError for a bad flagfile."""
    return _resolved(cell.flagfiles, cell.further).replace(seed=cell.seed)


@functools.cache
def _resolved(flagfiles, further):
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    with contextlib.chdir(ROOT):  # included flagfiles are named from there
        parse([*(f"--flagfile={file}" for file in flagfiles), *further], flag_values)
    return config_from(flag_values)
