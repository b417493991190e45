"""Logits of a whole split, each example once."""

import functools

import numpy as np
import tensorflow as tf

BATCH_SIZE = 256


class Predictor:
    """images uint8 `[n, h, w, c]` -> float32 logits `[n, classes]`; one graph for every batch, the last one padded."""

    def __init__(self, model, batch_size=BATCH_SIZE):
        self.batch_size = batch_size
        self._forward = tf.function(functools.partial(model, training=False), autograph=False)

    def __call__(self, images, transform=None):
        """Logits in the order of `images`; `transform(batch, rows)` is applied first, rows being places in `images`."""
        logits = []
        for start in range(0, len(images), self.batch_size):
            rows = np.arange(start, min(start + self.batch_size, len(images)))
            padded = np.resize(rows, self.batch_size)  # the last batch repeats its rows: one shape, one graph
            batch = tf.constant(images[padded])
            batch = batch if transform is None else transform(batch, padded)
            logits.append(self._forward(batch).numpy()[: len(rows)].astype(np.float32))
        return np.concatenate(logits)
