"""Temperature scaling: one temperature, fitted on validation data, that calibrates a model (Guo et al. 2017,
arXiv:1706.04599)."""

import math
import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from skd_tf.errors import InputError, counted, input_error
from skd_tf.evaluation import metrics
from skd_tf.models import paths
from skd_tf.runs import run_files
from skd_tf.runs.run_record import run_behind, workdir_of
from skd_tf.runtime.files import read_json, write_json

LEAST_IMAGES = 80  # from which a run calibrates its students without being asked
_EXTREME = 1e4  # the logits of no trained network are wrong by such a factor


class Calibration(NamedTuple):
    """A fitted temperature, which divides the logits, and the number of validation images that it was fitted on."""

    temperature: float
    examples: int | None = None

    def scaled(self, logits: np.ndarray) -> np.ndarray:
        """The logits whose softmax is the calibrated probability, float64."""
        return np.asarray(logits, np.float64) / self.temperature

    def effect(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        """{"temperature", "validation_examples"} with the `metrics.quality` of the calibrated softmax."""
        facts = {"temperature": self.temperature, "validation_examples": self.examples}
        return facts | metrics.quality(self.scaled(logits), labels)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that minimises the NLL of softmax(logits / T).

    The NLL is convex in b = 1 / T, with slope mean(E_p[z] - z_y). Bisection finds the zero of the slope.

    Args:
      logits: `[n, classes]`; their softmax is the probability before scaling.
      labels: integer `[n]`; unlabelled examples (-1) are left out.

    Raises:
      InputError: there are no labels, or no finite T > 0 is best, as when all (or none) of the predictions are right.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels):
        raise input_error(
            "No labelled examples",
            expected="validation images with labels",
            received="0 of them",
            remedy="Hold some out",
        )
    logits = logits - logits.max(axis=1, keepdims=True)
    of_label = logits[np.arange(len(labels)), labels]

    def slope(log_b):
        probabilities = np.exp(metrics.log_softmax(math.exp(log_b) * logits))
        return float(((probabilities * logits).sum(axis=1) - of_label).mean())

    low, high = -math.log(_EXTREME), math.log(_EXTREME)
    if not slope(low) < 0 < slope(high):
        raise input_error(
            "No temperature fits: the validation loss has no minimum",
            expected="some right and some wrong predictions",
            received=f"{metrics.quality(logits, labels)['accuracy']:.4f} accuracy on {counted(len(labels), 'image')}",
            remedy="Hold out more, or export without calibration",
        )
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def fit(logits: np.ndarray, labels: np.ndarray) -> tuple["Calibration | None", str]:
    """The rule of --calibrate=auto: a temperature from at least 80 validation images, or the reason why there is none.

    Args:
      logits, labels: of the validation split, as in `fit_temperature`.

    Returns:
      (`Calibration`, "") or (None, the reason in words).
    """
    labels = np.asarray(labels)
    count, right = int((labels >= 0).sum()), int((np.argmax(logits, axis=1) == labels).sum())
    if not count and len(labels):
        return None, "the validation images have no labels"
    if count < LEAST_IMAGES:
        return None, f"it needs {LEAST_IMAGES} validation images and has {count}"
    if right in (0, count):
        return None, f"{'all' if right else 'none'} of the {count:,} validation images are classified correctly"
    try:
        return Calibration(fit_temperature(logits, labels), count), ""
    except InputError:
        return None, f"no temperature minimises the loss on the {count} validation images"


def store(
    workdir: str | os.PathLike,
    temperature: float,
    *,
    examples: int,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> None:
    """Writes workdir/calibration.json: the temperature, its student's digest, validation NLL and ECE before and after.

    Args:
      workdir: folder of a finished run.
      temperature: the fitted temperature.
      examples: number of validation images that it was fitted on.
      before, after: {"nll", "ece", ...} without and with it.
    """
    qualities = {"before": before, "after": after}
    record = {"temperature": temperature, "student": paths.file_fingerprint(workdir), "validation_examples": examples}
    record |= {when: {name: quality[name] for name in ("nll", "ece")} for when, quality in qualities.items()}
    write_json(pathlib.Path(workdir) / run_files.CALIBRATION, record)


def of_run_behind(model: str | os.PathLike) -> dict[str, Any] | None:
    """What `store` wrote for the run behind a model; None without such a run, or if it wrote nothing.

    Raises:
      InputError: as `stored`.
    """
    return stored(workdir_of(model)) if run_behind(model) else None


def stored(workdir: str | os.PathLike) -> dict[str, Any] | None:
    """What `store` wrote; None if it wrote nothing.

    Raises:
      InputError: the file is damaged, or the temperature was fitted to another student.
    """
    file = pathlib.Path(workdir) / run_files.CALIBRATION
    if not file.is_file():
        return None
    remedy = f"Fit it again: python -m skd_tf.evaluate {shlex.quote(f'--model={workdir}')} --calibrate"
    record = read_json(file, "The calibration", f"{remedy}.")
    try:
        temperature, student = float(record["temperature"]), record["student"]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"The calibration is damaged ({error!r})"
        raise input_error(problem, expected="a temperature and its student", received=file, remedy=remedy) from error
    if student != paths.file_fingerprint(workdir) or not 0 < temperature < math.inf:
        raise input_error(
            "The calibration belongs to another student",
            expected=f"that of the {run_files.STUDENT} next to it",
            received=file,
            remedy=remedy,
        )
    return record | {"temperature": temperature}
