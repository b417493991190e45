"""Predictor: the logits of a whole split, each example once."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.runtime.console import Progress

BATCH_SIZE = 256


def predictor_of(model: Any) -> "Predictor":
    """The `Predictor` of a model, created and traced once per model."""
    return vars(model).setdefault("_predictor", Predictor(model))  # past Keras' setattr, which would track it


class Predictor:
    """images uint8 `[n, h, w, c]` -> float32 logits `[n, classes]`; one graph for all batches, the last one padded.

    Args:
      model: called as `model(images, training=False)`; returns logits.
      batch_size: images in a batch.
    """

    def __init__(self, model: Callable, batch_size: int = BATCH_SIZE) -> None:
        self.batch_size = batch_size
        self._forward = tf.function(functools.partial(model, training=False), autograph=False)

    def __call__(
        self, images: Any, *, what: str = "predicting", on_progress: Callable[[int], Any] | None = None
    ) -> np.ndarray:
        """The logits, in the order of `images`.

        Args:
          images: uint8 `[n, h, w, c]`, an array or `DiskImages`.
          what: names the work in the progress line.
          on_progress: called with the number of images done, in place of the progress line.
        """
        with Progress(what, len(images), "images") as progress:
            return np.concatenate(list(self._batches(images, on_progress or progress.update)))

    def _batches(self, images, on_progress):
        for start in range(0, len(images), self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, len(images)))
            padded = np.resize(rows, self.batch_size)  # repeats rows: one shape, one graph
            yield self._forward(tf.constant(images[padded])).numpy()[: len(rows)].astype(np.float32)
            on_progress(start + len(rows))
