"""Training batches from any step: their order depends on (seed, epoch), pixels on (data_seed, epoch, example)."""

import functools
import math
import os
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.data import mixing
from skd_tf.data.augmenter import Augmenter
from skd_tf.data.dataset import Dataset
from skd_tf.data.disk_images import DiskImages, batch_decoder
from skd_tf.data.epoch_logits import EpochLogits, JointLogits
from skd_tf.data.memory_budget import aligned
from skd_tf.data.settings import StreamSettings
from skd_tf.runtime import devices
from skd_tf.runtime.streams import untuned

_AHEAD = 16  # finished batches of a replica; tf.data's own choice grows for as long as a run lasts
_DRAWN = 4096  # examples whose random numbers are computed at once; for fewer each would take longer
_SHUFFLE_STREAM = 2 << 32  # beside the streams of `Augmenter`


def train_stream(
    dataset: Dataset,
    settings: StreamSettings,
    *,
    steps_per_epoch: int,
    first_step: int,
    last_step: int,
    shards: int = 1,
    shard_range: range | None = None,
    teacher_logits: EpochLogits | JointLogits | None = None,
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
      teacher_logits: of the augmented training images. The augmentation repeats after as many epochs as it has.

    Returns:
      tf.data.Dataset of (images uint8 `[batch / shards, h, w, c]`, labels int32 `[batch / shards]`). Mixing makes the
      labels float32 `[batch / shards, classes]`. With the teacher's logits, images become
      {"image": images, "teacher_logits": `[batch / shards, classes]`}; of several teachers
      `[batch / shards, teachers, classes]`.
    """
    if last_step <= first_step:
        raise ValueError(f"The stream is empty: steps {first_step} to {last_step}.")
    train, augmenter = dataset.train, Augmenter(dataset)
    shard_range = range(shards) if shard_range is None else shard_range
    examples = len(train)
    part = settings.batch_size // shards
    on_disk = isinstance(train.images, DiskImages)
    period = teacher_logits.epochs if teacher_logits else settings.teacher_cache_epochs
    with tf.device("CPU"):
        images = train.images if on_disk else _in_place(train.images)
        labels = tf.constant(train.labels)

    def ordered(epoch):  # the order is all that an epoch holds for each image; made while the epoch before runs
        return epoch, tf.random.experimental.stateless_shuffle(
            tf.range(examples),
            seed=tf.stack([tf.constant(settings.seed, tf.int64), epoch + _SHUFFLE_STREAM]),
            alg="philox",
        )

    def in_parts(column):
        return tf.reshape(column, [-1, part, *column.shape[1:]])

    def parts(epoch, order):  # one element per step and local replica; of images on disk one per image
        begin = tf.maximum(first_step - epoch * steps_per_epoch, 0)
        end = tf.minimum(last_step - epoch * steps_per_epoch, steps_per_epoch)
        drawn_epoch = epoch % period if period else epoch

        def columns(numbers):
            starts = part * (numbers // len(shard_range) * shards + numbers % len(shard_range) + shard_range.start)
            rows = tf.reshape(tf.gather(order, starts[:, None] + tf.range(part, dtype=tf.int64)), [-1])
            found = {"rows": rows, "draws": augmenter.draws(settings.data_seed, drawn_epoch, rows)}
            if augmenter.mixes:
                other = augmenter.partners(found["draws"])
                found |= {"other_rows": other, "other_draws": augmenter.draws(settings.data_seed, drawn_epoch, other)}
            if teacher_logits:
                found["epoch"] = tf.fill(tf.shape(rows), drawn_epoch)
            return found if on_disk else {name: in_parts(column) for name, column in found.items()}

        numbers = tf.data.Dataset.range(begin * len(shard_range), end * len(shard_range))
        return numbers.batch(max(1, _DRAWN // part)).map(columns).unbatch()

    kinds = ("", "other_") if augmenter.mixes else ("",)

    def decode(columns):  # one image at a time, because decoding dominates and this spreads it over the cores
        decoded = {f"{who}image": augmenter.decode(columns[f"{who}rows"], columns[f"{who}draws"]) for who in kinds}
        return columns | decoded

    def augmented(columns, who):
        pixels = columns[f"{who}image"] if on_disk else tf.gather(images, columns[f"{who}rows"])
        return augmenter.augment(pixels, columns[f"{who}draws"])

    def to_batch(columns):
        pixels, y = augmented(columns, ""), tf.gather(labels, columns["rows"])
        if augmenter.mixes:
            pixels, share = augmenter.mix(pixels, augmented(columns, "other_"), columns["draws"])
            y = mixing.mix_labels(y, tf.gather(labels, columns["other_rows"]), share, dataset.num_classes)
        if teacher_logits:
            logits = teacher_logits.lookup(columns["epoch"][0], columns["rows"])
            return {"image": pixels, "teacher_logits": logits}, y
        return pixels, y

    in_order = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    decoding = in_order | {"num_parallel_calls": devices.cpu_count()}
    epochs = tf.data.Dataset.range(first_step // steps_per_epoch, math.ceil(last_step / steps_per_epoch))
    stream = epochs.map(ordered).prefetch(1).flat_map(parts)
    if on_disk:
        stream = stream.map(decode, **decoding).batch(part, drop_remainder=True)
    stream = stream.map(to_batch, **in_order).prefetch(_AHEAD)
    options = tf.data.Options()
    if teacher_logits:  # a damaged file is made again in a reading thread, which must not be one that computes
        options.threading.private_threadpool_size = os.cpu_count() or 2
    options.experimental_optimization.apply_default_optimizations = False  # rewriting the graph copies all tables
    return untuned(stream.with_options(options))


class AugmentedImages:
    """The training images of one epoch, augmented as in `train_stream`, in the order of `dataset.train`.

    Indexed like an array `[n, h, w, c]` uint8.

    Args:
      dataset: a `Dataset`.
      data_seed: decides the augmentation.
      epoch: epoch of the augmentation.
    """

    def __init__(self, dataset: Dataset, data_seed: int, epoch: int) -> None:
        self._images, self._augmenter = dataset.train.images, Augmenter(dataset)
        self._data_seed, self._epoch = data_seed, epoch

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: Any) -> np.ndarray:
        draws = self._draws(rows)
        pixels = self._augmented(rows, draws)
        if self._augmenter.mixes:
            others = self._augmenter.partners(draws).numpy()
            pixels, _ = self._augmenter.mix(pixels, self._augmented(others, self._draws(others)), draws)
        return pixels.numpy()

    def _draws(self, rows):
        return self._augmenter.draws(self._data_seed, self._epoch, rows)

    def _augmented(self, rows, draws):
        images = self._images
        pixels = self._decode(tf.constant(rows, tf.int64), draws) if isinstance(images, DiskImages) else images[rows]
        return self._augmenter.augment(tf.constant(pixels), draws)

    @functools.cached_property
    def _decode(self):
        signature = [
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None, *self._augmenter.draws_spec.shape], tf.int32),
        ]
        return batch_decoder(self._augmenter.decode, signature, self._images.shape[1:])


def _in_place(images):
    """An array as a tensor that shares its memory; `tf.constant` takes three times the memory for a moment."""
    return tf.experimental.dlpack.from_dlpack(aligned(images).__dlpack__())
