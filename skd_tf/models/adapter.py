"""A teacher of other images and outputs behind the student's: resized, preprocessed, its probabilities made logits."""

import keras
import numpy as np
import tensorflow as tf

from skd_tf.models.preprocessing import apply

_TINY = np.finfo(np.float32).tiny


class TeacherAdapter:
    """A model that takes the data set's raw pixels and returns logits.

        logits = log max(p, tiny) if the model returns probabilities p, else what it returns

    Args:
      model: keras.Model or `ServedModel`.
      size: (height, width) that images are resized to, bilinear, antialiased where they shrink; None leaves them.
      image_shape: (height, width, channels) of the images that come.
      preprocessing: a kind of `skd_tf.models.preprocessing.preprocessed`.
      mean, std: of the data set, for it.
      probabilities: whether the model returns probabilities.
    """

    def __init__(self, model, *, size, image_shape, preprocessing, mean, std, probabilities):
        self._model, self._probabilities = model, probabilities
        self._resize = None if size is None else [_resizing(*pair) for pair in zip(image_shape, size, strict=False)]
        self._preprocess = None
        if preprocessing != "raw":
            images = keras.Input((*(size or image_shape[:2]), image_shape[2]))
            self._preprocess = keras.Model(images, apply(images, preprocessing, mean=mean, std=std))
        self.name, self.output_shape = model.name, model.output_shape
        self.input_shape = (None, *image_shape)
        self.trainable_variables = model.trainable_variables
        if hasattr(model, "unfolded_parameters"):
            self.unfolded_parameters = model.unfolded_parameters

    def __call__(self, images, training=False):
        del training
        if self._resize is not None:
            rows, columns = self._resize
            # Two matrix products: XLA has no kernel for the antialiased resize.
            images = tf.einsum("Yy,byxc,Xx->bYXc", rows, tf.cast(images, tf.float32), columns)
        if self._preprocess is not None:
            images = self._preprocess(images)
        outputs = self._model(images, training=False)
        return tf.math.log(tf.maximum(tf.cast(outputs, tf.float32), _TINY)) if self._probabilities else outputs


def returns_probabilities(model, images):
    """Whether all outputs for some images are >= 0 and sum to 1."""
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(model(tf.constant(images)), "float32"))
    return bool((outputs >= 0).all() and np.abs(outputs.sum(axis=-1) - 1).max() < 1e-2)


def _resizing(size, new_size):
    """`[new_size, size]` float32: one axis of tf.image.resize(antialias=True), which is linear and separable."""
    one = tf.image.resize(tf.eye(size)[None, :, :, None], [new_size, size], antialias=True)
    return one[0, :, :, 0].numpy()
