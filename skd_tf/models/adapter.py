"""Adapts a model that takes other images than the dataset's, or returns probabilities: raw pixels in, logits out."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.errors import input_error
from skd_tf.models.preprocessing import preprocess, repeat_grey, takes_rgb_for_grey

_REPEATS = 0.01  # of the largest output; accelerators do not always repeat a result exactly
_TINY = np.finfo(np.float32).tiny


class ModelAdapter:
    """A model behind resizing and preprocessing; it takes the dataset's raw pixels and returns logits.

        logits = log max(p, tiny) if the model returns probabilities p, otherwise the model's output

    Images are resized to the model's size if it differs: bilinear, with antialiasing when they shrink. A model for RGB
    images gets a grey image as equal red, green and blue.

    Args:
      model: keras.Model or `SavedModel`.
      image_shape: (height, width, channels) of the images that it is given.
      preprocessing: a kind of `skd_tf.models.preprocessing.with_preprocessing`.
      mean, std: per channel of these images, of pixels scaled to [0, 1]; for "standard".
      probabilities: whether the model returns probabilities.

    Attributes:
      size: (height, width) that images are resized to, or None.
      from_grey: whether the images are grey and the model is for RGB.
      network: the model itself.
      probabilities: whether it returns probabilities.
    """

    def __init__(
        self,
        model: Any,
        image_shape: tuple[int, int, int],
        preprocessing: str,
        *,
        mean: tuple[float, ...] = (),
        std: tuple[float, ...] = (),
        probabilities: bool = False,
    ) -> None:
        self.network, self.probabilities = model, probabilities
        size = tuple(model.input_shape[1:3])
        self.size = None if None in size or size == image_shape[:2] else size
        self._resize = self.size and [_resizing(*pair) for pair in zip(image_shape, size, strict=False)]
        self.from_grey = takes_rgb_for_grey(model, image_shape)
        self._preprocess = None
        if preprocessing != "raw" or self.from_grey:
            images = keras.Input((*(self.size or image_shape[:2]), image_shape[2]))
            pixels = images
            if self.from_grey:
                pixels, mean, std = repeat_grey(images), mean * 3, std * 3
            self._preprocess = keras.Model(images, preprocess(pixels, preprocessing, mean=mean, std=std))
        self.name, self.output_shape = model.name, model.output_shape
        self.input_shape = (model.input_shape[0], *image_shape)
        self.trainable_variables = model.trainable_variables
        if hasattr(model, "unfolded_parameters"):
            self.unfolded_parameters = model.unfolded_parameters

    def __call__(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        del training
        if self._resize is not None:
            rows, columns = self._resize
            # Two matrix products, because XLA has no kernel for the antialiased resize.
            images = tf.einsum("Yy,byxc,Xx->bYXc", rows, tf.cast(images, tf.float32), columns)
        if self._preprocess is not None:
            images = self._preprocess(images)
        outputs = self.network(images, training=False)
        return log_probabilities(outputs) if self.probabilities else outputs


def log_probabilities(probabilities: tf.Tensor) -> tf.Tensor:
    """The logarithms of probabilities, float32: logits with this softmax. A probability of 0 becomes about -87."""
    return tf.math.log(tf.maximum(tf.cast(probabilities, tf.float32), _TINY))


def returns_probabilities(model: Callable[[Any], Any], images: Any, who: str) -> bool:
    """Whether a model's outputs for these images are all >= 0 and sum to 1.

    Raises:
      InputError: it gives the same images other outputs in a second call, as an exported augmentation does.
    """
    first, second = (keras.ops.convert_to_numpy(keras.ops.cast(model(images), "float32")) for _ in range(2))
    with np.errstate(invalid="ignore"):  # outputs that are not finite are found elsewhere
        difference = np.abs(first - second).max(initial=0.0)
    if difference > _REPEATS * np.abs(first).max(initial=0.0):
        raise input_error(
            f"The {who} gives the same images other outputs in a second call",
            expected="a model that does not augment its images in inference",
            received=f"outputs that differ by {difference:.3g}",
            remedy="Export it so that its augmentation is called with training=False",
        )
    return are_probabilities(first)


def are_probabilities(outputs: Any) -> bool:
    """Whether outputs `[n, classes]` are all >= 0 and sum to 1 over the classes."""
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32"))
    return bool(outputs.size and (outputs >= 0).all() and np.abs(outputs.sum(axis=-1) - 1).max() < 1e-2)


def _resizing(size, new_size):
    """`[new_size, size]` float32: one axis of tf.image.resize(antialias=True), which is linear and separable."""
    one = tf.image.resize(tf.eye(size)[None, :, :, None], [new_size, size], antialias=True)
    return one[0, :, :, 0].numpy()
