"""NonFiniteGuard: from the first step whose loss, gradient or moving statistics are not finite on, nothing changes."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from skd_tf.distillation import optimizers


class NonFiniteGuard:
    """Remembers what was not finite in the first step with such a value.

    That step and all later ones change nothing. The model then keeps the state before that step, however many steps one
    call from Python asked for. Neither Python nor the graph has to wait for a step to look.

    Args:
      names: of the sums given to `check`, in order.
    """

    def __init__(self, names: Sequence[str]):
        self._names = (*names, "gradient", "moving statistics")
        self.variable = keras.Variable(np.zeros(len(self._names)), dtype="float32", trainable=False, name="not_finite")

    def check(
        self,
        sums: tf.Tensor,
        gradients: Sequence[tf.Tensor],
        statistics: Sequence[tf.Tensor],
        optimizer: keras.optimizers.Optimizer,
        *,
        in_loop: bool,
    ) -> tf.Tensor | bool:
        """Whether this step may update anything.

        Two cases are not failures. The loss scaling of float16 skips such steps on purpose. In Keras' own fit(), every
        step counts, because a callback may look for NaN.

        Args:
          sums: `[names]`, summed over all replicas.
          gradients: tensors of any shapes, summed over all replicas.
          statistics: BatchNorm's moving statistics after the step, the mean over all replicas.
          optimizer: the one that will apply the gradients.
          in_loop: whether the step runs in our own loop, after which `found` is asked.

        Returns:
          True or a bool tensor `[]`.
        """
        if optimizers.may_skip(optimizer):
            return _all_finite([*gradients, *statistics])
        if not in_loop:
            return True
        parts = [_all_finite(gradients)], [_all_finite(statistics)]
        bad = tf.logical_not(tf.concat([tf.math.is_finite(sums), *parts], axis=0))
        known = self.variable.value
        stopped = tf.reduce_any(known > 0)
        self.variable.assign(tf.where(stopped, known, tf.cast(bad, tf.float32)))
        return tf.logical_not(tf.logical_or(stopped, tf.reduce_any(bad)))

    def found(self) -> list[str]:
        """Names of the values that were not finite, in the first step with one; empty if all were."""
        return [name for name, bad in zip(self._names, self.variable.numpy(), strict=True) if bad]

    def reset(self) -> None:
        """Forgets what was found; steps change the model again."""
        self.variable.assign(np.zeros(len(self._names)))


def _all_finite(tensors):
    return tf.reduce_all([True, *(tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors)])
