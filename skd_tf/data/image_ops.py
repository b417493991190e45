"""Operations on one image, from encoded bytes to pixels of a fixed size; they run in a graph."""

import math

import tensorflow as tf

from skd_tf.data.augmentation import ResizedCrop

_LONG = 16  # times a side of the result; an image that gets a longer one is not scaled as a whole
_TRIES = 10  # windows drawn before the centre is taken, as in torchvision's RandomResizedCrop


def decode(encoded: tf.Tensor, channels: int = 0) -> tf.Tensor:
    """JPEG or PNG bytes to uint8 `[height, width, channels]`; channels 0: as many as the file has."""
    image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
    image.set_shape([None, None, channels or None])
    return image


def decode_file(encoded: tf.Tensor, channels: int, orientation: tf.Tensor, deep: tf.Tensor, bits: int) -> tf.Tensor:
    """The bytes of an image file to upright uint8 `[height, width, channels]`.

    JPEG is decoded with the accurate transform, as Pillow does. The bytes of a 16-bit PNG become value / 2^(bits - 8).
    Transparency is dropped; in a GIF it is black. One channel is Pillow's "L".

    Args:
      encoded: a JPEG, PNG, WebP, BMP or GIF file; of a GIF the first frame is taken.
      channels: 1 or 3.
      orientation: int32 scalar, of EXIF.
      deep: bool scalar, whether it is a 16-bit PNG.
      bits: that hold the brightest value of the set's 16-bit images, 8 to 16.
    """

    def other():
        return tf.cond(deep, lambda: _decode_deep(encoded, channels, bits), lambda: _decode_shallow(encoded, channels))

    image = tf.cond(tf.io.is_jpeg(encoded), lambda: _decode_jpeg(encoded, channels), other)
    image.set_shape([None, None, channels])
    return upright(image, orientation)


def _decode_jpeg(encoded, channels):
    def decoded(channels):
        return tf.io.decode_jpeg(encoded, channels=channels, dct_method="INTEGER_ACCURATE")

    if channels != 1:
        return decoded(channels)
    is_cmyk = tf.io.extract_jpeg_shape(encoded)[2] == 4  # which libjpeg does not make grey
    return tf.cond(is_cmyk, lambda: _grey(decoded(3)), lambda: decoded(1))


