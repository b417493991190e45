"""The test images that a report shows: the worst mistakes, and those on which student and teacher disagree."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.data.dataset import Split
from skd_tf.evaluation import metrics
from skd_tf.evaluation.final_measurements import ModelLogits
from skd_tf.runtime.files import printable

MISTAKE, DISAGREEMENT = "mistake", "disagreement"
MOST = 48  # images of both kinds together
_SIDE = 112  # pixels of the longer side, at most
_LOSSLESS = 48 * 48  # pixels of an image that stays exact, as PNG


def choose(answers: Mapping[str, metrics.Summary], labels: np.ndarray, most: int = MOST) -> list[tuple[str, int]]:
    """Which images to show.

    Mistakes are wrong answers of the student to labelled images, the most confident first. Disagreements are the other images on which the
    teacher has another answer, first those on which the less confident of the two is most confident. Half of the images
    are of each kind, if there are as many.

    Args:
      answers: {model: summary of its logits} with "student", and "teacher" if there is one.
      labels: integer `[n]`; -1 is unlabelled.
      most: how many, of both kinds together.

    Returns:
      [(kind, row)], the mistakes first.
    """
    student, teacher = answers["student"], answers.get("teacher")
    wrong = _first((labels >= 0) & (_answers(student) != labels), student.confidence)
    apart = np.zeros(0, int)
    if teacher is not None:
        apart = _first(_answers(student) != _answers(teacher), np.minimum(student.confidence, teacher.confidence))
    mistakes = wrong[: most - most // 2]
    disagreements = apart[~np.isin(apart, mistakes)][: most - len(mistakes)]
    mistakes = wrong[~np.isin(wrong, disagreements)][: most - len(disagreements)]
    kinds = (MISTAKE, mistakes), (DISAGREEMENT, disagreements)
    return [(kind, int(row)) for kind, rows in kinds for row in rows]


def collect(split: Split, models: Mapping[str, ModelLogits], most: int = MOST) -> list[dict[str, Any]]:
    """The images that `choose` chooses, as a report shows them.

    Args:
      split: the test split.
      models: {name: its logits}; their probabilities are calibrated if the model is.
      most: how many.

    Returns:
      [{"kind", "row" (of the test split), "label", "file" (its path, or None), "answers": {model: [class, its probability]},
      "picture": data URL}].
    """
    images, labels = split.images, split.labels
    scaled = {name: m.calibration.scaled(m.logits) if m.calibration else m.logits for name, m in models.items()}
    answers = {name: metrics.summarize(logits, labels) for name, logits in scaled.items()}
    said = {name: (_answers(summary), np.nan_to_num(summary.confidence)) for name, summary in answers.items()}
    return [
        {
            "kind": kind,
            "row": row,
            "label": int(labels[row]),
            "file": None if split.files is None else printable(split.files[row]),
            "answers": {name: [int(classes[row]), float(sure[row])] for name, (classes, sure) in said.items()},
            "picture": data_url(np.asarray(images[row : row + 1])[0]),
        }
        for kind, row in choose(answers, labels, most)
    ]


def data_url(image: np.ndarray) -> str:
    """A small picture `[height, width, channels]` as a data URL: PNG if it is tiny, else JPEG."""
    channels = 3 if image.shape[-1] >= 3 else 1
    pixels = tf.constant(image[..., :channels])
    height, width = image.shape[:2]
    if height * width <= _LOSSLESS:
        kind, encoded = "png", tf.io.encode_png(pixels)
    else:
        scale = min(1.0, _SIDE / max(height, width))
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        smaller = tf.image.resize(tf.cast(pixels, tf.float32), size, antialias=True)
        kind, encoded = (
            "jpeg",
            tf.io.encode_jpeg(tf.cast(tf.clip_by_value(tf.round(smaller), 0, 255), tf.uint8), quality=82),
        )
    return f"data:image/{kind};base64,{base64.b64encode(encoded.numpy()).decode()}"


def _answers(summary):
    """The predicted classes `[n]`; -1 where the softmax is NaN."""
    return np.where(summary.defined, summary.predicted, -1)


def _first(chosen, by):
    """The rows that are chosen, those with the highest value first."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-np.nan_to_num(by[rows]), kind="stable")]
