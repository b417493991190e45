"""Trains the cells of studies that have no record yet, one process a cell.

    python -m experiments.lab reproduce capacity_gap --data_dir=DATA --dry_run
    python -m experiments.lab reproduce capacity_gap temperature --data_dir=DATA --jobs=2 --commit

Seed by seed over all that are named. Stop it at any moment: the same command goes on, in the middle of the cell that was
stopped. A cell that fails is told, and the next one runs. What is the same training as a cell of any study that has a record
is not run again. The teachers' logits are computed once, for all cells and studies.
"""

import fnmatch
import json
import os
import pathlib
import shlex
import typing

from absl import flags

from experiments.lab import definitions, time_estimates
from experiments.lab.records import file_of, read_all, same_cell, settings
from experiments.lab.runner import Runner
from skd_tf.config import app
from skd_tf.config.fields import did_you_mean
from skd_tf.config.flags import define_flags
from skd_tf.errors import InputError
from skd_tf.runs.workdir import locked
from skd_tf.runtime.console import duration, say


def define(flag_values):
    define_flags(flag_values, names=("data_dir",))
    flags.DEFINE_multi_string("study", None, "what to run, also without the flag's name", flag_values=flag_values)
    flags.DEFINE_string(
        "runs_dir", "runs/studies", "folder of the workdirs, their logs and the teacher cache", flag_values=flag_values
    )
    flags.DEFINE_string("teachers_dir", "teachers", "folder of the teachers' files", flag_values=flag_values)
    flags.DEFINE_string("results_dir", definitions.RESULTS, "folder of the records", flag_values=flag_values)
    flags.DEFINE_integer(
        "jobs",
        1,
        "cells at a time, each with its share of the CPU cores, or with one GPU in turn",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "only", [], "cells, as STUDY/PAIR/ROW/seedN with * for any part; all unless given", flag_values=flag_values
    )
    flags.DEFINE_integer("limit", None, "at most so many cells this time", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_boolean(
        "commit", False, "commit each record to git, alone, when its cell ends", flag_values=flag_values
    )
    flags.DEFINE_boolean("keep_runs", False, "keep the workdirs of cells that have a record", flag_values=flag_values)
    flags.DEFINE_boolean(
        "dry_run", False, "list the cells with their estimated time, and stop", flag_values=flag_values
    )


def plan_text(cells, runner, records, results, jobs=1):
    """The dry run's list: every cell with its state and its command."""
    lines, times, firsts = [], [], {}  # firsts: settings of what is to run -> its path
    for cell in cells:
        first = firsts.setdefault(json.dumps(settings(definitions.config_of(cell))), cell.path)
        if file_of(cell, results).is_file():
            state = f"done, test top-1 {records[cell]['student']['accuracy']:.4f}"
        elif other := same_cell(cell, records):
            state = f"would be taken over from {other.path}"
        elif first != cell.path:
            state = f"the same training as {first}"
        else:
            times.append(_time_of(cell, records))
            begun = "begun, at most " if (runner.workdir(cell) / "config.json").is_file() else ""
            state = begun + times[-1].text
        lines += [f"{cell.path}: {state}", f"    {shlex.join(runner.command(cell))}"]
    known = [time.seconds for time in times if time.seconds is not None]
    total = "time unknown"
    if known:
        reckoned = sum(time.reckoned for time in times)
        by_operations = f" ({reckoned} by operations)" if reckoned else ""
        total = f"about {duration(sum(known) / jobs)} for {len(known)} of them{by_operations}"
        total += ", beside the passes of teachers whose logits are not cached yet"
    return "\n".join([*lines, f"{len(cells)} cells, {len(times)} to run: {total}."])


class _Time(typing.NamedTuple):
    """How long a cell will take: None where nothing is known; `reckoned` where no record alike says it."""

    seconds: float | None
    reckoned: bool
    text: str


def _time_of(cell, records):
    seconds = time_estimates.measured(cell, records)
    if seconds is not None:
        return _Time(seconds, False, duration(seconds))
    seconds = time_estimates.reckoned(cell, records)
    return (
        _Time(None, False, "unknown time") if seconds is None else _Time(seconds, True, f"roughly {duration(seconds)}")
    )


def chosen(cells, patterns):
    """The cells whose paths match one of the patterns; InputError for a pattern that matches none."""
    for pattern in patterns:
        if not fnmatch.filter([cell.path for cell in cells], pattern):
            raise InputError(
                f"No cell has this name. Expected a path as --dry_run lists them, such as {cells[-1].path}, or "
                f"a pattern as */seed0. Received only={pattern}. Correct it."
            )
    return [cell for cell in cells if not patterns or any(fnmatch.fnmatch(cell.path, pattern) for pattern in patterns)]


def main(flag_values):
    names = list(dict.fromkeys(flag_values.study or []))
    for name in names or [""]:
        if name not in definitions.STUDIES:
            remedy = did_you_mean(name, definitions.STUDIES, "Name one")
            raise InputError(
                f"No such study. Expected one of {', '.join(definitions.STUDIES)}. Received study={name}. "
                f"{remedy}{'' if remedy.endswith('?') else '.'}"
            )
    places = {
        name: os.path.abspath(pathlib.Path(getattr(flag_values, name)).expanduser())
        if getattr(flag_values, name)
        else None
        for name in ("data_dir", "runs_dir", "teachers_dir", "results_dir")
    }
    results = places["results_dir"]
    if flag_values.commit and definitions.ROOT not in pathlib.Path(results).parents:
        raise InputError(
            f"Records outside the repository cannot be committed to it. Expected a folder under {definitions.ROOT}. "
            f"Received results_dir={results}. Leave out --commit or --results_dir."
        )
    for name in names:
        study = definitions.STUDIES[name]
        say(f"{name}: {study.question}")
        if not definitions.cells(study):
            say(f"It has no cells of its own: it reads the records of {', '.join(study.drawn_from)}.")
    cells = chosen(definitions.cells(*(definitions.STUDIES[name] for name in names)), flag_values.only)
    runner = Runner(places, flag_values.jobs, flag_values.keep_runs, flag_values.commit)
    if flag_values.dry_run:
        say(plan_text(cells, runner, read_all(results), results, flag_values.jobs))
        return None
    with locked(places["runs_dir"]):
        if flag_values.commit:
            runner.commit_left(read_all(results))
        left = [cell for cell in cells if not file_of(cell, results).is_file()]
        say(f"{len(cells)} cells, {len(cells) - len(left)} have a record.")
        failed = runner.run(left[: flag_values.limit])
    return 1 if failed else None


if __name__ == "__main__":
    app.run(
        main,
        description="Trains the cells of a study that have no record yet.",
        define=define,
        required=(),
        positional="study",
    )
