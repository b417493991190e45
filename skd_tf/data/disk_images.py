"""Images that stay encoded on disk: read by row and decoded on demand, so that no dataset is too large."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.data import image_ops
from skd_tf.data.augmentation import Augmentation, ResizedCrop
from skd_tf.runtime.files import sha256_of_json

RECORD_FRAME = 16  # bytes around a TFRecord: length, its checksum, the checksum of the content


class EncodedImages:
    """Images in files, decoded one at a time. `facts` identify their content and can be written as JSON."""

    facts: Any

    def encoded(self, row: tf.Tensor) -> tf.Tensor:
        """The bytes of the image at one row, a scalar int64 tensor."""
        raise NotImplementedError

    def decode(self, row: tf.Tensor, channels: int) -> tf.Tensor:
        """The whole image at one row, uint8 `[height, width, channels]`."""
        return image_ops.decode(self.encoded(row), channels)

    def fitted(self, row: tf.Tensor, shape: tuple[int, int, int], resize: int) -> tf.Tensor:
        """The image at one row, resized and cropped by `image_ops.fit`."""
        return image_ops.fit(self.decode(row, shape[-1]), shape, resize)

    def decode_window(
        self, row: tf.Tensor, draws: tf.Tensor, augmentation: ResizedCrop, shape: tuple[int, int, int]
    ) -> tf.Tensor:
        """The window that `draws` choose of the image at one row, resized to `shape`."""
        encoded = self.encoded(row)
        window = image_ops.random_window(image_ops.size_of(encoded), draws, augmentation)
        return image_ops.decode_window(encoded, window, shape)


class FileImages(EncodedImages):
    """Encoded images, one per file, decoded by the rules of skd_tf 0.1.

    Args:
      paths: paths of the files.
      facts: identify the content of the files; can be written as JSON.
    """

    def __init__(self, paths: Iterable[str], facts: Any) -> None:
        self.facts = facts
        with tf.device("CPU"):
            names = [os.fsencode(path) for path in paths]  # as bytes: a name need not be UTF-8
            self._paths = tf.constant(names, tf.string)

    def encoded(self, row: tf.Tensor) -> tf.Tensor:
        """The bytes of the image at one row, a scalar int64 tensor."""
        return tf.io.read_file(tf.gather(self._paths, row))


class UprightFileImages(FileImages):
    """Encoded images, one per file, decoded by `image_ops.decode_file`.

    Args:
      paths: paths of the files.
      facts: identify the content of the files; can be written as JSON.
      orientation: int `[n]`, of EXIF.
      deep: bool `[n]`, which files are 16-bit PNGs.
      bits: that hold the brightest value of the set's 16-bit images, 8 to 16.
    """

    def __init__(
        self, paths: Iterable[str], facts: Any, orientation: np.ndarray, deep: np.ndarray, bits: int = 16
    ) -> None:
        super().__init__(paths, facts)
        self._bits = bits
        with tf.device("CPU"):
            self._orientation, self._deep = tf.constant(orientation, tf.int32), tf.constant(deep, tf.bool)

    def decode(self, row: tf.Tensor, channels: int) -> tf.Tensor:
        """The whole image at one row, uint8 `[height, width, channels]`."""
        orientation, deep = tf.gather(self._orientation, row), tf.gather(self._deep, row)
        return image_ops.decode_file(self.encoded(row), channels, orientation, deep, self._bits)

    def fitted(self, row: tf.Tensor, shape: tuple[int, int, int], resize: int) -> tf.Tensor:
        """The image at one row, resized and cropped by `image_ops.fit`."""
        return image_ops.fit(self.decode(row, shape[-1]), shape, resize, exact=True)

    def decode_window(
        self, row: tf.Tensor, draws: tf.Tensor, augmentation: ResizedCrop, shape: tuple[int, int, int]
    ) -> tf.Tensor:
        """The window that `draws` choose of the image at one row, resized to `shape`; of a JPEG only it is decoded."""
        encoded, orientation = self.encoded(row), tf.gather(self._orientation, row)

        def of_jpeg():
            stored = tf.io.extract_jpeg_shape(encoded)[:2]
            size = tf.where(orientation >= 5, stored[::-1], stored)
            window = image_ops.random_window(size, draws, augmentation)
            window = image_ops.stored_window(window, size, orientation)
            image = tf.io.decode_and_crop_jpeg(encoded, window, channels=shape[-1], dct_method="INTEGER_ACCURATE")
            return image_ops.upright(image, orientation)

        def of_other():
            image = self.decode(row, shape[-1])
            top, left, height, width = tf.unstack(image_ops.random_window(tf.shape(image)[:2], draws, augmentation))
            return image[top : top + height, left : left + width]

        window = tf.cond(tf.io.is_jpeg(encoded), of_jpeg, of_other)
        return tf.ensure_shape(image_ops.resized(window, shape[:2]), shape)


class TFRecordImages(EncodedImages):
    """Encoded images in TFRecord shards. Each record is read by its offset and its checksum is verified.

    Args:
      shards: paths of the TFRecord files.
      parse: maps a serialized example to its encoded image.
      records: int64 `[n, 3]`: the shard of each record, its offset and its length in bytes.
      facts: identify the content of the shards; can be written as JSON.
    """

    def __init__(
        self, shards: Iterable[str], parse: Callable[[tf.Tensor], tf.Tensor], records: np.ndarray, facts: Any
    ) -> None:
        self._parse, self.facts = parse, facts
        with tf.device("CPU"):
            self._shards, self._records = tf.constant([*shards]), tf.constant(records)

    def encoded(self, row: tf.Tensor) -> tf.Tensor:
        """The bytes of the image at one row, a scalar int64 tensor."""
        shard, offset, length = tf.unstack(tf.gather(self._records, row))
        kind = {"output_types": [tf.string], "output_shapes": [[]]}
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=tf.gather(self._shards, [shard]),
            compression_type="",
            buffer_size=length + RECORD_FRAME,
            byte_offsets=[offset],
        )
        first = tf.raw_ops.TakeDataset(input_dataset=records, count=tf.constant(1, tf.int64), **kind)
        return self._parse(tf.raw_ops.DatasetToSingleElement(dataset=first, **kind)[0])


class DiskImages:
    """Rows of a store as `[n, height, width, channels]` uint8. Indexed like an array; each access decodes.

    Args:
      store: `FileImages` or `TFRecordImages`.
      rows: int64 `[n]`, rows of the store.
      shape: (height, width, channels) of every image returned.
      resize: length of the shorter side before the centre crop, in pixels; 0: the images already have their shape.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, store: EncodedImages, rows: np.ndarray, shape: tuple[int, int, int], resize: int = 0) -> None:
        self._store, self._rows, self._size, self._resize = store, np.asarray(rows, np.int64), shape, resize

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self._size)

    def take(self, rows: np.ndarray) -> "DiskImages":
        """The images at these rows; decodes none."""
        return DiskImages(self._store, self._rows[rows], self._size, self._resize)

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows = self._rows[rows]
        images = self._decode_rows(np.atleast_1d(rows)).numpy()
        return images if np.ndim(rows) else images[0]

    def decode_augmented(self, row: tf.Tensor, draws: tf.Tensor, augmentation: Augmentation | ResizedCrop) -> tf.Tensor:
        """The image at one row. A `ResizedCrop` is applied here; an `Augmentation` is left to `augment_batch`.

        Args:
          row: int scalar, below `len(self)`.
          draws: int32 `[3]`, the example's `augmentation.random_numbers`.
          augmentation: of the training images.
        """
        row = tf.gather(self._store_rows, row)
        if not isinstance(augmentation, ResizedCrop):
            return self._decode(row)
        image = self._store.decode_window(row, draws[:2], augmentation, self._size)
        return tf.cond(draws[2] % 2 == 1, lambda: tf.reverse(image, [1]), lambda: image) if augmentation.flip else image

    def digest(self) -> str:
        """SHA-256 of the store's facts, the rows and how they are decoded; reads no image."""
        rows = hashlib.sha256(self._rows.tobytes()).hexdigest()
        return sha256_of_json(
            {"store": self._store.facts, "rows": rows, "shape": list(self._size), "resize": self._resize}
        )

    def _decode(self, store_row):
        return self._store.fitted(store_row, self._size, self._resize)

    @functools.cached_property
    def _store_rows(self):
        with tf.init_scope(), tf.device("CPU"):
            return tf.constant(self._rows)

    @functools.cached_property
    def _decode_rows(self):
        return batch_decoder(self._decode, [tf.TensorSpec([None], tf.int64)], self._size)


def batch_decoder(
    decode_one: Callable[..., tf.Tensor], signature: Sequence[tf.TensorSpec], shape: Sequence[int]
) -> Callable[..., tf.Tensor]:
    """A graph that applies `decode_one` to each row of its inputs, several rows at once, on the CPU."""

    def decode_batch(*inputs):
        with tf.device("CPU"):
            return tf.map_fn(
                lambda row: decode_one(*row),
                inputs,
                parallel_iterations=16,
                fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            )

    # TensorFlow warns of retracing by code object; a partial has none, so several splits do not add up.
    return tf.function(functools.partial(decode_batch), input_signature=signature, autograph=False)


def digest_of(images: np.ndarray | DiskImages) -> str:
    """SHA-256 of an array's shape, dtype and values, or of what identifies images on disk."""
    if isinstance(images, DiskImages):
        return images.digest()
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
