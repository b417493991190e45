"""A study and its cells: what is trained, by which flagfiles, in which order.

A cell is one training: base + pair + row + --seed, the first three flagfiles; a row that needs no teacher is trained once
for all pairs with the same student. Nothing here imports TensorFlow.
"""

import contextlib
import dataclasses
import functools
import pathlib

from absl import flags

from skd_tf.config.flags import config_from, define_flags, parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = "experiments/results"
NO_PAIR = "none"


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and the trainings that answer it.

    Attributes:
      name: its command, its folder of records, its marker in a page.
      question: one line.
      folder: of its flagfiles.
      base: flagfile of what all cells share; "" where the pairs include it.
      rows: {name: flagfile}, the methods or settings that are compared; trained with every pair.
      against: {row: the row that it changes}, where a table compares with another than the first.
      alone: {name: flagfile}, rows without a teacher or a pair.
      pairs: {name: flagfile}, who teaches whom.
      further: {pair, or (row, pair): flags} that follow the flagfiles.
      seeds: of every cell.
      seeds_of: {(row, pair): seeds} where it is others.
      teachers: {name: flagfile} of teachers that are trained first, into <teachers_dir>/<name>.
      drawn_from: studies whose records its table or figure reads beside its own, if it has any.
      meant_epochs: where its trainings were cut, for all alike: how long they were meant to be.
    """

    name: str
    question: str
    folder: str = "experiments/studies"
    base: str = ""
    rows: dict = dataclasses.field(default_factory=dict)
    against: dict = dataclasses.field(default_factory=dict)
    alone: dict = dataclasses.field(default_factory=dict)
    pairs: dict = dataclasses.field(default_factory=dict)
    further: dict = dataclasses.field(default_factory=dict)
    seeds: tuple = (0,)
    seeds_of: dict = dataclasses.field(default_factory=dict)
    teachers: dict = dataclasses.field(default_factory=dict)
    drawn_from: tuple = ()
    meant_epochs: int | None = None

    def seeds_for(self, row, pair):
        return self.seeds_of.get((row, pair), self.seeds)

    def further_for(self, row, pair):
        return tuple(self.further.get(pair, ())) + tuple(self.further.get((row, pair), ()))

    def file(self, path):
        """A flagfile of its as seen from the repository's root."""
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
    def path(self):
        """Where its record lies under the results, without the suffix."""
        return f"{self.study}/{self.pair}/{self.row}/seed{self.seed}"

    @property
    def arguments(self):
        """What `python -m skd_tf.train` is given, without the places; flagfiles as seen from the repository's root."""
        return [*(f"--flagfile={file}" for file in self.flagfiles), *self.further, f"--seed={self.seed}"]


def cells(*chosen):
    """The cells of studies, teachers first, then seed by seed: what is finished at any moment is balanced tables."""
    found = []
    for study in chosen:
        for name, path in study.teachers.items():
            found.append(Cell(study.name, NO_PAIR, name, 0, (study.file(path),), is_teacher=True))
        base = (study.file(study.base),) if study.base else ()
        trained = [(NO_PAIR, (), row, path) for row, path in study.alone.items()]
        trained += [
            (pair, (study.file(pair_path),), row, path)
            for pair, pair_path in study.pairs.items()
            for row, path in study.rows.items()
        ]
        for pair, pair_files, row, path in trained:
            files, further = (*base, *pair_files, study.file(path)), study.further_for(row, pair)
            found += [Cell(study.name, pair, row, seed, files, further) for seed in study.seeds_for(row, pair)]
    return sorted(found, key=lambda cell: (not cell.is_teacher, cell.seed))


def config_of(cell):
    """The Config that a cell's flagfiles and seed resolve to, without TensorFlow; InputError for a bad one."""
    return _resolved(cell.flagfiles, cell.further).replace(seed=cell.seed)


@functools.cache
def _resolved(flagfiles, further):
    flag_values = flags.FlagValues()
    define_flags(flag_values)
    with contextlib.chdir(ROOT):  # where includes are read from
        parse([*(f"--flagfile={file}" for file in flagfiles), *further], flag_values)
    return config_from(flag_values)
