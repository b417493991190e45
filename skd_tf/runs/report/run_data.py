"""What a report shows: the records of finished runs, and the models that its charts compare."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from skd_tf.errors import input_error
from skd_tf.runs import run_files
from skd_tf.runs.run_record import read_result

_LABEL_LENGTH = 20  # characters in a legend
ROLES = {"teacher": "teacher", "student_alone": "student alone", "student": "distilled"}


@dataclasses.dataclass(frozen=True)
class Run:
    """The records of a finished run.

    Attributes:
      name: of its folder.
      result: its result.json.
      details: its measurements.json, {} without one.
      epochs: its metrics.jsonl.
      alone: the metrics.jsonl of its student trained alone, [] without one.
    """

    name: str
    result: dict[str, Any]
    details: dict[str, Any]
    epochs: list[dict[str, Any]]
    alone: list[dict[str, Any]]

    @property
    def title(self) -> str:
        config = self.result["config"]
        return f"{config['student']} on {config['dataset']}"


@dataclasses.dataclass(frozen=True)
class ChartSeries:
    """One model in the charts.

    Attributes:
      label: its name in legends.
      colour: a name in `skd_tf.runs.report.svg.COLOURS`, or "runN".
      record: its part of result.json.
      details: its part of measurements.json.
      epochs: the metrics.jsonl of its training.
    """

    label: str
    colour: str
    record: dict[str, Any]
    details: dict[str, Any]
    epochs: list[dict[str, Any]]


def read(path: str | os.PathLike) -> Run:
    """Reads the run in a workdir.

    Raises:
      InputError: there is no finished run, or its records are damaged.
    """
    path = pathlib.Path(path)
    result, metrics = read_result(path), path / run_files.METRICS
    if result is None or not metrics.is_file():
        raise input_error(
            "No finished run there",
            expected=f"{run_files.RESULT} and {run_files.METRICS}",
            received=f"run={path}",
            remedy="Train it to the end first",
        )
    details, alone = path / run_files.MEASUREMENTS, path / run_files.STUDENT_ALONE / run_files.METRICS
    try:
        return Run(
            path.resolve().name,
            result,
            json.loads(details.read_text()) if details.is_file() else {},
            _lines(metrics),
            _lines(alone) if alone.is_file() and "student_alone" in result else [],
        )
    except ValueError as error:
        raise input_error(
            f"The records of a run are damaged ({error})",
            expected="JSON",
            received=f"run={path}",
            remedy="Choose another run",
        ) from error


def chart_series(runs: Sequence[Run]) -> list[ChartSeries]:
    """The models in the charts: teacher, student alone and student of one run, or the students of several runs."""
    if len(runs) > 1:
        labels = zip(_labels(runs), runs, strict=True)
        return [_series(run, "student", label, f"run{i}", run.epochs) for i, (label, run) in enumerate(labels)]
    (run,) = runs
    epochs = {"student": run.epochs, "student_alone": run.alone}
    roles = [role for role in ROLES if role in run.result]
    names = ROLES if len(roles) > 1 else {"student": "student"}
    return [_series(run, role, names[role], role, epochs.get(role, [])) for role in roles]


def _series(run, role, label, colour, epochs):
    return ChartSeries(label, colour, run.result[role], run.details.get("models", {}).get(role, {}), epochs)


def settings(runs: Sequence[Run], defaults: Mapping[str, Any]) -> list[tuple[str, Any, list]]:
    """The settings of one run that are not the default, or those in which several runs differ.

    Returns:
      [(flag, default, [value of each run])].
    """
    rows = []
    for name, default in defaults.items():
        values = [run.result["config"].get(name, default) for run in runs]
        differ = any(value != values[0] for value in values) if len(runs) > 1 else values[0] != default
        if differ:
            rows.append((f"--{name}", default, values))
    return rows


def _labels(runs):
    """Short labels, each different from the others."""
    ends = _LABEL_LENGTH // 2
    names = [run.name if len(run.name) <= _LABEL_LENGTH else f"{run.name[:ends]}…{run.name[-ends:]}" for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _lines(file):
    return [json.loads(line) for line in file.read_text().splitlines() if line]
