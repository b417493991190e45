"""Training batches: rows in an order from (seed, epoch), pixels from (data_seed, epoch, example), starting at any step."""

import functools
import math

import tensorflow as tf

from skd_tf.data import augmentation as augment
from skd_tf.data.disk_images import DiskImages, decoder
from skd_tf.data.teacher_cache import HEADER_BYTES

_SHUFFLE_STREAM = 2 << 32  # far from the augmentation's: no epoch of one is an epoch of the other


def train_stream(
    dataset, settings, *, steps_per_epoch, first_step, last_step, shards=1, shard_range=None, logit_files=None
):
    """Augmented training batches of steps [first_step, last_step).

    One element is one replica's part of a global batch, so a step takes `len(shard_range)` elements. Rows are dealt out in
    order: a global batch holds the same examples for any number of replicas.

    Args:
      dataset: a `Dataset`.
      settings: `StreamSettings`.
      steps_per_epoch: full global batches in an epoch; the short last one is dropped.
      first_step: global step to start from.
      last_step: global step to end before.
      shards: replicas in all; they divide the global batch.
      shard_range: the replicas fed by this stream, all of them by default.
      logit_files: paths of `TeacherCache` files for epochs 0, 1, ..., in the order of `dataset.train`; augmentation then
        has as many epochs as there are files.

    Returns:
      tf.data.Dataset of (images uint8 `[batch / shards, h, w, c]`, labels int32 `[batch / shards]`); with logit files
      images become {"image": images, "teacher_logits": `[batch / shards, classes]`}.
    """
    if last_step <= first_step:
        raise ValueError(f"An empty stream: steps {first_step} to {last_step}.")
    train, augmentation = dataset.train, dataset.augmentation
    shard_range = range(shards) if shard_range is None else shard_range
    local = slice(shard_range.start, shard_range.stop)
    examples, last_index = len(train), int(train.index.max())
    part = settings.batch_size // shards
    rows_per_epoch = steps_per_epoch * settings.batch_size
    stored = isinstance(train.images, DiskImages)
    period = len(logit_files) if logit_files else settings.teacher_cache_epochs
    with tf.device("CPU"):
        files = tf.constant(logit_files or [""])
        images = train.images if stored else tf.constant(train.images)
        labels, index = tf.constant(train.labels), tf.constant(train.index)

    def epoch_rows(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(examples),
            seed=tf.stack([tf.constant(settings.seed, tf.int64), epoch + _SHUFFLE_STREAM]),
            alg="philox",
        )
        pictures = epoch % period if period else epoch
        table = augment.draws(settings.data_seed, pictures, last_index + 1)
        drawn = {"rows": order, "table": tf.gather(tf.gather(table, index), order)}
        if logit_files:
            logits = _read_logits(tf.gather(files, pictures), dataset.num_classes, settings.teacher_cache_dtype)
            drawn["logits"] = tf.gather(logits, order)

        def deal(values):  # [rows, ...] -> [steps * local replicas, rows a replica, ...]
            shape = values.shape[1:]
            values = tf.reshape(values, [steps_per_epoch, shards, part, *shape])[:, local]
            begin = tf.maximum(first_step - epoch * steps_per_epoch, 0)
            end = tf.minimum(last_step - epoch * steps_per_epoch, steps_per_epoch)
            return tf.reshape(values[begin:end], [-1, part, *shape])

        return tf.data.Dataset.from_tensor_slices({name: deal(v[:rows_per_epoch]) for name, v in drawn.items()})

    def read(drawn):  # one image: decoding takes the cores
        return drawn | {"image": images.picture(drawn["rows"], drawn["table"], augmentation)}

    def batch(drawn):
        pixels = drawn["image"] if stored else tf.gather(images, drawn["rows"])
        pixels = augment.apply(pixels, drawn["table"], augmentation)
        x = {"image": pixels, "teacher_logits": drawn["logits"]} if logit_files else pixels
        return x, tf.gather(labels, drawn["rows"])

    in_order = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}
    epochs = tf.data.Dataset.range(first_step // steps_per_epoch, math.ceil(last_step / steps_per_epoch))
    stream = epochs.flat_map(epoch_rows)
    if stored:
        stream = stream.unbatch().map(read, **in_order).batch(part, drop_remainder=True)
    return stream.map(batch, **in_order).prefetch(tf.data.AUTOTUNE)


class AugmentedImages:
    """The training images of one epoch, augmented as `train_stream` gives them, in the order of `dataset.train`.

    Indexed like an array `[n, h, w, c]` uint8.

    Args:
      dataset: a `Dataset`.
      data_seed: of the augmentation.
      epoch: of the augmentation.
    """

    def __init__(self, dataset, data_seed, epoch):
        self._train, self._augmentation = dataset.train, dataset.augmentation
        table = augment.draws(data_seed, epoch, int(self._train.index.max()) + 1)
        self._table = tf.gather(table, self._train.index)

    def __len__(self):
        return len(self._train)

    def __getitem__(self, rows):
        table, images = tf.gather(self._table, rows), self._train.images
        pixels = self._pictures(tf.constant(rows, tf.int64), table) if isinstance(images, DiskImages) else images[rows]
        return augment.apply(tf.constant(pixels), table, self._augmentation).numpy()

    @functools.cached_property
    def _pictures(self):
        images, augmentation = self._train.images, self._augmentation
        signature = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, 3], tf.int32)]
        return decoder(lambda row, draws: images.picture(row, draws, augmentation), signature, images.shape[1:])


def _read_logits(path, classes, dtype):
    """The records of a `TeacherCache` file, `[examples, classes]`, by plain TensorFlow operations."""
    records = tf.io.decode_raw(tf.io.read_file(path), dtype)
    return tf.reshape(records[HEADER_BYTES // tf.as_dtype(dtype).size :], [-1, classes])
