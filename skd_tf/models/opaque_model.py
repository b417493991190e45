"""What models whose layers cannot be seen have in common: those of a SavedModel, a LiteRT file or an ONNX file."""

from typing import Any

import tensorflow as tf


class OpaqueModel:
    """A model with the attributes of a keras.Model that evaluation needs; called on pixels, it returns logits.

    Attributes:
      name: of its file or folder.
      input_shape: (batch or None, height, width, channels).
      output_shape: (None, classes).
      dtype: tf.DType of its images.
      trainable_variables: as far as they are known.
    """

    name: str
    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, int]
    dtype: tf.DType
    trainable_variables: Any = ()

    @property
    def takes_integers(self) -> bool:
        """Whether its images are whole numbers, as pixels from 0 to 255 are."""
        return bool(self.dtype.is_integer)

    def as_pixels(self, images: tf.Tensor) -> tf.Tensor:
        """Images in the type that the model takes."""
        images = tf.convert_to_tensor(images)
        if self.takes_integers and images.dtype.is_floating:  # a resized image
            images = tf.clip_by_value(tf.round(images), 0, 255)
        return tf.cast(images, self.dtype)
