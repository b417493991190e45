"""Augmentation as a pure function of (image, example index, epoch, data_seed).

Nothing is drawn from a stream: one table of numbers per epoch holds a row for every example, and the row decides. So
the same augmented image can be made again at any time, in any batch, on any replica, which is what lets a teacher's
logits be computed once and kept.
"""

import typing

import tensorflow as tf

# Part of the teacher cache's key: raise it whenever the same draws would give other pixels.
VERSION = 1

_AUGMENTATION_STREAM = 1 << 32


class Augmentation(typing.NamedTuple):
    """Zero-pad by `pad` pixels on each side and crop back, then mirror with probability 1/2 if `flip`."""

    pad: int
    flip: bool


class ResizedCrop(typing.NamedTuple):
    """A window of random area and aspect ratio, resized to the image's shape, then mirrored with probability 1/2 if `flip`.

    `area` is the range of the window's share of the image, `ratio` that of width / height.
    """

    flip: bool
    area: tuple = (0.1, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)


def draws(data_seed, epoch, examples):
    """Returns `[examples, 3]` int32, >= 0: the numbers behind each example's augmentation in one epoch."""
    bits = tf.random.stateless_uniform(
        [examples, 3],
        seed=tf.stack([tf.cast(data_seed, tf.int64), tf.cast(epoch, tf.int64) + _AUGMENTATION_STREAM]),
        minval=None,
        maxval=None,
        dtype=tf.int32,
        alg="philox",  # named, so that every device and machine draws the same
    )
    return tf.bitwise.bitwise_and(bits, 0x7FFFFFFF)


def apply(images, draws, augmentation):
    """Pad, crop and mirror a batch; one gather, no loop over images.

    Args:
      images: `[batch, height, width, channels]`, any dtype, raw pixels (the padding is black, 0, as in the field's recipes).
      draws: `[batch, 3]` int32 rows of `draws`.
      augmentation: an `Augmentation`; a `ResizedCrop` was cut when the image was decoded, and is left as it is.

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
    places = tf.reshape(rows[:, :, None] * padded_width + columns[:, None, :], [-1, height * width])
    return tf.reshape(tf.gather(pixels, places, axis=1, batch_dims=1), [-1, height, width, channels])
