"""What models say about each test image, as a CSV file; what skd_tf.evaluate --predictions writes."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from skd_tf.data.dataset import Split
from skd_tf.evaluation import metrics
from skd_tf.evaluation.final_measurements import ModelLogits
from skd_tf.runtime import atomic_files
from skd_tf.runtime.files import csv_line

HEADER = ("model", "image", "file", "label", "answer", "probability", "right")


class ImageAnswers:
    """Collects the answers of models to the images of a test split, and writes a line per model and image.

    Args:
      test: the split.
      class_names: in the order of the labels.
    """

    def __init__(self, test: Split, class_names: Sequence[str]) -> None:
        self._test, self._class_names = test, class_names
        self._answers: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, name: str, model: ModelLogits) -> None:
        """Takes a model's answers: its most probable class of each image, and the probability of it after calibration."""
        logits = model.calibration.scaled(model.logits) if model.calibration else model.logits
        summary = metrics.summarize(logits, self._test.labels)
        self._answers[name] = np.where(summary.defined, summary.predicted, -1), summary.confidence

    def write(self, path: str | os.PathLike) -> None:
        """Writes the CSV file. It appears complete or not at all."""
        with atomic_files.writing(path) as file:
            file.write(csv_line(HEADER))
            for name, (classes, probabilities) in self._answers.items():
                for row, (number, probability) in enumerate(zip(classes, probabilities, strict=True)):
                    file.write(csv_line([name, *self._line(row, int(number), float(probability))]))

    def _line(self, row: int, answer: int, probability: float) -> list[Any]:
        names, test = self._class_names, self._test
        label = int(test.labels[row])
        said = (names[answer], f"{probability:.6g}") if answer >= 0 else ("", "")  # the output is not finite
        right = int(answer == label) if label >= 0 else ""
        file = "" if test.files is None else test.files[row]
        return [row, file, names[label] if label >= 0 else "", *said, right]
