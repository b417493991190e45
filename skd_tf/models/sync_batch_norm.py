"""BatchNorm over the global batch: the statistics of one replica, on any number of them."""

import contextlib
import threading

import keras
import tensorflow as tf
from keras import ops

from skd_tf.models.graph import copy_state, exchange_layers
from skd_tf.networks.batch_norm import FusedBatchNormalization
from skd_tf.runtime import replicas

_here = threading.local()  # replicas are traced in threads of their own


@contextlib.contextmanager
def counting(present):
    """What layers see inside the block counts in their statistics where `present`, a bool `[]`; a stand-in does not."""
    _here.present = present
    try:
        yield
    finally:
        del _here.present


@keras.saving.register_keras_serializable("skd_tf")
class SynchronizedBatchNormalization(FusedBatchNormalization):
    """FusedBatchNormalization whose batch statistics in training are those of all replicas' examples, in one collective.

        mean = sum_i n_i m_i / n,   variance = sum_i n_i (v_i + m_i^2) / n - mean^2

    over replicas i with n_i values a channel of mean m_i and variance v_i; n is the sum of n_i. The collective's gradient is
    a collective too: XLA can compile neither.

    A replica without examples has n_i = 0 and keeps its moving statistics; those of the k others out of R go R / k times as
    far, so that the mean over all R, which a Distiller takes, is what one replica would have.
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
        """Mean and variance `[channels]` of every replica's values; R / k `[]`, 0 on a replica without examples.

        They are taken from `origin`, the same on all replicas: the nearer to the mean, the less the squares cancel.
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


def synchronized(model):
    """A copy of a Functional or Sequential model, with the same weights, whose BatchNorm layers are synchronized."""

    def exchange(layer):
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        kind = SynchronizedBatchNormalization if is_batch_norm else type(layer)
        return kind.from_config(layer.get_config())

    copy, copies = exchange_layers(model, exchange)
    for layer, synchronized_layer in copies.items():
        copy_state(layer, synchronized_layer)
    return copy


def is_synchronized(model):
    """Whether a model's forward pass in training holds a collective: a layer of ours, or one of Keras' that says so."""
    return any(
        isinstance(layer, SynchronizedBatchNormalization) or getattr(layer, "synchronized", False)
        for layer in model._flatten_layers(include_self=False)
    )
