"""Mixup and CutMix: an image is mixed with another training image, and its label with the other's label."""

import functools

import numpy as np
import tensorflow as tf

from skd_tf.data.erasing import rectangle

DRAWS = 5  # partner, mixup or cutmix, share, row, column

_SHARES = 4096  # quantiles of the Beta distribution
_WHOLE = 1 << 16  # shares are whole numbers of 1 / 65536, so that pixels are computed in whole numbers


def partners(draws: tf.Tensor, examples: int) -> tf.Tensor:
    """Position of the training image that each image is mixed with, int32 `[batch]`.

    It depends on the draws of (data_seed, epoch, example) alone, not on the batch.
    """
    return draws[:, 0] % examples


def mix(
    images: tf.Tensor, others: tf.Tensor, draws: tf.Tensor, *, mixup: float, cutmix: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each image with its partner; with both parameters each image gets mixup or CutMix with probability 1/2.

        mixup:  share * image + (1 - share) * other, rounded to uint8
        CutMix: a rectangle with (1 - share) of the area is cut out of the other image
        share ~ Beta(parameter, parameter)

    Args:
      images, others: uint8 `[batch, height, width, channels]`.
      draws: int32 `[batch, 5]`, >= 0.
      mixup, cutmix: parameters of the Beta distributions; 0: off. One of them is not 0.

    Returns:
      (uint8 as `images`, float32 `[batch]`: how much of each image is its own, which is its own label's share).

    Reference: Zhang et al. 2017, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
    """
    _, height, width, _ = images.shape
    cuts = draws[:, 1] % 2 == 1 if mixup and cutmix else tf.fill(tf.shape(draws)[:1], bool(cutmix))
    place = draws[:, 2] % _SHARES
    share = tf.gather(_shares(mixup), place)  # in 1 / 65536
    side = np.sqrt(1 - _shares(cutmix) / _WHOLE)  # of the rectangle, as a part of the image's side
    top, rows = _cut(tf.gather((side * height).astype(np.int32), place), height, draws[:, 3])
    left, columns = _cut(tf.gather((side * width).astype(np.int32), place), width, draws[:, 4])
    cut = cuts[:, None, None, None] & rectangle(top, left, rows, columns, height, width)
    own = tf.where(cuts, _WHOLE, share)[:, None, None, None]
    own = tf.where(cut, 0, own)
    mixed = tf.cast(images, tf.int32) * own + tf.cast(others, tf.int32) * (_WHOLE - own) + _WHOLE // 2
    uncut = 1 - tf.cast(rows * columns, tf.float32) / (height * width)
    label_share = tf.where(cuts, uncut, tf.cast(share, tf.float32) / _WHOLE)
    return tf.cast(mixed // _WHOLE, tf.uint8), label_share


def mix_labels(labels: tf.Tensor, others: tf.Tensor, share: tf.Tensor, classes: int) -> tf.Tensor:
    """share * label + (1 - share) * other label, float32 `[batch, classes]`, from class numbers `[batch]`."""
    own, other = (tf.one_hot(numbers, classes) for numbers in (labels, others))
    return share[:, None] * own + (1 - share[:, None]) * other


def _cut(length, most, draw):
    """(start, length) of a span of this length about a random centre, cut to the image; int32 `[batch]` each."""
    centre = draw % most
    start, stop = (tf.clip_by_value(centre + half, 0, most) for half in (-(length // 2), length // 2))
    return start, stop - start


@functools.lru_cache(maxsize=8)
def _shares(parameter: float) -> np.ndarray:
    """Quantiles of Beta(parameter, parameter) in 1 / 65536, int32 `[_SHARES]`, found by bisection."""
    if not parameter:
        return np.full(_SHARES, _WHOLE, np.int32)
    wanted = (np.arange(_SHARES) + 0.5) / _SHARES
    low, high = np.zeros(_SHARES), np.ones(_SHARES)
    shape = np.full(_SHARES, float(parameter))
    with tf.init_scope(), tf.device("CPU"):
        for _ in range(40):
            middle = (low + high) / 2
            below = tf.math.betainc(shape, shape, middle).numpy() < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.rint(middle * _WHOLE).astype(np.int32)
