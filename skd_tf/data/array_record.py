"""A split that TFDS has prepared as ArrayRecord: each record is read by its place."""

import functools
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.data import image_ops, shard_index
from skd_tf.data.disk_images import EncodedImages
from skd_tf.errors import input_error
from skd_tf.runtime.streams import untuned

_AT_ONCE = 1024  # records whose labels are read together


class ArrayRecordImages(EncodedImages):
    """Encoded images in the ArrayRecord files of a split, by place, with their labels.

    Args:
      builder: TFDS' builder of a prepared dataset.
      split: name of the split.
      image_key, label_key: of the two features.

    Raises:
      InputError: the package array_record is not installed.
    """

    def __init__(self, builder: Any, split: str, image_key: str, label_key: str) -> None:
        self._files, self._keys = [str(path) for path in builder.info.splits[split].filepaths], (image_key, label_key)
        self._name = builder.info.full_name, split
        try:
            self._records = builder.as_data_source(split=split).data_source
        except ImportError as error:
            raise input_error(
                f"{builder.name} is prepared as ArrayRecord, which this machine cannot read",
                expected="the package array_record",
                received=f"none ({error})",
                remedy="pip install array_record, or prepare the dataset again as tfrecord",
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def encoded(self, row: tf.Tensor) -> tf.Tensor:
        """The bytes of the image at one row, a scalar int64 tensor."""
        return self._example(row)[0]

    def fitted_example(self, row: tf.Tensor, shape: tuple[int, int, int], resize: int) -> tuple[tf.Tensor, tf.Tensor]:
        """(image, label) at one row, a scalar int64 tensor; the image is resized and cropped by `image_ops.fit`."""
        encoded, label = self._example(row)
        return image_ops.fit(image_ops.decode(encoded, shape[-1]), shape, resize), label

    def _example(self, row):
        record = tf.ensure_shape(tf.numpy_function(self._read, [row], tf.string, stateful=False), [])
        found = tf.io.parse_single_example(record, dict(zip(self._keys, _KINDS, strict=True)))
        return tuple(found[key] for key in self._keys)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int64 `[n]`, found in one pass over the records and kept."""
        return self._index["label"]

    @functools.cached_property
    def facts(self) -> list[str]:  # type: ignore[override]
        """Those of the same split in TFRecord files, which holds the same records."""
        identity = hashlib.sha256(self._index["label"].tobytes() + self._index["length"].tobytes()).hexdigest()
        return [*self._name, identity]

    @functools.cached_property
    def _index(self):
        return shard_index.kept(" ".join(self._name), self._files, self._keys[1], len(self._records), self._scan)

    def _scan(self):
        def label(records):
            return tf.io.parse_example(records, {self._keys[1]: _KINDS[1]})[self._keys[1]], tf.strings.length(records)

        def several(start):
            rows = np.arange(start, min(start + _AT_ONCE, len(self._records)))
            return np.array([self._read(row) for row in rows], object)

        starts = tf.data.Dataset.range(0, len(self._records), _AT_ONCE)
        read = starts.map(lambda start: tf.ensure_shape(tf.numpy_function(several, [start], tf.string), [None]))
        parts = [*untuned(read.map(label).prefetch(1)).as_numpy_iterator()]
        return {
            name: np.concatenate(column)
            for name, column in zip(("label", "length"), zip(*parts, strict=True), strict=True)
        }

    def _read(self, row):
        try:
            record = self._records[int(row)]
        except RuntimeError as error:
            raise ValueError(str(error)) from error  # TensorFlow names others "unknown"
        if not record:  # what its reader returns past the end of a file
            raise ValueError(f"record {row} is missing")
        return record


_KINDS = tf.io.FixedLenFeature([], tf.string), tf.io.FixedLenFeature([], tf.int64)
