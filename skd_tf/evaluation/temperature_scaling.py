"""One scalar temperature for finished probabilities, fitted on validation data (Guo et al. 2017, arXiv:1706.04599)."""

import json
import math
import pathlib

import numpy as np

from skd_tf.errors import input_error
from skd_tf.evaluation import metrics
from skd_tf.models import paths
from skd_tf.runtime.files import write_json

FILE = "calibration.json"
_EXTREME = 1e4  # no trained net's logits are off by such a factor


def fit_temperature(logits, labels):
    """The T > 0 that minimises the NLL of softmax(logits / T).

    In b = 1 / T the NLL is convex, with slope mean(E_p[z] - z_y): the slope's zero is found by bisection.

    Args:
      logits: `[n, classes]` whose softmax is the probability now.
      labels: integer `[n]`; unlabelled examples (-1) are left out.

    Returns:
      T, a float.

    Raises:
      InputError: no labels; or no finite T > 0 is best, as where all (or none) of the answers are right.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if not len(labels):
        raise input_error(
            "No labelled examples", expected="validation images with labels", received="0", remedy="Hold some out"
        )
    logits = logits - logits.max(axis=1, keepdims=True)
    of_label = logits[np.arange(len(labels)), labels]

    def slope(log_b):
        probabilities = np.exp(metrics.log_softmax(math.exp(log_b) * logits))
        return float(((probabilities * logits).sum(axis=1) - of_label).mean())

    low, high = -math.log(_EXTREME), math.log(_EXTREME)
    if not slope(low) < 0 < slope(high):
        raise input_error(
            "No temperature fits: the validation loss falls without end",
            expected="some right and some wrong answers",
            received=f"{metrics.quality(logits, labels)['accuracy']:.4f} accuracy on {len(labels)} images",
            remedy="Hold out more, or export without calibration",
        )
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def effect(logits, labels, temperature):
    """{"temperature"} and `metrics.quality` of softmax(logits / temperature)."""
    return {"temperature": temperature} | metrics.quality(np.asarray(logits, np.float64) / temperature, labels)


def store(workdir, temperature, *, examples, before, after):
    """Writes workdir/calibration.json: the temperature, the student it belongs to, and validation NLL and ECE around it."""
    keys = ("nll", "ece")
    write_json(
        pathlib.Path(workdir) / FILE,
        {
            "temperature": temperature,
            "student": paths.file_fingerprint(workdir),
            "validation_examples": examples,
            "before": {name: before[name] for name in keys},
            "after": {name: after[name] for name in keys},
        },
    )


def stored(workdir):
    """What `store` wrote, None where nothing is.

    Raises:
      InputError: a damaged file, or one that was fitted to another student.
    """
    file = pathlib.Path(workdir) / FILE
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text())
        temperature, student = float(record["temperature"]), record["student"]
    except (ValueError, KeyError, TypeError) as error:
        raise input_error(
            f"The calibration is damaged ({error})",
            expected="JSON of --calibrate",
            received=f"{file}",
            remedy="Fit it again",
        ) from error
    if student != paths.file_fingerprint(workdir) or not 0 < temperature < math.inf:
        raise input_error(
            "The calibration belongs to another student",
            expected="one of student.keras beside it",
            received=f"{file}",
            remedy="Fit it again: python -m skd_tf.evaluate --calibrate",
        )
    return record
