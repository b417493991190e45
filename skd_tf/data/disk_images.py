"""Images that stay encoded on the disk: read by row, decoded when asked for, so that no set is too large."""

import functools
import hashlib

import numpy as np
import tensorflow as tf

from skd_tf.data import image_ops
from skd_tf.data.augmentation import ResizedCrop
from skd_tf.runtime.files import sha256_of_json

RECORD_FRAME = 16  # bytes around a TFRecord: length, its checksum, the checksum of the content


class FileImages:
    """Encoded images, one a file.

    Args:
      paths: of the files.
      facts: what identifies their content, JSON-able.
    """

    def __init__(self, paths, facts):
        self.facts = facts
        with tf.device("CPU"):
            self._paths = tf.constant([str(path) for path in paths])

    def encoded(self, row):
        return tf.io.read_file(tf.gather(self._paths, row))


class TFRecordImages:
    """Encoded images in TFRecord shards, each read and checked at its place, whatever lies before it.

    Args:
      shards: paths of the TFRecord files.
      parse: serialized example -> encoded image.
      shard: int64 `[n]`, the shard of each record.
      offset, length: int64 `[n]`, bytes.
      facts: what identifies their content, JSON-able.
    """

    def __init__(self, shards, parse, shard, offset, length, facts):
        self._parse, self.facts = parse, facts
        with tf.device("CPU"):
            self._shards = tf.constant([str(path) for path in shards])
            self._places = tf.constant(np.stack([shard, offset, length], axis=1))

    def encoded(self, row):
        shard, offset, length = tf.unstack(tf.gather(self._places, row))
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
    """Rows of a store as `[n, height, width, channels]` uint8: indexed like an array, decoded each time.

    Args:
      store: `FileImages` or `TFRecordImages`.
      rows: int64 `[n]`, places in the store.
      shape: (height, width, channels) of every image as it is returned.
      resize: length of the shorter side before the centre crop; 0: the images have their shape already.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, store, rows, shape, resize=0):
        self._store, self._rows, self._size, self._resize = store, np.asarray(rows, np.int64), tuple(shape), resize

    def __len__(self):
        return len(self._rows)

    @property
    def shape(self):
        return (len(self), *self._size)

    def take(self, rows):
        return DiskImages(self._store, self._rows[rows], self._size, self._resize)

    def __getitem__(self, rows):
        rows = self._rows[rows]
        images = self._decode_all(np.atleast_1d(rows)).numpy()
        return images if np.ndim(rows) else images[0]

    def decode(self, place):
        """The image at one store row (a scalar tensor), un-augmented."""
        return image_ops.fit(image_ops.decode(self._store.encoded(place), self._size[-1]), self._size, self._resize)

    def picture(self, row, draws, augmentation):
        """The image at one row of these (a scalar tensor), cropped at decoding where the augmentation says so.

        Args:
          row: int scalar.
          draws: int32 `[3]`, the row's numbers.
          augmentation: `Augmentation`, which is left to `augment.apply`, or `ResizedCrop`.
        """
        place = tf.gather(self._places, row)
        if not isinstance(augmentation, ResizedCrop):
            return self.decode(place)
        encoded = self._store.encoded(place)
        window = image_ops.random_window(image_ops.size_of(encoded), draws[:2], augmentation)
        image = image_ops.decode_window(encoded, window, self._size)
        return tf.cond(draws[2] % 2 == 1, lambda: tf.reverse(image, [1]), lambda: image) if augmentation.flip else image

    def digest(self):
        """SHA-256 of the content's identity, the rows and how they are decoded; reads no image."""
        rows = hashlib.sha256(self._rows.tobytes()).hexdigest()
        return sha256_of_json(
            {"store": self._store.facts, "rows": rows, "shape": list(self._size), "resize": self._resize}
        )

    @functools.cached_property
    def _places(self):
        with tf.init_scope(), tf.device("CPU"):
            return tf.constant(self._rows)

    @functools.cached_property
    def _decode_all(self):
        return decoder(self.decode, [tf.TensorSpec([None], tf.int64)], self._size)


def decoder(one, signature, shape):
    """A graph that applies a function of scalars to each row of its inputs, several rows at once, on the CPU."""

    @tf.function(input_signature=signature, autograph=False)
    def many(*inputs):
        with tf.device("CPU"):
            return tf.map_fn(
                lambda row: one(*row),
                inputs,
                parallel_iterations=16,
                fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            )

    return many


def digest_of(images):
    """SHA-256 of images: of an array's shape, dtype and values, or of what identifies stored ones."""
    if isinstance(images, DiskImages):
        return images.digest()
    digest = hashlib.sha256(f"{images.shape} {images.dtype}".encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()
