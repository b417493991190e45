"""BatchNorm over the global batch: any number of replicas gives the statistics of one."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from skd_tf.errors import input_error
from skd_tf.models.graph import rebuilt, replace_layers
from skd_tf.networks.batch_norm import FusedBatchNormalization
from skd_tf.runtime import compat, replicas

_here = threading.local()  # each replica is traced in its own thread


@contextlib.contextmanager
def counting(present: Any) -> Iterator[None]:
    """Inside this context, a batch counts in the statistics only if `present`, a bool `[]`: a placeholder does not."""
    _here.present = present
    try:
        yield
    finally:
        del _here.present


@keras.saving.register_keras_serializable("skd_tf")
class SynchronizedBatchNormalization(FusedBatchNormalization):
    """FusedBatchNormalization that in training takes its batch statistics over all replicas, in one collective.

        mean = sum_i n_i m_i / n,   variance = sum_i n_i (v_i + m_i^2) / n - mean^2

    Replica i has n_i values per channel with mean m_i and variance v_i; n is the sum of n_i. The gradient of the
    collective is a collective too, and XLA can compile neither.

    A replica without examples has n_i = 0 and keeps its moving statistics. Those of the other k of R replicas move
    R / k times as far. The mean over all R, which a Distiller takes, is then what a single replica would have.
    """

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        x = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
        moving_mean, moving_variance = (ops.cast(v, x.dtype) for v in (self.moving_mean, self.moving_variance))
        mean, variance, share = self._global_moments(x, moving_mean)
        rate = (1.0 - self.momentum) * share
        self.moving_mean.assign(moving_mean * (1.0 - rate) + mean * rate)
        self.moving_variance.assign(moving_variance * (1.0 - rate) + variance * rate)
        gamma = ops.cast(self.gamma, x.dtype) if self.scale else None
        beta = ops.cast(self.beta, x.dtype) if self.center else None
        outputs = ops.batch_normalization(x, mean, variance, self.axis, beta, gamma, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)

    def _global_moments(self, x, origin):
        """Mean and variance `[channels]` over all replicas, and R / k `[]`, which is 0 on a replica without examples.

        The sums are taken about `origin`, the same on all replicas. The nearer it is to the mean, the less they cancel.
        """
        axes = [axis for axis in range(len(x.shape)) if axis != self.axis % len(x.shape)]
        values = ops.cast(tf.size(x) / x.shape[self.axis], x.dtype)
        present = ops.cast(values > 0, x.dtype) * ops.cast(getattr(_here, "present", True), x.dtype)
        count = present * values
        local_mean = tf.math.divide_no_nan(tf.reduce_sum(x, axes), values)
        local_squares = tf.reduce_sum(tf.square(x - ops.reshape(local_mean, self._along_axis(x))), axes)
        from_origin = local_mean - origin
        count, total, squares, replicas_present = replicas.sum_over_replicas(
            [count, count * from_origin, present * local_squares + count * tf.square(from_origin), present]
        )
        offset = total / count
        share = present * tf.distribute.get_replica_context().num_replicas_in_sync / replicas_present
        return origin + offset, tf.maximum(squares / count - tf.square(offset), 0.0), share

    def _along_axis(self, x):
        return [-1 if axis == self.axis % len(x.shape) else 1 for axis in range(len(x.shape))]


def synchronized(model: keras.Model) -> keras.Model:
    """A copy of a Functional or Sequential model, with the same weights, whose BatchNorm layers are synchronized.

    Raises:
      InputError: a BatchNorm inside a layer, such as a wrapper, cannot be replaced.
    """

    def replacement(layer):
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        kind = SynchronizedBatchNormalization if is_batch_norm else type(layer)
        return rebuilt(layer, kind)

    made = replace_layers(model, replacement)[0]
    left = [layer for layer in compat.layers_of(made) if isinstance(layer, keras.layers.BatchNormalization)]
    left = [layer for layer in left if not isinstance(layer, SynchronizedBatchNormalization) and not layer.synchronized]
    if left:
        raise input_error(
            "A BatchNorm inside another layer cannot be synchronized",
            expected="BatchNormalization layers of the model itself, or with synchronized=True",
            received=f"the layer {left[0].path}",
            remedy="Omit --sync_batch_norm, or give that layer synchronized=True",
        )
    return made


def is_synchronized(model: keras.Model) -> bool:
    """Whether a model's forward pass in training contains a collective, of this class or of Keras' own."""
    return any(
        isinstance(layer, SynchronizedBatchNormalization) or getattr(layer, "synchronized", False)
        for layer in compat.layers_of(model, include_self=False)
    )
