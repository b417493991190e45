"""Runs that differ in nothing but their seed are one method: its means, and how far methods are apart over seeds."""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from skd_tf.config.config import FIELDS
from skd_tf.config.fields import effect_of
from skd_tf.errors import as_text, counted
from skd_tf.runs import run_files, verdict
from skd_tf.runs.columns import columns
from skd_tf.runs.report.run_data import Run
from skd_tf.runs.report.tables import Cell, Row, Table

_OWN = ("seed", "student_alone")  # a student alone, by its path, may be that of the same seed


class Method(NamedTuple):
    """Runs of several seeds, or a single run, with equal settings.

    Attributes:
      name: the folder that its runs share and no other does, or the settings in which methods differ.
      runs: {seed: run}, in the order of the seeds.
    """

    name: str
    runs: dict[int, Run]

    def values(self, measure: str, role: str = "student") -> dict[int, float]:
        """{seed: a measurement of a model} where it is recorded."""
        found = {seed: run.result.get(role, {}).get(measure) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, measure: str) -> float:
        """The mean over seeds; -inf if nothing is recorded."""
        return float(np.mean([*self.values(measure).values()])) if self.values(measure) else -math.inf


class Gain(NamedTuple):
    """How far one thing is above another over common seeds.

    Attributes:
      mean: of the differences.
      interval: the 95% interval of the mean of Student's t; None if there are fewer than two seeds, or no spread.
      seeds: how many.
    """

    mean: float
    interval: tuple[float, float] | None
    seeds: int

    @property
    def word(self) -> str:
        """ "ahead", "behind" or "level", as `skd_tf.runs.verdict` has it; "level" without an interval."""
        low, high = self.interval or (-math.inf, math.inf)
        return "ahead" if low > 0 else "behind" if high < 0 else "level"

    @property
    def undecided(self) -> bool:
        """Whether the seeds are too few to tell: there is no interval, or it holds 0 and is wider than 4 points."""
        return self.interval is None or verdict.undecided({"interval": self.interval})

    @property
    def text(self) -> str:
        """ "+1.2 points (95% interval -0.3 to +2.7, 3 seeds)"."""
        count = counted(self.seeds, "seed")
        if self.interval is None:
            return f"{100 * self.mean:+.1f} points ({'one common seed' if self.seeds == 1 else f'mean of {count}'})"
        low, high = self.interval
        return f"{100 * self.mean:+.1f} points (95% interval {100 * low:+.1f} to {100 * high:+.1f}, {count})"


def key(run: Run, runs: Sequence[Run]) -> tuple[tuple[tuple[str, str], ...], int]:
    """What two runs of one method and one seed have in common: (the settings of the method, the seed).

    A teacher that another of the `runs` has trained for itself counts as the run's own. Losses of one name are one method
    only if their code is the same.
    """
    config = {name: field.default for name, field in FIELDS.items()} | run.result["config"]
    if os.path.realpath(config["teacher_checkpoint"]) in {
        os.path.realpath(one.path / run_files.TEACHER) for one in runs
    }:
        config["teacher_checkpoint"] = ""
    found = {name: as_text(effect_of(field, config[name])) for name, field in FIELDS.items() if name not in _OWN}
    return (*found.items(), ("code of the loss", run.loss_code[:8])), config["seed"]


def methods(runs: Sequence[Run]) -> list[Method]:
    """The methods of some runs, in order; [] if none has several seeds. Of runs with one `key` the first counts."""
    found: dict[tuple, dict[int, Run]] = {}
    for run in runs:
        settings, seed = key(run, runs)
        found.setdefault(settings, {}).setdefault(seed, run)
    if all(len(by_seed) == 1 for by_seed in found.values()):
        return []
    names = _names([[*by_seed.values()] for by_seed in found.values()], [dict(settings) for settings in found])
    return [Method(name, dict(sorted(by_seed.items()))) for name, by_seed in zip(names, found.values(), strict=True)]


def _names(groups: list[list[Run]], settings: list[Mapping[str, str]]) -> list[str]:
    folders = [os.path.commonpath([run.path.resolve() for run in group]) for group in groups]
    short = [os.path.basename(folder) for folder in folders]
    nested = any(os.path.commonpath([one, other]) == one for one, other in itertools.permutations(folders, 2))
    if len({*short}) == len(groups) and not nested and all(len(group) > 1 for group in groups):
        return short
    differ = [name for name in settings[0] if len({one[name] for one in settings}) > 1]
    return [", ".join(f"{name} {one[name]}" if one[name] else f"no {name}" for name in differ) for one in settings]


