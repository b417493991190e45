"""Where each record of a split's TFRecord shards is, and its label: found in one pass over the shards, and kept."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from skd_tf.data import kept_arrays
from skd_tf.data.disk_images import RECORD_FRAME
from skd_tf.runtime.console import say
from skd_tf.runtime.files import sha256_of_json
from skd_tf.runtime.streams import untuned

_FORMAT = 1  # of what is kept; raise it when it changes its meaning


class ShardIndex(NamedTuple):
    """The records of a split in the order of its shards.

    Attributes:
      shard: int64 `[n]`, place of its shard.
      offset: int64 `[n]`, bytes from the shard's start.
      length: int64 `[n]`, bytes of its content.
      label: int64 `[n]`.
    """

    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray


def read(name: str, shards: Sequence[str], label_key: str, count: int) -> ShardIndex:
    """The index of a split, kept from an earlier process while its shards have the same names, sizes and times.

    Args:
      name: of the split and its dataset, with the version.
      shards: paths of the split's TFRecord files.
      label_key: the feature that holds the label.
      count: how many records there should be; another number is not kept.
    """
    found = kept(name, shards, label_key, count, lambda: _scan(shards, label_key))
    return _with_offsets(found["shard"], found["length"], found["label"])


def kept(
    name: str, files: Sequence[str], label_key: str, count: int, scan: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What `scan` finds in one pass over a split's files, int64 `[n]` by name, or found for an earlier process.

    Args:
      name, label_key, count: as for `read`.
      files: paths of the split's files.
      scan: returns the columns, among them "length" and "label".
    """
    status = [(path, (facts := tf.io.gfile.stat(path)).length, facts.mtime_nsec) for path in files]
    place = kept_arrays.place("shards", sha256_of_json([_FORMAT, name, label_key, status])[:32])
    found = kept_arrays.load(place)
    if not found or {*map(len, found.values())} != {count}:
        say(f"Reading the labels of {count:,} records of {name}; its images stay on disk.")
        found = scan()
        if len(found["label"]) == count:
            kept_arrays.save(place, **{key: column.astype(np.int32) for key, column in found.items()})
    return {key: column.astype(np.int64) for key, column in found.items()}


def _with_offsets(shard, length, label):
    ends = np.cumsum(length + RECORD_FRAME)
    starts = ends - length - RECORD_FRAME
    return ShardIndex(shard, starts - starts[np.searchsorted(shard, shard)], length, label)


def _scan(shards, label_key):
    def label_and_length(record):
        label = tf.io.parse_single_example(record, {label_key: tf.io.FixedLenFeature([], tf.int64)})[label_key]
        return label, tf.strings.length(record)

    def shard_of(number, path):
        records = tf.data.TFRecordDataset(path).map(label_and_length)
        return records.map(lambda label, length: (number, tf.cast(length, tf.int64), label))

    stream = tf.data.Dataset.from_tensor_slices((np.arange(len(shards), dtype=np.int64), list(shards)))
    stream = stream.interleave(
        shard_of, cycle_length=16, block_length=64, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    chunks = list(untuned(stream.batch(4096)).as_numpy_iterator())
    columns = [np.concatenate(column) for column in zip(*chunks, strict=True)] or [np.zeros(0, np.int64)] * 3
    in_file_order = np.argsort(columns[0], kind="stable")
    return dict(zip(("shard", "length", "label"), (column[in_file_order] for column in columns), strict=True))
