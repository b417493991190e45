"""`python -m experiments.lab reproduce`: trains the cells of studies that have no record yet, one process a cell.

    python -m experiments.lab reproduce capacity_gap --data_dir=DATA --dry_run
    python -m experiments.lab reproduce capacity_gap temperature --data_dir=DATA --jobs=2 --commit

It goes seed by seed over all named studies. Stop it at any moment: the same command resumes in the middle of a cell. When a
cell fails, the next one starts. A cell that is the same training as a recorded one copies that record.
"""

import fnmatch
import functools
import json
import os
import pathlib
import shlex
import statistics

from absl import flags

from experiments.lab import definitions
from experiments.lab.definitions import Cell
from experiments.lab.records import read_all, same_cell, settings, training_seconds
from experiments.lab.runner import Runner
from skd_tf.config.flags import define_flags
from skd_tf.data.catalog import KNOWN_DATASETS
from skd_tf.errors import did_you_mean, input_error
from skd_tf.runs.workdir import locked
from skd_tf.runtime.console import duration, say

DESCRIPTION = "Trains the cells of studies that have no record yet."
POSITIONAL = "study"
_ALIKE = ("student", "validation_fraction", "batch_size", "precision", "teacher_cache_dir", "image_size")


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of `reproduce`."""
    define_flags(flag_values, names=("data_dir",))
    flags.DEFINE_multi_string("study", None, "what to run, also without the flag's name", flag_values=flag_values)
    folders = {
        "runs_dir": ("runs/studies", "folder of the workdirs, their logs and the teacher cache"),
        "teachers_dir": ("teachers", "folder of the teachers' files"),
        "results_dir": (definitions.RESULTS, "folder of the records"),
    }
    for name, (default, help_text) in folders.items():
        flags.DEFINE_string(name, default, help_text, flag_values=flag_values)
    jobs = "cells at a time; they share the CPU cores, or take the GPUs in turn"
    flags.DEFINE_integer("jobs", 1, jobs, lower_bound=1, flag_values=flag_values)
    only = "cells as STUDY/PAIR/ROW/seedN, with * for any part; all by default"
    flags.DEFINE_multi_string("only", [], only, flag_values=flag_values)
    flags.DEFINE_integer("limit", None, "at most so many cells this time", lower_bound=1, flag_values=flag_values)
    switches = {
        "commit": "commit each record to git by itself when its cell ends",
        "keep_runs": "keep the workdirs of recorded cells",
        "dry_run": "list the cells with their estimated time, and stop",
    }
    for name, help_text in switches.items():
        flags.DEFINE_boolean(name, False, help_text, flag_values=flag_values)


def plan_text(cells: list[Cell], runner: Runner, records: dict, jobs: int = 1) -> str:
    """The dry run's list: every cell with its state and its command, then the total time."""
    lines, known, by_operations, to_run, firsts = [], [], 0, 0, {}  # firsts: {settings: the first cell with them}
    left = set(runner.left(cells))
    for cell in cells:
        first = firsts.setdefault(json.dumps(settings(definitions.config_of(cell))), cell.path)
        if cell not in left:
            state = f"done, test top-1 {records[cell]['student']['accuracy']:.4f}"
        elif not cell.is_teacher and (other := same_cell(cell, records)):
            state = f"would be copied from {other.path}"
        elif first != cell.path:
            state = f"the same training as {first}"
        else:
            to_run += 1
            state = "its weights are gone: " if cell in records else ""
            state += "started, at most " if (runner.workdir(cell) / "config.json").is_file() else ""
            measured = measured_seconds(cell, records)
            seconds = seconds_by_operations(cell, records) if measured is None else measured
            by_operations += measured is None and seconds is not None
            known += [] if seconds is None else [seconds]
            roughly = "roughly " if measured is None else ""
            state += "unknown time" if seconds is None else f"{roughly}{duration(seconds)}"
        lines += [f"{cell.path}: {state}", f"    {shlex.join(runner.command(cell))}"]
    total = "time unknown"
    if known:
        operations = f" ({by_operations} by operations)" if by_operations else ""
        total = f"about {duration(sum(known) / jobs)} for {len(known)} of them{operations}"
        total += ", and the passes of teachers whose logits are not cached yet"
    return "\n".join([*lines, f"{len(cells)} cells, {to_run} to run: {total}."])


def measured_seconds(cell: Cell, records: dict) -> float | None:
    """Training seconds at the median pace of records with the same student, live teacher and arithmetic; None without any.

    Records of the same data set come first. CIFAR-10 and CIFAR-100 stand in for each other, since the number of classes
    costs a student almost nothing. The pace is that of the cores that the records had.
    """
    config = definitions.config_of(cell)
    wanted, family = settings(config), config.dataset.rstrip("0123456789")
    alike = [r for r in records.values() if all(r["config"].get(key) == wanted[key] for key in _ALIKE)]
    alike = [r for r in alike if _live_teacher(r["config"]) == _live_teacher(wanted)]
    alike = [r for r in alike if r["config"]["dataset"].rstrip("0123456789") == family]
    alike = [r for r in alike if r["config"]["dataset"] == config.dataset] or alike
    paces = [training_seconds(r) / r["config"]["epochs"] for r in alike]
    return statistics.median(paces) * config.epochs if paces else None


