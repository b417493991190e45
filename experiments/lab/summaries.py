"""One summariser over records: entries by seed, their means, and their differences on test and held-out images.

An entry is a set of runs that differ in the seed alone, named "study/pair/row". Accuracies are printed in percent.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import statistics

from experiments.lab import definitions
from experiments.lab.jax.train_students import name_of
from experiments.lab.records import training_seconds
from experiments.lab.statistics import Columns, Estimate, Pool, contrast, pool

NOT_RUN = "not run"
TEST, HELD_OUT = "test", "held-out"
OWN_BEST = "own best rate"
Runs = dict[str, dict[int, dict]]  # {"study/pair/row": {seed: record}}

MEASURES = {  # of a record: its value, and how it is printed
    TEST: (lambda r: 100 * r["student"]["accuracy"], "{:.2f}"),
    HELD_OUT: (lambda r: 100 * r["by_epoch"]["val_accuracy"][-1], "{:.2f}"),
    "NLL": (lambda r: r["student"]["nll"], "{:.3f}"),
    "ECE": (lambda r: r["student"]["ece"], "{:.3f}"),
    "NLL, raw logits": (lambda r: r["raw_softmax"]["nll"], "{:.3f}"),
    "ECE, raw logits": (lambda r: r["raw_softmax"]["ece"], "{:.3f}"),
    "NLL, fitted": (lambda r: r["calibrated"]["nll"], "{:.3f}"),
    "ECE, fitted": (lambda r: r["calibrated"]["ece"], "{:.3f}"),
    "fitted temperature": (lambda r: r["calibrated"]["temperature"], "{:.2f}"),
    "rate": (lambda r: r["config"]["learning_rate"], "{:g}"),
    "R": (lambda r: r["radius"], "{:.1f}"),
    "logit norm": (lambda r: r["student"]["logit_norm"], "{:.1f}"),
    "minutes": (lambda r: training_seconds(r) / 60, "{:.1f}"),
    "CPU minutes": (lambda r: r["cpu_seconds"] / 60, "{:.1f}"),
}


def column(runs: Runs, key: str, measure: str) -> dict[int, float]:
    """{seed: value} of an entry, without the records that lack the measure."""
    found = {}
    for seed, record in runs.get(key, {}).items():
        try:
            found[seed] = MEASURES[measure][0](record)
        except (KeyError, TypeError):  # not measured, or None on the way
            continue
    return {seed: value for seed, value in found.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Table:
    """One line an entry: accuracy on test and held-out images, the difference to another entry, more measures.

    Attributes:
      entries: {label: "study/pair/row"}.
      against: {label: the label to subtract}; with one common label the intervals are Dunnett's.
      measures: names in MEASURES, beside the accuracies.
      apart: labels whose spread differs from the others'; they are not pooled, and their intervals are Student's own.
      contrasts: {words: {label: weight}}, differences of several entries, printed below.
    """

    entries: dict
    against: dict = dataclasses.field(default_factory=dict)
    measures: tuple = ()
    apart: tuple = ()
    contrasts: dict = dataclasses.field(default_factory=dict)

    def columns(self, runs: Runs, measure: str) -> Columns:
        """{label: {seed: value}}."""
        return {label: column(runs, key, measure) for label, key in self.entries.items()}

    def pooled(self, columns: Columns) -> Pool | None:
        """The spread of one run, over all entries that are not apart."""
        return pool({label: values for label, values in columns.items() if label not in self.apart})

    def estimate(self, columns: Columns, weights: dict, comparisons: int = 1, shared: bool = True) -> Estimate | None:
        """A contrast with the pooled spread, or with its own where an entry is apart."""
        own = bool(set(weights) & set(self.apart))
        return contrast(columns, weights, None if own else self.pooled(columns), 1 if own else comparisons, shared)

    def difference(self, runs: Runs, measure: str, label: str, other: str) -> Estimate | None:
        """label - other in points; simultaneous if it is one of the pairs in `against` or its reverse, else alone."""
        pairs = [pair for pair in self.against.items() if not set(pair) & set(self.apart)]
        shared = len({other for _, other in pairs}) == 1
        together = len(pairs) if {(label, other), (other, label)} & set(pairs) else 1
        return self.estimate(self.columns(runs, measure), {label: 1, other: -1}, together, shared)

    def text(self, runs: Runs) -> str:
        """The table in Markdown, with a line about its intervals."""
        columns = {measure: self.columns(runs, measure) for measure in (TEST, HELD_OUT, *self.measures)}
        others = list(dict.fromkeys(self.against.values()))
        head = ["", f"{TEST}, %", f"{HELD_OUT}, %"] + ["minus"] * (len(others) > 1)
        minus = "difference" if len(others) > 1 else f"minus {''.join(others)}"
        head += [f"{minus}, {measure}" for measure in (TEST, HELD_OUT)] * bool(others) + [*self.measures]
        rows = []
        for label in self.entries:
            other = self.against.get(label, "")
            row = [label, *(mean_text(columns[measure][label]) for measure in (TEST, HELD_OUT))]
            row += [other] * (len(others) > 1)
            changes = [
                difference_text(self.difference(runs, m, label, other)) if other else "" for m in (TEST, HELD_OUT)
            ]
            row += changes * bool(others)
            means = [contrast(columns[measure], {label: 1}, None) for measure in self.measures]
            forms = [MEASURES[measure][1] for measure in self.measures]
            rows.append(row + ["-" if m is None else form.format(m.mean) for m, form in zip(means, forms, strict=True)])
        parts = [markdown(head, rows)]
        if self.contrasts:
            lines = []
            for words, weights in self.contrasts.items():
                found = (self.estimate(columns[measure], weights) for measure in (TEST, HELD_OUT))
                lines.append([words, *map(difference_text, found)])
            parts.append(markdown(["points", TEST, HELD_OUT], lines))
        pools = {measure: self.pooled(columns[measure]) for measure in (TEST, HELD_OUT)}
        if all(pools.values()) and (self.against or self.contrasts):
            parts.append(self._note(pools))
        return "\n\n".join(parts)

    def _note(self, pools):
        spreads = []
        for measure, found in pools.items():
            equal = "" if found.equal is None else f", Bartlett's p = {found.equal:.2f}"
            spreads.append(f"{found.spread:.2f} ({measure}, {found.degrees} degrees of freedom{equal})")
        together = sum(not set(pair) & set(self.apart) for pair in self.against.items())
        note = f"Spread of one run, pooled: {' and '.join(spreads)}. Differences in points with 95% intervals"
        note += f"; the first table's hold for all {together} at once." if together > 1 else "."
        if self.apart:
            note += " Entries at R = 22 spread more, so they are not pooled, and each has an interval of its own."
        return note


@dataclasses.dataclass(frozen=True)
class Grid:
    """Seed 0 in rows and columns, "test (held-out)"; a row's highest held-out accuracy is bold. Then differences of rows.

    Attributes:
      cells: {row: {column: "study/pair/row"}}.
      minus: (row, other row) to subtract in every column.
      own_best: whether a last column repeats what each row has in its bold column.
    """

    cells: dict
    minus: tuple = ()
    own_best: bool = False

    def value(self, runs: Runs, measure: str, row: str, name: str) -> float | None:
        """What seed 0 of a row has in a column, or None."""
        place = self.best(runs, row) if name == OWN_BEST else name
        return column(runs, self.cells[row].get(place, ""), measure).get(0)

    def best(self, runs: Runs, row: str) -> str | None:
        """The column with the highest held-out accuracy."""
        values = {name: self.value(runs, HELD_OUT, row, name) for name in self.cells[row]}
        found = {name: value for name, value in values.items() if value is not None}
        return max(found, key=lambda name: found[name], default=None)

    def difference(self, runs: Runs, measure: str, row: str, other: str, name: str) -> Estimate | None:
        """row - other in a column, in points, without an interval."""
        ours, theirs = (self.value(runs, measure, which, name) for which in (row, other))
        return None if ours is None or theirs is None else Estimate(ours - theirs, None, 1)

    def text(self, runs: Runs) -> str:
        """The grid in Markdown."""
        names = [*dict.fromkeys(name for row in self.cells.values() for name in row), *[OWN_BEST] * self.own_best]
        lines = [[row, *(self._cell(runs, row, name) for name in names)] for row in self.cells]
        for row, other in self.minus:
            line = [f"{row} - {other}"]
            for name in names:
                test, held_out = (self.difference(runs, measure, row, other, name) for measure in (TEST, HELD_OUT))
                beside = f" ({difference_text(held_out)})" if held_out else ""
                line.append(f"{difference_text(test)}{beside}" if test else "-")
            lines.append(line)
        return markdown(["test (held-out), %", *names], lines)

    def _cell(self, runs, row, name):
        if name != OWN_BEST and name not in self.cells[row]:
            return "-"
        test, held_out = (self.value(runs, measure, row, name) for measure in (TEST, HELD_OUT))
        text = NOT_RUN if test is None else f"{test:.2f}" + (f" ({held_out:.2f})" if held_out is not None else "")
        bold = "**" if test is not None and len(self.cells[row]) > 1 and name == self.best(runs, row) else ""
        return f"{bold}{text}{bold}"


def mean_text(values: dict[int, float]) -> str:
    """ "84.24 ± 0.23 (5)": mean, sample standard deviation over seeds, number of seeds."""
    if not values:
        return NOT_RUN
    around = f" ± {statistics.stdev(values.values()):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values.values()):.2f}{around} ({len(values)})"


def difference_text(found: Estimate | None) -> str:
    """ "+0.40 [+0.05, +0.75]", without an interval where no spread is known."""
    if found is None:
        return NOT_RUN
    mean = f"{found.mean:+.2f}"
    return mean if found.half is None else f"{mean} [{found.mean - found.half:+.2f}, {found.mean + found.half:+.2f}]"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def runs_of(records: dict, results=definitions.ROOT / definitions.RESULTS) -> Runs:
    """All runs by entry and seed: {cell: record}, and in the form of records what was trained in other ways.

    These are the students of experiments/lab/jax and of experiments/studies/head_to_head, in the folder `results`.
    """
    found: Runs = collections.defaultdict(dict)
    for cell, record in records.items():
        found[cell.path.rpartition("/")[0]][cell.seed] = record
    for folder in ("gpu_students", "gpu_students_seeds"):
        for student, measured in _jax_students(pathlib.Path(results, folder)):
            key = f"{folder}/{student['teacher_arch']}/{name_of(student).rpartition('_seed')[0]}"
            by_epoch = {"val_accuracy": [student["held_out_accuracy"]]}
            found[key][student["seed"]] = {"student": measured, "by_epoch": by_epoch, "config": student}
    for record in _head_to_head(pathlib.Path(results, "head_to_head")):
        measured = {
            "student": {"accuracy": record["accuracy"]},
            "by_epoch": {"val_accuracy": [record["held_out_accuracy"]]},
        }
        key = f"head_to_head/{record['framework']}/{record['method']}"
        found[key][record["seed"]] = measured | {"cpu_seconds": record["cpu_seconds"], "config": record}
    return dict(found)


@functools.cache
def _head_to_head(folder: pathlib.Path):
    """The records of the trainings in several frameworks."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


@functools.cache
def _jax_students(folder: pathlib.Path):
    """(what trained it, what `skd_tf.evaluate` measured) for each student of a folder; none without the folder."""
    if not folder.is_dir():
        return []
    students, tests = (json.loads((folder / f"{name}.json").read_text()) for name in ("students", "evaluate"))
    models = {pathlib.PurePath(model["path"]).stem: model for model in tests["models"]}
    return [(student, models[pathlib.PurePath(name_of(student)).name.removesuffix(".npz")]) for student in students]
