"""Logits of a whole split, each example once."""

import functools

import numpy as np
import tensorflow as tf

from skd_tf.runtime.console import Progress

BATCH_SIZE = 256


def predictor_of(model):
    """The model's own `Predictor`: traced once, however often it is asked for."""
    return vars(model).setdefault("_predictor", Predictor(model))  # not an attribute of Keras', which would track it


class Predictor:
    """images uint8 `[n, h, w, c]` -> float32 logits `[n, classes]`; one graph for every batch, the last one padded."""

    def __init__(self, model, batch_size=BATCH_SIZE):
        self.batch_size = batch_size
        self._forward = tf.function(functools.partial(model, training=False), autograph=False)

    def __call__(self, images, *, what="predicting", on_progress=None):
        """Logits in the order of `images`.

        `what` names the work where it takes long enough to be told of; `on_progress`, called with the images done, tells of
        it instead.
        """
        with Progress(what, len(images), "images") as progress:
            return np.concatenate(list(self._batches(images, on_progress or progress.update)))

    def _batches(self, images, on_progress):
        for start in range(0, len(images), self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, len(images)))
            padded = np.resize(rows, self.batch_size)  # the last batch repeats its rows: one shape, one graph
            yield self._forward(tf.constant(images[padded])).numpy()[: len(rows)].astype(np.float32)
            on_progress(start + len(rows))