def seconds_by_operations(cell: Cell, records: dict) -> float | None:
    """Training seconds by counted operations at the median rate of all records; None without records or for other networks.

        seconds = images x (3 x the student's forward pass + a live teacher's) / rate        rate: operations a second

    It imports TensorFlow, and can be off by a factor of 2 to 5, since small networks run slower per operation.
    """
    config, rates = definitions.config_of(cell), []
    for record in records.values():
        its = record["config"]
        operations = _operations(its["student"], its["dataset"], _live_teacher(its))
        rates += [] if operations is None else [operations * record["examples_per_second"]]
    operations = _operations(config.student, config.dataset, _live_teacher(settings(config)))
    if not rates or operations is None:
        return None
    images = KNOWN_DATASETS[config.dataset].train * (1 - config.validation_fraction) * config.epochs
    return images * operations / statistics.median(rates)


def _live_teacher(its):
    """The name of the teacher that runs in each step of a training with these `settings`, or ""."""
    return "" if its["teacher_cache_dir"] else its["teacher_checkpoint"] or its["teacher"]


def _operations(student, dataset, live_teacher):
    """Operations of a training step per image, or None."""
    forward = [_forward(name, dataset) for name in (student, *([live_teacher] if live_teacher else ()))]
    return None if None in forward else 3 * forward[0] + sum(forward[1:])


@functools.cache
def _forward(name, dataset):
    from skd_tf.runtime import tf_logging

    tf_logging.import_tensorflow()
    from skd_tf import networks
    from skd_tf.evaluation import cost

    known = KNOWN_DATASETS.get(dataset)
    named = [net for net in networks.NETWORKS if f"_{name}".endswith(f"_{net}")]  # cifar100_resnet56 is a resnet56
    if known is None or not named:
        return None
    net = networks.build(max(named, key=len), input_shape=known.image_shape, num_classes=known.num_classes)
    return cost.flops(net, known.image_shape)


def chosen(cells: list[Cell], patterns: list[str]) -> list[Cell]:
    """The cells whose paths match a pattern; InputError for a pattern that matches none."""
    for pattern in patterns:
        if not fnmatch.filter([cell.path for cell in cells], pattern):
            raise input_error(
                "No cell has this name",
                expected=f"a path as --dry_run lists it, such as {cells[-1].path}, or a pattern such as */seed0",
                received=f"only={pattern}",
                remedy="Correct it",
            )
    return [cell for cell in cells if not patterns or any(fnmatch.fnmatch(cell.path, pattern) for pattern in patterns)]


def main(flag_values: flags.FlagValues) -> int | None:
    """Lists or trains the cells; returns the exit code."""
    names = list(dict.fromkeys(flag_values.study or []))
    for name in names or [""]:
        if name not in definitions.STUDIES:
            known, remedy = definitions.STUDIES, did_you_mean(name, definitions.STUDIES, "Name one of them")
            expected = f"one of {', '.join(known)}"
            raise input_error("No such study", expected=expected, received=f"study={name}", remedy=remedy)
    given = {name: getattr(flag_values, name) for name in ("data_dir", "runs_dir", "teachers_dir", "results_dir")}
    places = {name: os.path.abspath(pathlib.Path(p).expanduser()) if p else None for name, p in given.items()}
    results = places["results_dir"]
    if flag_values.commit and definitions.ROOT not in pathlib.Path(results).parents:
        raise input_error(
            "Records outside the repository cannot be committed",
            expected=f"a folder under {definitions.ROOT}",
            received=f"results_dir={results}",
            remedy="Leave out --commit or --results_dir",
        )
    studies = [definitions.STUDIES[name] for name in names]
    for study in studies:
        say(f"{study.name}: {study.question}")
    cells = chosen(definitions.cells(*studies), flag_values.only)
    runner = Runner(places, flag_values.jobs, flag_values.keep_runs, flag_values.commit)
    if flag_values.dry_run:
        say(plan_text(cells, runner, read_all(results), flag_values.jobs))
        return None
    with locked(places["runs_dir"]):
        if flag_values.commit:
            runner.commit_left(read_all(results))
        left, found = runner.left(cells), read_all(results)
        say(f"{len(cells)} cells, {len(left)} to run.")
        for cell in left:
            if cell in found:  # its students on record learned from weights that are gone
                say(f"{cell.path}: has a record, but no weights in {runner.workdir(cell)}. It is trained again.")
        return 1 if runner.run(left[: flag_values.limit]) else None