def _decode_deep(encoded, channels, bits):
    values = tf.cast(tf.io.decode_png(encoded, channels=channels, dtype=tf.uint16), tf.int32)
    return tf.cast(tf.minimum(values // 2 ** (bits - 8), 255), tf.uint8)


def _decode_shallow(encoded, channels):
    """A PNG, WebP, BMP or GIF file of 8 bits. Only the decoder of PNG gives other channels than the file has."""

    def converted():
        image = decode(encoded)
        colours = tf.gather(image, tf.minimum(tf.range(3), tf.shape(image)[-1] - 1), axis=-1)
        return colours if channels == 3 else _grey(colours)

    is_png = tf.strings.substr(encoded, 0, 4) == b"\x89PNG"
    return tf.cond(is_png, lambda: decode(encoded, channels), converted)


def _grey(image):
    """Pillow's "L" of an RGB image: ITU-R 601 luma in 16-bit fixed point."""
    luma = tf.reduce_sum(tf.cast(image, tf.int32) * [19595, 38470, 7471], axis=-1, keepdims=True)
    return tf.cast((luma + (1 << 15)) // (1 << 16), tf.uint8)


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """An image `[height, width, channels]` as EXIF's orientation 1 to 8 says that it is shown."""
    shape = [None, None, image.shape[-1]]

    def turned():
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        upside_down, mirrored = _flips(orientation)
        turned = tf.cond(upside_down, lambda: tf.reverse(turned, [0]), lambda: turned)
        return tf.cond(mirrored, lambda: tf.reverse(turned, [1]), lambda: turned)

    image = tf.cond(orientation == 1, lambda: image, turned)
    return tf.ensure_shape(image, shape)


def stored_window(window: tf.Tensor, size: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """The window of the stored image that becomes `window` of the upright one.

    Args:
      window: int32 `[4]`: top, left, height, width.
      size: int32 `[2]`: height and width of the upright image.
      orientation: of EXIF.
    """
    top, left, height, width = tf.unstack(window)
    upside_down, mirrored = _flips(orientation)
    top = tf.where(upside_down, size[0] - top - height, top)
    left = tf.where(mirrored, size[1] - left - width, left)
    transposed = tf.stack([left, top, width, height])
    return tf.where(orientation >= 5, transposed, tf.stack([top, left, height, width]))


def _flips(orientation):
    """(whether the rows are reversed, whether the columns are), after the transposition of orientations 5 to 8."""
    return tf.reduce_any(orientation == [3, 4, 7, 8]), tf.reduce_any(orientation == [2, 3, 6, 7])


def fit(image: tf.Tensor, shape: tuple[int, int, int], resize: int = 0, *, exact: bool = False) -> tf.Tensor:
    """Resizes the shorter side of an image and crops its centre to `shape`.

    Args:
      image: uint8 `[any, any, channels]`, or a batch of them.
      shape: (height, width, channels) of the result; height equals width if `resize` is given.
      resize: length of the shorter side before the crop, in pixels; 0: the image already has its shape.
      exact: whether the sides are rounded as Python rounds them; in float32 a half can fall to either side.
    """
    if resize:
        image = resized_centre(image, _sides_exact(image, resize) if exact else _sides(image, resize), shape)
    return tf.ensure_shape(image, [None] * ((image.shape.rank or 3) - 3) + list(shape))


def _sides(image, resize):
    height, width = tf.unstack(tf.cast(tf.shape(image)[-3:-1], tf.float32))
    scale = resize / tf.minimum(height, width)
    return tf.cast(tf.round([height * scale, width * scale]), tf.int32)


def _sides_exact(image, resize):
    """round(side * resize / shorter side), half to even, in whole numbers."""
    sides = tf.cast(tf.shape(image)[-3:-1], tf.int64)
    shorter = tf.reduce_min(sides)
    whole, rest = sides * resize // shorter, sides * resize % shorter
    up = (2 * rest > shorter) | ((2 * rest == shorter) & (whole % 2 == 1))
    return tf.cast(whole + tf.cast(up, tf.int64), tf.int32)


def decode_window(encoded: tf.Tensor, window: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """Decodes a window of an image and resizes it to `shape`; of a JPEG only that window is decoded."""
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_and_crop_jpeg(encoded, window, channels=shape[-1]),
        lambda: tf.slice(decode(encoded, shape[-1]), [window[0], window[1], 0], [window[2], window[3], shape[-1]]),
    )
    return tf.ensure_shape(resized(image, shape[:2]), shape)


def resized(image: tf.Tensor, size: tf.Tensor | tuple[int, int]) -> tf.Tensor:
    """A uint8 image at another size: bilinear, with an antialias filter where it shrinks."""
    return _to_pixels(tf.image.resize(image, size, antialias=True))


def resized_centre(image: tf.Tensor, sides: tf.Tensor, shape: tuple[int, int, int]) -> tf.Tensor:
    """The centre of an image that is resized to `sides`, with the height and width of `shape`.

    Args:
      image: uint8 `[any, any, channels]`, or a batch of them.
      sides: int32 `[2]`: height and width, at least those of `shape`.
      shape: (height, width, channels) of the result.
    """

    def of_all():
        return tf.image.resize_with_crop_or_pad(resized(image, sides), *shape[:2])

    def alone():  # the rest of a thin image, which is a line scaled to the height of a picture, would take gigabytes
        images = image if image.shape.rank == 4 else image[None]
        scale = tf.cast(sides, tf.float32) / tf.cast(tf.shape(images)[1:3], tf.float32)
        before = tf.cast((sides - shape[:2]) // 2, tf.float32)
        pixels = tf.raw_ops.ScaleAndTranslate(
            images=images, size=shape[:2], scale=scale, translation=-before, kernel_type="triangle", antialias=True
        )
        return _to_pixels(pixels if image.shape.rank == 4 else pixels[0])

    return tf.cond(tf.reduce_max(sides) <= _LONG * max(shape[:2]), of_all, alone)


def _to_pixels(image):
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def size_of(encoded: tf.Tensor) -> tf.Tensor:
    """(height, width) int32 of JPEG or PNG bytes; a JPEG is not decoded for it."""
    return tf.cond(
        tf.io.is_jpeg(encoded), lambda: tf.io.extract_jpeg_shape(encoded)[:2], lambda: tf.shape(decode(encoded))[:2]
    )


def random_window(size: tf.Tensor, seed: tf.Tensor, augmentation: ResizedCrop) -> tf.Tensor:
    """A window of random area and aspect ratio: the first of ten draws that fits, else the largest centred window.

    Args:
      size: (height, width) int32 of the image.
      seed: int32 `[2]`; the window is a function of it.
      augmentation: the window's area is uniform in `area`, the log of its width / height uniform in log `ratio`.

    Returns:
      int32 `[4]`: top, left, height, width.

    Reference: torchvision.transforms.RandomResizedCrop; Szegedy et al. 2015, arXiv:1409.4842.
    """
    height, width = tf.unstack(tf.cast(size, tf.float32))
    draws = tf.random.stateless_uniform([4, _TRIES], seed=seed, alg="philox")
    low, high = augmentation.area
    narrow, wide = augmentation.ratio
    area = height * width * (low + (high - low) * draws[0])
    ratio = tf.exp(math.log(narrow) + (math.log(wide) - math.log(narrow)) * draws[1])
    heights, widths = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
    fits = (heights <= height) & (widths <= width) & (heights > 0) & (widths > 0)
    tops, lefts = tf.floor(draws[2] * (height - heights + 1)), tf.floor(draws[3] * (width - widths + 1))
    centre_height = tf.minimum(height, tf.round(width / narrow))
    centre_width = tf.minimum(width, tf.round(height * wide))
    centre = [(height - centre_height) // 2, (width - centre_width) // 2, centre_height, centre_width]
    first = tf.argmax(fits)
    drawn = tf.gather(tf.stack([tops, lefts, heights, widths], axis=1), first)
    return tf.cast(tf.where(tf.reduce_any(fits), drawn, tf.stack(centre)), tf.int32)
