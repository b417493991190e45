"""TrivialAugment: one random operation of random strength per image, on a batch of uint8 images.

The operations, their strengths and their pixels are those of the paper's wide space in Pillow. All arithmetic is whole
numbers, or single float operations that round alike everywhere, so the same draws give the same pixels on any machine.

Reference: Mueller and Hutter 2021, arXiv:2103.10158.
"""

import functools
import math

import numpy as np
import tensorflow as tf

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
LOOKED_UP = ("autocontrast", "equalize", "solarize", "posterize", "contrast", "brightness")
BLENDED = ("color", "sharpness")
OPERATIONS = ("identity", *GEOMETRIC, *LOOKED_UP, *BLENDED)
STRENGTHS = 31
DRAWS = 3  # operation, strength, sign

_DEGREES, _SHEAR, _PIXELS = 135, 0.99, 32
_FIXED = 1 << 16  # coordinates have 16 bits after the binary point, as in Pillow


def trivial_augment(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Applies to each image the operation that its draws choose.

    Args:
      images: uint8 `[batch, height, width, channels]`.
      draws: int32 `[batch, 3]`, >= 0: operation, strength and sign.

    Returns:
      uint8, the same shape. Pixels from outside of an image are black.
    """
    operation, strength, negative = draws[:, 0] % len(OPERATIONS), draws[:, 1] % STRENGTHS, draws[:, 2] % 2
    choices = tf.stack([operation, strength, negative], axis=1)
    for names, apply in ((GEOMETRIC, _move), (LOOKED_UP, _look_up), (BLENDED, _blend_with_image)):
        first = OPERATIONS.index(names[0])
        chosen = (operation >= first) & (operation < first + len(names))
        images = on_rows(images, chosen, apply, choices - [first, 0, 0])
    return images


def on_rows(images, chosen, function, draws):
    """The images, of which those that are `chosen` (bool `[batch]`) are replaced by function(images, draws) of them."""
    rows = tf.where(chosen)
    changed = function(tf.gather_nd(images, rows), tf.gather_nd(draws, rows))
    return tf.tensor_scatter_nd_update(images, rows, changed)


def _move(images, choices):
    """Rotates, shears or translates, taking the nearest pixel."""
    _, height, width, channels = images.shape
    matrices = tf.gather_nd(tf.constant(_matrices(height, width)), choices)[:, :, None, None]
    x, y = tf.range(width)[None, :], tf.range(height)[:, None]
    # x >> 16 floors, also for negative numbers
    from_x = tf.bitwise.right_shift(matrices[:, 0] * x + matrices[:, 1] * y + matrices[:, 2], 16)
    from_y = tf.bitwise.right_shift(matrices[:, 3] * x + matrices[:, 4] * y + matrices[:, 5], 16)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    positions = tf.reshape(tf.where(inside, from_y * width + from_x, 0), [-1, height * width])
    pixels = tf.gather(tf.reshape(images, [-1, height * width, channels]), positions, axis=1, batch_dims=1)
    return tf.reshape(pixels, tf.shape(images)) * tf.cast(inside, tf.uint8)[..., None]


@functools.lru_cache(maxsize=8)
def _matrices(height, width):
    """int32 `[operation, strength, sign, 6]`: source coordinates in 1 / 65536 pixels, as rows (per x, per y, offset)."""
    table = np.zeros([len(GEOMETRIC), STRENGTHS, 2, 6], np.int32)
    for place in np.ndindex(table.shape[:3]):
        operation, strength, sign = GEOMETRIC[place[0]], place[1], 1 - 2 * place[2]
        degrees, pixels = (sign * (most * strength // (STRENGTHS - 1)) for most in (_DEGREES, _PIXELS))
        shear = sign * (strength * _SHEAR / (STRENGTHS - 1))
        table[place] = _fixed_point(
            {
                "rotate": _rotation(degrees, height, width),
                "shear_x": (1, shear, 0, 0, 1, 0),
                "shear_y": (1, 0, 0, shear, 1, 0),
                "translate_x": (1, 0, pixels, 0, 1, 0),
                "translate_y": (1, 0, 0, 0, 1, pixels),
            }[operation]
        )
    return table


def _rotation(degrees, height, width):
    """The affine map of a rotation about the centre, counter-clockwise."""
    cosine, sine = (round(f(-math.radians(degrees % 360.0)), 15) for f in (math.cos, math.sin))
    x, y = width / 2, height / 2
    return cosine, sine, cosine * -x + sine * -y + x, -sine, cosine, -sine * -x + cosine * -y + y


def _fixed_point(matrix):
    a, b, c, d, e, f = matrix
    centred = (a, b, c + a * 0.5 + b * 0.5, d, e, f + d * 0.5 + e * 0.5)  # from the middle of a pixel
    return [math.floor(number * _FIXED + 0.5) for number in centred]


def _look_up(images, choices):
    """The operations that map each value of a channel to another one."""
    values, count = tf.range(256), tf.shape(images)[0]
    channels = images.shape[-1]
    identity = tf.broadcast_to(values, [count, channels, 256])
    histogram = _histogram(images)
    strength = choices[:, 1]
    levels = np.arange(STRENGTHS)
    threshold = tf.gather(256 - 256 * levels // (STRENGTHS - 1), strength)[:, None, None]
    mask = tf.gather(256 - 2 ** (6 * levels // (STRENGTHS - 1)), strength)[:, None, None]
    factor = _factor(strength)[:, None, None]
    mean = _rounded_mean(_gray(images))[:, None, None]
    tables = {
        "autocontrast": _autocontrast(histogram, identity),
        "equalize": _equalize(histogram, identity),
        "solarize": tf.where(identity < tf.cast(threshold, tf.int32), identity, 255 - identity),
        "posterize": tf.bitwise.bitwise_and(identity, tf.cast(mask, tf.int32)),
        "contrast": _blend(mean, identity, factor),
        "brightness": _blend(tf.zeros_like(mean), identity, factor),
    }
    table = tf.gather(tf.stack([tables[name] for name in LOOKED_UP], axis=1), choices[:, 0], axis=1, batch_dims=1)
    positions = tf.cast(images, tf.int32) + 256 * tf.range(channels)
    flat = tf.gather(tf.reshape(table, [-1, channels * 256]), tf.reshape(positions, [count, -1]), axis=1, batch_dims=1)
    return tf.cast(tf.reshape(flat, tf.shape(images)), tf.uint8)


def _histogram(images):
    """int32 `[batch, channels, 256]`."""
    count, channels = tf.shape(images)[0], images.shape[-1]
    bins = tf.range(count * channels) * 256
    bins = tf.cast(images, tf.int32) + tf.reshape(bins, [count, 1, 1, channels])
    counted = tf.math.unsorted_segment_sum(tf.ones_like(bins), bins, count * channels * 256)
    return tf.reshape(counted, [count, channels, 256])


def _autocontrast(histogram, identity):
    """Stretches the darkest value of a channel to 0 and the brightest to 255."""
    low, high = _extremes(histogram)
    spread = high - low
    scale = 255.0 / tf.cast(tf.maximum(spread, 1), tf.float64)
    stretched = tf.cast(identity, tf.float64) * scale + (-tf.cast(low, tf.float64) * scale)
    return tf.where(spread > 0, tf.cast(tf.clip_by_value(stretched, 0, 255), tf.int32), identity)


def _equalize(histogram, identity):
    """Makes the values of a channel about equally frequent."""
    _, high = _extremes(histogram)
    step = (tf.reduce_sum(histogram, -1, keepdims=True) - tf.gather(histogram, high, axis=-1, batch_dims=2)) // 255
    before = tf.cumsum(histogram, axis=-1, exclusive=True)
    equalized = (before + step // 2) // tf.maximum(step, 1)
    return tf.where(step > 0, tf.minimum(equalized, 255), identity)


def _extremes(histogram):
    """The smallest and the largest value that occurs, int32 `[batch, channels, 1]` each."""
    occurs = tf.cast(histogram > 0, tf.int32)
    low = tf.argmax(occurs, axis=-1, output_type=tf.int32)
    high = 255 - tf.argmax(occurs[..., ::-1], axis=-1, output_type=tf.int32)
    return low[..., None], high[..., None]


def _blend_with_image(images, choices):
    """The operations that mix an image with a changed one: its gray version, or its smoothed version."""
    pixels = tf.cast(images, tf.int32)
    is_color = tf.equal(choices[:, 0], BLENDED.index("color"))[:, None, None, None]
    other = tf.where(is_color, _gray(images)[..., None], _smooth(pixels))
    return tf.cast(_blend(other, pixels, _factor(choices[:, 1])[:, None, None, None]), tf.uint8)


def _factor(strength):
    """float32: 0.01 to 2 in 31 equal steps."""
    return tf.gather(np.array([level * 1.99 / 30 + 0.01 for level in range(STRENGTHS)], np.float32), strength)


def _blend(other, pixels, factor):
    """other + factor * (pixels - other) in float32, clipped and cut off to whole numbers; int32."""
    blended = tf.cast(other, tf.float32) + factor * tf.cast(pixels - other, tf.float32)
    return tf.cast(tf.clip_by_value(blended, 0.0, 255.0), tf.int32)


def _gray(images):
    """Luma of ITU-R 601 in 16-bit fixed point, int32 `[batch, height, width]`."""
    pixels = tf.cast(images, tf.int32)
    if images.shape[-1] != 3:
        return pixels[..., 0]
    red, green, blue = tf.unstack(pixels, axis=-1)
    return tf.bitwise.right_shift(red * 19595 + green * 38470 + blue * 7471 + 0x8000, 16)


def _rounded_mean(gray):
    """The mean over each image's pixels, halves rounded up, int32 `[batch]`."""
    _, height, width = gray.shape
    return tf.cast(
        (2 * tf.reduce_sum(tf.cast(gray, tf.int64), [1, 2]) + height * width) // (2 * height * width), tf.int32
    )


def _smooth(pixels):
    """Each inner pixel averaged with its eight neighbours, at weights 5 and 1; the border stays."""
    _, height, width, _ = pixels.shape
    if height < 3 or width < 3:
        return pixels
    rows = pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * pixels[:, 1:-1, 1:-1]
    inner = (2 * total + 13) // 26
    middle = tf.concat([pixels[:, 1:-1, :1], inner, pixels[:, 1:-1, -1:]], axis=2)
    return tf.concat([pixels[:, :1], middle, pixels[:, -1:]], axis=1)
