"""Means over an epoch of the values that each step computes, as one Keras metric."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.runtime import compat

# Those that a callback with mode="auto" may monitor. A logit norm is neither good nor bad.
_DIRECTIONS = {
    "accuracy": "up",
    "agreement": "up",
    "teacher_accuracy": "up",
    "loss": "down",
    "label_loss": "down",
    "distill_loss": "down",
    "feature_loss": "down",
}
_MetricsList: Any = compat.metrics_list_class()


class MeanMetrics(_MetricsList):
    """Weighted means of several named values, stored as two vectors: sums and counts.

    A dozen `keras.metrics.Mean` would cost two dozen small kernels per step, and their per-replica variables cannot be
    restored exactly. Here the sums are already reduced over replicas, in the same collective as the gradients. Every
    replica holds the same totals, so a checkpoint in the middle of an epoch restores them bit for bit.

    Args:
      names: of the values, in the order of the vectors given to `update_state`.
      name: Keras puts the value of this name first in what evaluate() returns.
    """

    def __init__(self, names: Sequence[str], name: str = "loss"):
        directions = [compat.with_direction(mean, _DIRECTIONS[mean]) for mean in names if mean in _DIRECTIONS]
        super().__init__(directions, name=name)
        self.names = tuple(names)
        self.totals = self._vector("totals")
        self.counts = self._vector("counts")

    def _vector(self, name):
        # float64: after 2^24 examples, a float32 total loses one example in a hundred. Not an on_read variable: those
        # cannot be restored exactly.
        return keras.Variable(np.zeros(len(self.names)), dtype="float64", trainable=False, name=name)

    @property
    def variables(self) -> list[keras.Variable]:
        """The totals and the counts, `[names]` float64 each."""
        return [self.totals, self.counts]

    def update_state(self, sums: tf.Tensor, counts: tf.Tensor) -> None:
        """Adds sums `[names]` and the numbers of examples `[names]` behind them, both over all replicas."""
        self.totals.assign_add(tf.cast(sums, tf.float64))
        self.counts.assign_add(tf.cast(counts, tf.float64))

    def reset_state(self) -> None:
        """Sets totals and counts to zero."""
        for vector in self.variables:
            vector.assign(np.zeros(len(self.names)))

    def result(self) -> dict[str, float | tf.Tensor]:
        """{name: mean}. Outside a graph, values to which no example contributed are left out."""
        if not tf.executing_eagerly():
            means = tf.math.divide_no_nan(self.totals.value, self.counts.value)
            return dict(zip(self.names, tf.unstack(means), strict=True))
        totals, counts = self.totals.numpy(), self.counts.numpy()
        return {name: float(t / n) for name, t, n in zip(self.names, totals, counts, strict=True) if n}
