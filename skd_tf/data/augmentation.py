"""Augmentation as a pure function of (image, example index, epoch, data_seed).

There is no stateful generator: random numbers of (data_seed, epoch, example) decide how an example is augmented. The
same augmented image can be made again at any time, in any batch and on any replica, so a teacher's logits can be
computed once and stored.
"""

import typing
from collections.abc import Sequence

import tensorflow as tf

from skd_tf.data import philox

# Part of the teacher cache's key: raise it when the same draws would give other pixels.
VERSION = 1

_EPOCHS = 1 << 32  # streams are this far apart, so that no epoch of one equals an epoch of another
CROP = (1, 3)  # number of the stream and random numbers of each example


class Augmentation(typing.NamedTuple):
    """Zero-pad by `pad` pixels on each side, crop at random to the old size, mirror with probability 1/2 if `flip`."""

    pad: int
    flip: bool


class ResizedCrop(typing.NamedTuple):
    """Crop a window of random area and aspect ratio, resize it to the image's shape, mirror as `Augmentation` does.

    `area` is the range of (window area) / (image area), `ratio` the range of width / height.
    """

    flip: bool
    area: tuple[float, float] = (0.1, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)


class Extra(typing.NamedTuple):
    """What follows the crop: TrivialAugment, random erasing, mixup and CutMix.

    `erase` is its probability; `mixup` and `cutmix` are parameters of Beta distributions. 0 is off.
    """

    trivial: bool = False
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether each image is mixed with another one."""
        return bool(self.mixup or self.cutmix)


NO_EXTRA = Extra()


def key_of(crop: Augmentation | ResizedCrop, extra: Extra) -> list:
    """What identifies the pixels of equal draws in a cache's key, as JSON."""
    return [VERSION, *crop, *([extra._asdict()] if any(extra) else [])]


def random_numbers(
    data_seed: int, epoch: int | tf.Tensor, examples: tf.Tensor, streams: Sequence[tuple[int, int]] = (CROP,)
) -> tf.Tensor:
    """The random numbers behind the augmentation of examples in one epoch: int32 `[n, columns]`, >= 0.

    Args:
      data_seed: decides the augmentation.
      epoch: number of the epoch, an int scalar.
      examples: int `[n]`, positions in the source's split.
      streams: (number, columns) of each operation; none depends on which others there are.
    """
    seed, epoch = tf.cast(data_seed, tf.int64), tf.cast(epoch, tf.int64)
    tables = [(tf.stack([seed, epoch + number * _EPOCHS]), columns) for number, columns in streams]
    return philox.rows(tables, examples)


def augment_batch(images: tf.Tensor, draws: tf.Tensor, augmentation: Augmentation | ResizedCrop) -> tf.Tensor:
    """Pads, crops and mirrors a batch with one gather, without a loop over images.

    Args:
      images: `[batch, height, width, channels]`, any dtype, raw pixels. The padding is black (0), as is usual.
      draws: `[batch, 3]` int32, of `random_numbers`.
      augmentation: an `Augmentation`. For a `ResizedCrop` the images were cropped at decoding and are returned as is.

    Returns:
      The same shape and dtype as `images`.
    """
    if isinstance(augmentation, ResizedCrop) or not any(augmentation):
        return images
    pad, flip = augmentation
    _, height, width, channels = images.shape
    span = 2 * pad + 1
    rows = draws[:, 0, None] % span + tf.range(height)
    columns = tf.range(width)
    if flip:
        mirrored = tf.equal(draws[:, 2, None] % 2, 1)
        columns = tf.where(mirrored, columns[::-1], columns)
    columns = draws[:, 1, None] % span + columns
    padded_width = width + 2 * pad
    padded = tf.pad(images, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
    pixels = tf.reshape(padded, [-1, (height + 2 * pad) * padded_width, channels])
    positions = tf.reshape(rows[:, :, None] * padded_width + columns[:, None, :], [-1, height * width])
    return tf.reshape(tf.gather(pixels, positions, axis=1, batch_dims=1), [-1, height, width, channels])
