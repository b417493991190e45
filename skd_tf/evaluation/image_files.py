"""The image files of any folder, read one after the other and brought to a model's size."""

import functools
import os
import pathlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from skd_tf.data import file_facts, folder_parts, image_header, image_ops
from skd_tf.errors import input_error
from skd_tf.runtime import devices
from skd_tf.runtime.local_paths import require_local
from skd_tf.runtime.streams import untuned

# Files that are images to a user. Those that TensorFlow cannot decode are listed as unreadable.
_READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp")
_IMAGES = (*_READ, ".jxl", ".tif", ".tiff", ".heic", ".heif")


def find(place: str | os.PathLike) -> tuple[pathlib.Path, list[str], Counter[str]]:
    """The image files in a folder and its subfolders, by the ends of their names.

    Hidden files and folders, and those that a system leaves behind, are skipped. Links are followed, but no folder is read twice.

    Args:
      place: a folder, or one image.

    Returns:
      (folder, sorted paths of the images relative to it, number of other files by suffix).

    Raises:
      InputError: there is no such folder, or no image in it.
    """
    require_local(place, "images")
    root = pathlib.Path(place)
    if root.is_file():
        return root.parent, [root.name], Counter()
    if not root.is_dir():
        raise input_error(
            "There is no such file or folder",
            expected="a folder of images, or one image",
            received=f"--images={place}",
            remedy="Check it",
        )
    images, seen = [], {os.path.realpath(root)}
    others: Counter[str] = Counter()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_refuse):
        subfolders[:] = [name for name in sorted(subfolders) if _is_new(os.path.join(folder, name), name, seen)]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if folder_parts.is_leaving(name):
                continue
            if suffix in _IMAGES:
                images.append(os.path.relpath(os.path.join(folder, name), root))
            else:
                others[suffix or "no suffix"] += 1
    if not images:
        found = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
        raise input_error(
            "The folder has no images",
            expected=f"files that end in {', '.join(_READ)}",
            received=f"--images={place} with {found or 'no files'}",
            remedy="Check the path",
        )
    return root, sorted(images), others


def _refuse(error):
    raise folder_parts.unlistable(error.filename, error) from error


def _is_new(path, name, seen):
    real = os.path.realpath(path)
    if folder_parts.is_leaving(name) or real in seen:
        return False
    seen.add(real)
    return True


class PixelRules(NamedTuple):
    """How a file becomes pixels; see docs/data.md.

    Attributes:
      upright: whether the EXIF orientation is applied and files are decoded by today's rules, not by those of skd_tf 0.1.
      bits: that hold the brightest value of 16-bit PNGs, 8 to 16; None: no run says, and they are read with 16.
    """

    upright: bool = True
    bits: int | None = None


def batches(
    root: pathlib.Path, names: list[str], shape: tuple[int, int, int], resize: int, batch_size: int, rules: PixelRules
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Reads images in order and brings them to one size; skips those that cannot be decoded.

    The image is scaled, bilinear and with an antialias filter where it shrinks, until it covers `resize` times the shape
    over its shorter side. Then its centre is cut out. An image that has the shape already stays as it is.

    Args:
      root: their folder.
      names: relative to it.
      shape: (height, width, channels) of the model's images.
      resize: shorter side before the cut, in pixels.
      batch_size: images in a batch, at most.
      rules: how they are decoded.

    Yields:
      (row in `names` `[n]`, uint8 images `[n, height, width, channels]`, their (height, width) in the file `[n, 2]`,
      which are 16-bit PNGs `[n]`).
    """

    def opened(row, path):
        kinds = (tf.string, tf.int32, tf.bool)
        facts = tf.numpy_function(functools.partial(_opened, rules.upright), [path], kinds)
        return row, *(tf.ensure_shape(fact, []) for fact in facts)

    def decoded(row, encoded, orientation, deep):
        if rules.upright:
            image = image_ops.decode_file(encoded, shape[2], orientation, deep, rules.bits or 16)
        else:
            image = image_ops.decode(encoded, shape[2])
        return row, _fit(image, shape, resize, rules), tf.shape(image)[:2], deep

    with tf.device("CPU"):
        stream = tf.data.Dataset.from_tensor_slices((np.arange(len(names)), _encoded(root, names)))
        stream = stream.map(opened, num_parallel_calls=devices.cpu_count(), deterministic=True)
        # A file that is not read must not reach the decoder, which crashes on an animated WebP.
        stream = stream.filter(lambda row, encoded, orientation, deep: orientation > 0)
        stream = stream.map(decoded, num_parallel_calls=devices.cpu_count(), deterministic=True).ignore_errors()
        yield from untuned(stream.batch(batch_size).prefetch(1)).as_numpy_iterator()


def _opened(strict, path):
    """(content, EXIF orientation, whether it is a 16-bit PNG) of a file; orientation 0: it is not read."""
    try:
        content = _content(pathlib.Path(os.fsdecode(path)))
        orientation, deep = _facts(strict, content)
    except (OSError, ValueError):
        return b"", np.int32(0), np.bool_(False)
    return content, np.int32(orientation), np.bool_(deep)


def _content(path):
    """The bytes of a file; ValueError for a pipe or a device, whose reading may never end."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    return path.read_bytes()


def _facts(strict, content):
    """(EXIF orientation, whether it is a 16-bit PNG); ValueError for a file that is not read."""
    try:
        header = image_header.read_header(content)
    except ValueError as error:
        if strict or "animated" in str(error):
            raise
        return 1, False
    return header.orientation, header.bits == 16


def _fit(image, shape, resize, rules):
    height, width = shape[:2]
    if height == width:
        fitted = image_ops.fit(image, shape, resize, exact=rules.upright)
    else:
        across = resize / min(height, width)
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        scale = tf.reduce_max(tf.constant([height * across, width * across]) / size)
        fitted = image_ops.resized_centre(image, tf.cast(tf.round(size * scale), tf.int32), shape)
        fitted = tf.ensure_shape(fitted, shape)
    if resize != min(height, width):
        return fitted
    same = tf.reduce_all(tf.shape(image)[:2] == [height, width])
    return tf.cond(same, lambda: tf.ensure_shape(image, shape), lambda: fitted)


def problem_of(root: pathlib.Path, name: str, rules: PixelRules) -> str:
    """Why an image cannot be decoded, in words."""
    try:
        content = _content(root / name)
        if not content:
            return "it is empty"
        _facts(rules.upright, content)
    except OSError as error:
        return file_facts.unopened(root / name, error)
    except ValueError as error:
        return str(error)
    return "it does not decode"


def _encoded(root, names):
    return [os.fsencode(os.path.join(root, name)) for name in names]  # as bytes: a name need not be UTF-8
