"""What a report is made of: the records of finished runs, and the models that stand side by side in its charts."""

import dataclasses
import json
import pathlib

from skd_tf.errors import input_error
from skd_tf.runs.run_record import read_result

_MEASUREMENTS = "measurements.json"
_LABEL_LENGTH = 20  # of a legend
ROLES = {"teacher": "teacher", "student_alone": "student alone", "student": "distilled"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run's records; `details` is {} for a run without measurements.json, `alone` the epochs of its baseline."""

    name: str
    result: dict
    details: dict
    epochs: list
    alone: list

    @property
    def title(self):
        config = self.result["config"]
        return f"{config['student']} on {config['dataset']}"


@dataclasses.dataclass(frozen=True)
class ChartSeries:
    """One model in the charts: label, colour (a name in `svg.COLOURS`), row of result.json, details, epochs."""

    label: str
    colour: str
    row: dict
    details: dict
    epochs: list


def read(path):
    """Reads the run in a workdir; InputError where it is none, is not finished, or is damaged."""
    path = pathlib.Path(path)
    result, metrics = read_result(path), path / "metrics.jsonl"
    if result is None or not metrics.is_file():
        raise input_error(
            "No finished run there",
            expected="result.json and metrics.jsonl",
            received=f"run={path}",
            remedy="Train it to the end first",
        )
    try:
        epochs = _lines(metrics)
        details_file = path / _MEASUREMENTS
        details = json.loads(details_file.read_text()) if details_file.is_file() else {}
        alone = path / "student_alone" / "metrics.jsonl"
        name = path.resolve().name
        return Run(
            name, result, details, epochs, _lines(alone) if alone.is_file() and "student_alone" in result else []
        )
    except ValueError as error:
        raise input_error(
            f"The records of a run are damaged ({error})",
            expected="JSON",
            received=f"run={path}",
            remedy="Choose another run",
        ) from error


def members(runs):
    """Of one run teacher, student alone and student; of several the student of each."""
    if len(runs) > 1:
        labels = _labels(runs)
        return [
            ChartSeries(
                label, f"run{i}", run.result["student"], run.details.get("models", {}).get("student", {}), run.epochs
            )
            for i, (label, run) in enumerate(zip(labels, runs, strict=True))
        ]
    (run,) = runs
    epochs = {"student": run.epochs, "student_alone": run.alone}
    details = run.details.get("models", {})
    found = [
        ChartSeries(label, role, run.result[role], details.get(role, {}), epochs.get(role, []))
        for role, label in ROLES.items()
        if role in run.result
    ]
    return found if len(found) > 1 else [dataclasses.replace(found[0], label="student")]


def settings(runs, defaults):
    """The settings that matter: of one run those that are not the default, of several those in which they differ.

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
    """Short, and each its own."""
    ends = _LABEL_LENGTH // 2
    names = [run.name if len(run.name) <= _LABEL_LENGTH else f"{run.name[:ends]}…{run.name[-ends:]}" for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _lines(file):
    return [json.loads(line) for line in file.read_text().splitlines() if line]
