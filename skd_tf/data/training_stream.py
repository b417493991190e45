"""Training batches from any step: their order depends on (seed, epoch), pixels on (data_seed, epoch, example)."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.data.augmentation import augment_batch, draw_table
from skd_tf.data.dataset import Dataset
from skd_tf.data.disk_images import DiskImages, batch_decoder
from skd_tf.data.memory_budget import aligned
from skd_tf.data.settings import StreamSettings
from skd_tf.data.teacher_cache import HEADER_BYTES

_SHUFFLE_STREAM = 2 << 32  # far from the augmentation's stream, so no epoch of one equals an epoch of the other


def train_stream(
    dataset: Dataset,
    settings: StreamSettings,
    *,
    steps_per_epoch: int,
    first_step: int,
    last_step: int,
    shards: int = 1,
    shard_range: range | None = None,
    logit_files: Sequence[str] | None = None,
) -> tf.data.Dataset:
    """Augmented training batches of the steps [first_step, last_step).

    One element is one replica's part of a global batch, so a step takes `len(shard_range)` elements. Examples are dealt
    to the replicas in order: a global batch holds the same examples for any number of replicas.

    Args:
      dataset: a `Dataset`.
      settings: a `StreamSettings`.
      steps_per_epoch: full global batches in an epoch; an incomplete last batch is dropped.
      first_step: the first global step.
      last_step: the global step after the last one.
      shards: total number of replicas; must divide the global batch.
      shard_range: the replicas that this stream feeds; all by default.
      logit_files: paths of `TeacherCache` files for epochs 0, 1, ..., in the order of `dataset.train`. The augmentation
        then repeats after as many epochs as there are files.

    Returns:
      tf.data.Dataset of (images uint8 `[batch / shards, h, w, c]`, labels int32 `[batch / shards]`). With logit files,
      images become {"image": images, "teacher_logits": `[batch / shards, classes]`}.
    """
    if last_step <= first_step:
        raise ValueError(f"The stream is empty: steps {first_step} to {last_step}.")
    train, augmentation = dataset.train, dataset.augmentation
    shard_range = range(shards) if shard_range is None else shard_range
    local = slice(shard_range.start, shard_range.stop)
    examples, last_index = len(train), int(train.index.max())
    part = settings.batch_size // shards
    rows_per_epoch = steps_per_epoch * settings.batch_size
    on_disk = isinstance(train.images, DiskImages)
    period = len(logit_files) if logit_files else settings.teacher_cache_epochs
    with tf.device("CPU"):
        files = tf.constant(logit_files or [""])
        images = train.images if on_disk else _in_place(train.images)
        labels, index = tf.constant(train.labels), tf.constant(train.index)

    def epoch_rows(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(examples),
            seed=tf.stack([tf.constant(settings.seed, tf.int64), epoch + _SHUFFLE_STREAM]),
            alg="philox",
        )
        drawn_epoch = epoch % period if period else epoch
        table = draw_table(settings.data_seed, drawn_epoch, last_index + 1)
        columns = {"rows": order, "draws": tf.gather(tf.gather(table, index), order)}
        if logit_files:
            logits = _read_logits(tf.gather(files, drawn_epoch), dataset.num_classes, settings.teacher_cache_dtype)
            columns["logits"] = tf.gather(logits, order)

        def deal(values):  # [rows, ...] -> [steps * local replicas, rows per replica, ...]
            shape = values.shape[1:]
            values = tf.reshape(values, [steps_per_epoch, shards, part, *shape])[:, local]
            begin = tf.maximum(first_step - epoch * steps_per_epoch, 0)
            end = tf.minimum(last_step - epoch * steps_per_epoch, steps_per_epoch)
            return tf.reshape(values[begin:end], [-1, part, *shape])

        return tf.data.Dataset.from_tensor_slices({name: deal(v[:rows_per_epoch]) for name, v in columns.items()})

    def decode(columns):  # one image at a time, because decoding dominates and this spreads it over the cores
        return columns | {"image": images.decode_augmented(columns["rows"], columns["draws"], augmentation)}

    def to_batch(columns):
        pixels = columns["image"] if on_disk else tf.gather(images, columns["rows"])
        pixels = augment_batch(pixels, columns["draws"], augmentation)
        x = {"image": pixels, "teacher_logits": columns["logits"]} if logit_files else pixels
        return x, tf.gather(labels, columns["rows"])

    in_order = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    epochs = tf.data.Dataset.range(first_step // steps_per_epoch, math.ceil(last_step / steps_per_epoch))
    stream = epochs.flat_map(epoch_rows)
    if on_disk:
        stream = stream.unbatch().map(decode, **in_order).batch(part, drop_remainder=True)
    stream = stream.map(to_batch, **in_order).prefetch(tf.data.AUTOTUNE)
    if on_disk:
        return stream
    options = tf.data.Options()
    options.experimental_optimization.apply_default_optimizations = False  # rewriting the graph copies all images
    return stream.with_options(options)


class AugmentedImages:
    """The training images of one epoch, augmented as in `train_stream`, in the order of `dataset.train`.

    Indexed like an array `[n, h, w, c]` uint8.

    Args:
      dataset: a `Dataset`.
      data_seed: decides the augmentation.
      epoch: epoch of the augmentation.
    """

    def __init__(self, dataset: Dataset, data_seed: int, epoch: int) -> None:
        self._train, self._augmentation = dataset.train, dataset.augmentation
        table = draw_table(data_seed, epoch, int(self._train.index.max()) + 1)
        self._draws = tf.gather(table, self._train.index)

    def __len__(self) -> int:
        return len(self._train)

    def __getitem__(self, rows: Any) -> np.ndarray:
        draws, images = tf.gather(self._draws, rows), self._train.images
        pixels = self._decode(tf.constant(rows, tf.int64), draws) if isinstance(images, DiskImages) else images[rows]
        return augment_batch(tf.constant(pixels), draws, self._augmentation).numpy()

    @functools.cached_property
    def _decode(self):
        images, augmentation = self._train.images, self._augmentation
        signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 3], tf.int32)]
        return batch_decoder(
            lambda row, draws: images.decode_augmented(row, draws, augmentation), signature, images.shape[1:]
        )


def _in_place(images):
    """An array as a tensor that shares its memory; `tf.constant` takes three times the memory for a moment."""
    return tf.experimental.dlpack.from_dlpack(aligned(images).__dlpack__())


def _read_logits(path, classes, dtype):
    """The records of a `TeacherCache` file, `[examples, classes]`, read by TensorFlow operations."""
    records = tf.io.decode_raw(tf.io.read_file(path), dtype)
    return tf.reshape(records[HEADER_BYTES // tf.as_dtype(dtype).size :], [-1, classes])
