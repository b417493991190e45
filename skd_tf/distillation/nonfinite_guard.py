"""Guard: a step whose loss or gradient is no number changes nothing, and is the last of its loop."""

import keras
import numpy as np
import tensorflow as tf

from skd_tf.distillation import optimizers


class NonFiniteGuard:
    """Remembers which values of a step were not finite.

    The step that finds any must then keep what it would change, and the loop around it ends: the state stays the one
    before that step, however many steps were asked for in one host call, and nobody has to wait for each.

    Args:
      names: of the sums that `check` gets, in order.
    """

    def __init__(self, names):
        self._names = (*names, "gradient")
        self._not_finite = keras.Variable(
            np.zeros(len(self._names)), dtype="float32", trainable=False, name="not_finite"
        )

    def check(self, sums, gradients, optimizer, *, in_loop):
        """Whether a step may change anything, True or bool `[]` (replica context).

        float16's loss scaling skips a step by itself, which is no failure; and in Keras' own fit() a step always counts,
        where a callback may look for NaN.

        Args:
          sums: `[names]`, like the gradients over all replicas.
          gradients: tensors of any shapes.
          optimizer: that is going to apply them.
          in_loop: whether the step stands in our own loop, which asks `tripped`.
        """
        if optimizers.may_skip(optimizer):
            return optimizer.check_finite(gradients)
        if not in_loop:
            return True
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        finite = tf.concat([tf.math.is_finite(sums), [finite]], axis=0)
        self._not_finite.assign(tf.cast(tf.logical_not(finite), tf.float32))
        return tf.reduce_all(finite)

    def tripped(self):
        """Whether the last step was not finite, bool `[]` (cross-replica context)."""
        return tf.reduce_any(self._not_finite.value > 0)

    def found(self):
        """Names of what was not finite in the last step; empty where all is well."""
        return [name for name, bad in zip(self._names, self._not_finite.numpy(), strict=True) if bad]

    def reset(self):
        self._not_finite.assign(np.zeros(len(self._names)))