def gain(first: Mapping[int, float], second: Mapping[int, float]) -> Gain | None:
    """How far the values of the first are above those of the second, in pairs of one seed; None without a common seed.

    Args:
      first, second: {seed: value}.

    Example:
      >>> found = gain({0: 0.52, 1: 0.54, 2: 0.53}, {0: 0.5, 1: 0.51, 2: 0.52, 3: 0.6})
      >>> found.text, found.word
      ('+2.0 points (95% interval -0.5 to +4.5, 3 seeds)', 'level')
    """
    differences = np.array([first[seed] - second[seed] for seed in first if seed in second])
    if not len(differences):
        return None
    mean, count = float(differences.mean()), len(differences)
    if np.ptp(differences) < 1e-12:  # a single one, or no spread that an interval could be made of
        return Gain(mean, None, count)
    half = student_t(count - 1) * float(differences.std(ddof=1)) / math.sqrt(count)
    return Gain(mean, (mean - half, mean + half), count)


def above_alone(method: Method, measure: str) -> Gain | None:
    """How far a method's students are above the student alone; None if that was not trained.

    Without an interval if seeds were compared with one and the same student alone: its own seed could be a lucky one.
    """
    found = gain(method.values(measure), method.values(measure, "student_alone"))
    where = [run.result["config"].get("student_alone", "none") for run in method.runs.values()]
    elsewhere = [path for path in where if path not in run_files.TRAINED]
    return found._replace(interval=None) if found and len({*elsewhere}) < len(elsewhere) else found


def common_mean(method: Method, found: Sequence[Method], measure: str) -> float:
    """A method's mean over the seeds that all methods `found` have, or over its own seeds if there is none."""
    common = set.intersection(*(set(one.values(measure)) for one in found))
    values = method.values(measure)
    return float(np.mean([values[seed] for seed in common])) if common else method.mean(measure)


def ranked(found: Sequence[Method], measure: str) -> list[Method]:
    """The methods, the best first, by `common_mean`.

    Those that another method is ahead of over the seeds of both come after the others.
    """

    def is_behind(method):
        gains = (gain(other.values(measure), method.values(measure)) for other in found if other is not method)
        return any(one is not None and one.word == "ahead" for one in gains)

    return sorted(found, key=lambda method: (is_behind(method), -common_mean(method, found, measure)))


def student_t(degrees: int) -> float:
    """The 0.975 quantile of Student's t.

    With t = sqrt(degrees) tan(a), the density of a is proportional to cos(a)^(degrees - 1) on (-pi / 2, pi / 2).

    Example:
      >>> [round(student_t(degrees), 3) for degrees in (1, 2, 9, 1000)]
      [12.706, 4.303, 2.262, 1.962]
    """
    angles = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angles) ** (degrees - 1)
    mass = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(degrees) * math.tan(np.interp(0.95, mass / mass[-1], angles))


class _Heading(NamedTuple):
    heading: str


def table(found: Sequence[Method], measure: str) -> Table:
    """The methods, the best mean first, each with the means of its students over seeds.

    Args:
      found: the methods.
      measure: that decides which is best: "accuracy" or "agreement".
    """
    ordered = ranked(found, measure)
    shown = [column for column in columns("accuracy", "nll", "ece", "agreement") if ordered[0].values(column.key)]
    best = ordered[0]
    alone = [above_alone(method, measure) for method in ordered]
    headings = [_Heading("seeds"), *shown]
    headings += [_Heading("minus alone, points")] * any(alone)
    headings += [_Heading(f"minus {best.name}, points")] * (len(ordered) > 1)
    rows = []
    for method, above in zip(ordered, alone, strict=True):
        cells = [Cell(str(len(method.runs)), "", False), *(_mean(column, method) for column in shown)]
        cells += [_points(above)] * any(alone)
        cells += [_points(None if method is best else gain(method.values(measure), best.values(measure)))] * (
            len(ordered) > 1
        )
        rows.append(Row(method.name, "", method is best, cells))
    return Table(headings, rows)  # type: ignore[arg-type]  # only their headings are shown


def _mean(column: Any, method: Method) -> Cell:
    values = [*method.values(column.key).values()]
    if not values:
        return Cell("", "", False)
    spread = f"± {column.format.format(np.std(values, ddof=1))}" if len(values) > 1 else ""
    return Cell(column.format.format(np.mean(values)), spread, False)


def _points(found: Gain | None) -> Cell:
    if found is None:
        return Cell("", "", False)
    ends = " to ".join(f"{100 * end:+.1f}" for end in found.interval) if found.interval else ""
    return Cell(f"{100 * found.mean:+.1f}", ends, False)
