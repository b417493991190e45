"""Random erasing: a rectangle of an image is replaced by noise."""

import math

import numpy as np
import tensorflow as tf

from skd_tf.data.trivial_augment import on_rows

DRAWS = 6  # chance, area, ratio, top, left, noise

_AREA = (0.02, 1 / 3)
_RATIO = (0.3, 1 / 0.3)
_RATIOS = 1024  # looked up: exp() rounds differently on other machines
_NOISE = 1 << 16  # fewest values of noise


def random_erasing(images: tf.Tensor, draws: tf.Tensor, probability: float) -> tf.Tensor:
    """Replaces a random rectangle of some images by noise.

    Args:
      images: uint8 `[batch, height, width, channels]`.
      draws: int32 `[batch, 6]`, >= 0.
      probability: of an image to be changed.

    Returns:
      uint8, the same shape. The rectangle has 0.02 to 1/3 of the image's area and a log-uniform height / width of 0.3
      to 3.33, cut to the image's sides. Its pixels are uniform noise.

    Reference: Zhong et al. 2017, arXiv:1708.04896.
    """
    return on_rows(images, _uniform(draws[:, 0]) < probability, _erase, draws)


def _erase(images, draws):
    _, height, width, channels = images.shape
    area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * _uniform(draws[:, 1]))
    powers = np.log(_RATIO[0]) + np.log(_RATIO[1] / _RATIO[0]) * (np.arange(_RATIOS) + 0.5) / _RATIOS
    ratio = tf.gather(np.exp(powers).astype(np.float32), draws[:, 2] % _RATIOS)
    rows, top = _span(tf.sqrt(area * ratio), height, draws[:, 3])
    columns, left = _span(tf.sqrt(area / ratio), width, draws[:, 4])
    inside = rectangle(top, left, rows, columns, height, width)
    size = height * width * channels
    sheet = max(size, _NOISE)
    noise = tf.random.stateless_uniform([sheet], [1, 1], minval=None, maxval=None, dtype=tf.int32, alg="philox")
    # One fixed sheet of noise, begun at a random place for each image.
    noise = tf.cast(tf.bitwise.bitwise_and(noise, 255), tf.uint8)
    noise = tf.gather(noise, (tf.range(size) + draws[:, 5, None] % sheet) % sheet)
    return tf.where(inside, tf.reshape(noise, tf.shape(images)), images)


def _span(length, most, draw):
    """(length in whole pixels, start), int32 `[batch]` each."""
    length = tf.clip_by_value(tf.cast(tf.round(length), tf.int32), 1, most)
    return length, draw % (most - length + 1)


def rectangle(top, left, rows, columns, height, width):
    """bool `[batch, height, width, 1]`: the pixels of a rectangle; all arguments int32 `[batch]` but the last two."""
    y, x = tf.range(height), tf.range(width)
    in_rows = (y >= top[:, None]) & (y < (top + rows)[:, None])
    in_columns = (x >= left[:, None]) & (x < (left + columns)[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :])[..., None]


def _uniform(draws):
    """float32 in [0, 1) with 24 random bits, from int32 draws of 31 bits."""
    return tf.cast(draws // 2**7, tf.float32) * math.ldexp(1, -24)
