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

    def __call__(self, images):
        logits = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            missing = self.batch_size - len(batch)
            padded = np.pad(batch, [(0, missing)] + [(0, 0)] * 3) if missing else batch
            logits.append(self._forward(tf.constant(padded)).numpy()[: len(batch)].astype(np.float32))
        return np.concatenate(logits)
