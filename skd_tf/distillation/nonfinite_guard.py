"""NonFiniteGuard: skips the update and stops the loop if the loss or a gradient is not finite."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from skd_tf.distillation import optimizers


class NonFiniteGuard:
    """Remembers which values of the last step were not finite.

    The step that finds one skips its update, and the loop stops. The model then keeps the state before that step,
    however many steps one call from Python asked for, and Python does not have to wait for each step to look.

    Args:
      names: of the sums given to `check`, in order.
    """

    def __init__(self, names: Sequence[str]):
        self._names = (*names, "gradient")
        self._not_finite = keras.Variable(
            np.zeros(len(self._names)), dtype="float32", trainable=False, name="not_finite"
        )

    def check(
        self, sums: tf.Tensor, gradients: Sequence[tf.Tensor], optimizer: keras.optimizers.Optimizer, *, in_loop: bool
    ) -> tf.Tensor | bool:
        """Whether this step may update anything; call it in replica context.

        Two cases are not failures. The loss scaling of float16 skips such steps on purpose. In Keras' own fit(), every
        step counts, because a callback may look for NaN.

        Args:
          sums: `[names]`, summed over all replicas.
          gradients: tensors of any shapes, summed over all replicas.
          optimizer: the one that will apply the gradients.
          in_loop: whether the step runs in our own loop, which asks `tripped` before each step.

        Returns:
          True or a bool tensor `[]`.
        """
        if optimizers.may_skip(optimizer):
            return optimizer.check_finite(gradients)
        if not in_loop:
            return True
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        finite = tf.concat([tf.math.is_finite(sums), [finite]], axis=0)
        self._not_finite.assign(tf.cast(tf.logical_not(finite), tf.float32))
        return tf.reduce_all(finite)

    def tripped(self) -> tf.Tensor:
        """Whether the last step found a value that is not finite, bool `[]`; call it in cross-replica context."""
        return tf.reduce_any(self._not_finite.value > 0)

    def found(self) -> list[str]:
        """Names of the values that were not finite in the last step; empty if all were."""
        return [name for name, bad in zip(self._names, self._not_finite.numpy(), strict=True) if bad]

    def reset(self) -> None:
        """Forgets what the last step found."""
        self._not_finite.assign(np.zeros(len(self._names)))
