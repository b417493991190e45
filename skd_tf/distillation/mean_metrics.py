"""Epoch means of the values a step already has, as one Keras metric."""

import keras
import numpy as np
import tensorflow as tf


class MeanMetrics(keras.metrics.Metric):
    """Weighted means of several named values, kept in two vectors.

    A dozen `keras.metrics.Mean` cost two dozen small kernels a step, and their per-replica variables cannot be restored
    exactly. Here the sums arrive already summed over replicas, in the gradients' own collective, so every replica holds
    the same totals and a checkpoint taken in mid-epoch restores them bit for bit.
    """

    def __init__(self, names, name="step_means"):
        super().__init__(name=name)
        self.names = tuple(names)
        self.totals = self._vector("totals")
        self.counts = self._vector("counts")

    def _vector(self, name):
        # float64: a float32 total loses an example in a hundred after 2^24 of them. Not on_read: see above.
        return keras.Variable(np.zeros(len(self.names)), dtype="float64", trainable=False, name=name)

    @property
    def variables(self):
        return [self.totals, self.counts]

    def update_state(self, sums, counts):
        """Adds `[names]` sums and the number of examples behind each, both over all replicas."""
        self.totals.assign_add(tf.cast(sums, tf.float64))
        self.counts.assign_add(tf.cast(counts, tf.float64))

    def reset_state(self):
        for vector in self.variables:
            vector.assign(np.zeros(len(self.names)))

    def result(self):
        """name -> mean; values that no example contributed to are left out (outside a graph)."""
        if not tf.executing_eagerly():
            means = tf.math.divide_no_nan(self.totals.value, self.counts.value)
            return dict(zip(self.names, tf.unstack(means), strict=True))
        totals, counts = self.totals.numpy(), self.counts.numpy()
        return {name: float(t / n) for name, t, n in zip(self.names, totals, counts, strict=True) if n}
