"""What a report shows: the records of finished runs, and the models that its charts compare."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skd_tf.config import versions
from skd_tf.errors import as_text, input_error
from skd_tf.runs import predictions, run_files, verdict
from skd_tf.runs.columns import role_names
from skd_tf.runs.run_record import read_result
from skd_tf.runtime.files import read_json

_LABEL_LENGTH = 20  # characters in a legend
_RESTORE = "Restore it, or choose another run"
# Settings that a loss depends on: losses with other values have no common axis.
_OF_A_LOSS = (
    "loss",
    "temperature",
    "kd_weight",
    "label_weight",
    "radius",
    "center",
    "loss_settings",
    "feature_pairs",
    "feature_weight",
    "feature_loss",
    "label_smoothing",
)
_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+")  # nothing that a browser would fetch


@dataclasses.dataclass(frozen=True)
class Run:
    """The records of a finished run.

    Attributes:
      name: of its folder; among several runs with as much of its path as tells them apart.
      result: its result.json.
      details: its measurements.json, {} without one.
      epochs: its metrics.jsonl.
      alone: {model: the metrics.jsonl} of its students trained alone, as far as they are in its folder.
      pictures: its report_images.json, [] without one.
      predicted: {model: predicted classes of the test images `[n]`}, {} of an earlier version.
      labels: of the test images `[n]`, None of an earlier version.
      verdict: see `skd_tf.runs.verdict.judge`.
      exports: what the last export measured of each file, [] without one.
      path: its folder, as it was given.
      loss_code: fingerprint of the code of its own loss, "" without one.
    """

    name: str
    result: dict[str, Any]
    details: dict[str, Any]
    epochs: list[dict[str, Any]]
    alone: dict[str, list[dict[str, Any]]]
    pictures: list[dict[str, Any]]
    predicted: dict[str, np.ndarray]
    labels: np.ndarray | None
    verdict: dict[str, Any]
    exports: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    path: pathlib.Path = pathlib.Path("RUN")
    loss_code: str = ""

    @property
    def title(self) -> str:
        config = self.result["config"]
        return f"{config['student']} on {config['dataset']}"

    @property
    def roles(self) -> dict[str, str]:
        """{model: what the report calls it} of the models that it measured, in order."""
        return role_names(self.result)

    @property
    def has_labels(self) -> bool:
        """Whether its images have labels, so that accuracies are known."""
        return "accuracy" in self.result["student"]

    @property
    def test_images(self) -> int:
        """How many test images there are; 0 if it is not recorded."""
        return len(self.labels) if self.labels is not None else self.details.get("dataset", {}).get("test", 0)

    def of_model(self, role: str) -> dict[str, Any]:
        """The measurements of a model beside its result."""
        return self.details.get("models", {}).get(role, {})


@dataclasses.dataclass(frozen=True)
class ChartSeries:
    """One model in the charts.

    Attributes:
      label: its name in legends.
      colour: a name in `skd_tf.runs.report.svg.COLOURS`, or "runN".
      record: its part of result.json.
      details: its part of measurements.json.
      epochs: the metrics.jsonl of its training.
      loss: the settings that its loss depends on, {name: text}; only equal ones have a common axis.
    """

    label: str
    colour: str
    record: dict[str, Any]
    details: dict[str, Any]
    epochs: list[dict[str, Any]]
    loss: dict[str, str]


def read_all(paths: Sequence[str | os.PathLike], images: int | None = None) -> list[Run]:
    """Reads the runs in several workdirs, as `read` does, and gives each a name of its own."""
    places = [pathlib.Path(path).resolve().parts for path in paths]
    depths = range(1, 1 + max(map(len, places)))
    ends = (["/".join(place[-depth:]) for place in places] for depth in depths)
    names = next(names for names in ends if len({*names}) == len({*places}))
    return [
        dataclasses.replace(read(path, images), name=name) for path, name in zip(paths, _numbered(names), strict=True)
    ]


def _numbered(names):
    """Names that are equal get the numbers of their places."""
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


def read(path: str | os.PathLike, images: int | None = None) -> Run:
    """Reads the run in a workdir.

    Args:
      path: the workdir.
      images: how many test images to show at most; None: all that it recorded.

    Raises:
      InputError: there is no finished run, or its records are damaged.
    """
    path = pathlib.Path(path)
    result, metrics = read_result(path), path / run_files.METRICS
    if result is None:
        raise input_error(
            "No finished run there",
            expected=f"a folder with {run_files.RESULT}",
            received=f"run={path}",
            remedy="Train it to the end first",
        )
    epochs = _lines(metrics) if metrics.is_file() else []
    if not epochs:
        raise input_error(
            "The log of a finished run is missing or empty",
            expected="a line for each epoch",
            received=metrics,
            remedy=_RESTORE,
        )
    result["config"] = versions.upgrade(result["config"])
    measured = _read(path / run_files.MEASUREMENTS)
    exports, config = _read(path / run_files.EXPORTS), _read(path / run_files.CONFIG)
    alone = {role: path / role / run_files.METRICS for role in ("student_alone", "student_matched") if role in result}
    epochs_alone: dict[str, Any] = {role: _lines(file) for role, file in alone.items() if file.is_file()}
    try:
        predicted, labels = predictions.of_record(measured)
        return Run(
            path.resolve().name,
            result,
            measured,
            epochs,
            epochs_alone,
            _pictures(path / run_files.REPORT_IMAGES, images),
            predicted,
            labels,
            _verdict(result, measured, labels, epochs[-1]["step"]),
            exports["files"] if exports else [],
            path,
            str((config.get("resolved") or {}).get("loss") or ""),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise input_error(
            f"The records of a run are damaged ({error!r})",
            expected="JSON that this version of skd_tf or an earlier one wrote",
            received=f"run={path}",
            remedy="Choose another run",
        ) from error


def _read(file):
    """A JSON file of a finished run; {} without it."""
    return read_json(file, "A file of a finished run", _RESTORE) if file.is_file() else {}


def _lines(file):
    try:
        return [json.loads(line) for line in file.read_text().splitlines() if line]
    except ValueError as error:
        raise input_error(
            f"The log of a finished run is damaged ({error})",
            expected="JSON in each line",
            received=file,
            remedy=_RESTORE,
        ) from error


def _verdict(result, measured, labels, steps):
    """The verdict that follows from the records; the recorded one if they hold no predictions."""
    recorded = result.get("verdict")
    if labels is not None or recorded is None:
        return verdict.of_run(result, measured, steps)
    if recorded["word"] not in verdict.WORDS:
        raise ValueError(f"unknown verdict {recorded['word']!r}")
    verdict.lines(recorded)
    for comparison in recorded["comparisons"].values():
        verdict.interval(comparison)
    return recorded


def _pictures(file, most):
    """The test images to show, half of each kind if there are as many."""
    known = json.loads(file.read_text()) if file.is_file() else []
    known = [picture for picture in known if _PICTURE.fullmatch(picture["picture"])]
    if most is None or len(known) <= most:
        return known
    first = known[0]["kind"]
    same, others = ([p for p in known if (p["kind"] == first) is kind] for kind in (True, False))
    others = others[: max(most // 2, most - len(same))]
    return same[: most - len(others)] + others


def chart_series(runs: Sequence[Run]) -> list[ChartSeries]:
    """The models in the charts: teacher, student alone and student of one run, or the students of several runs."""
    if len(runs) > 1:
        labels = zip(_labels(runs), runs, strict=True)
        return [_series(run, "student", label, f"run{i}", run.epochs) for i, (label, run) in enumerate(labels)]
    (run,) = runs
    epochs = {"student": run.epochs} | run.alone
    return [_series(run, role, name, role, epochs.get(role, [])) for role, name in run.roles.items()]


def _series(run, role, label, colour, epochs):
    config = run.result["config"]
    alone = role in ("student_alone", "student_matched")
    names = ("loss", "label_smoothing") if alone else _OF_A_LOSS
    loss = {name: as_text(config.get(name)) for name in names}
    if alone:
        loss["loss"] = "cross_entropy"
    return ChartSeries(label, colour, run.result[role], run.of_model(role), epochs, loss)


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
    return _numbered(
        [run.name if len(run.name) <= _LABEL_LENGTH else f"{run.name[:ends]}…{run.name[-ends:]}" for run in runs]
    )
