"""Datasets: decoded once into memory, then deterministic tf.data streams of augmented batches.

The order of a stream is a pure function of (seed, step), its pixels of (data_seed, epoch, example), so a stream starts
at any step without decoding or drawing anything before it.
"""

import dataclasses
import math
import os
import pathlib

import numpy as np
import tensorflow as tf

from skd_tf import augment
from skd_tf.errors import InputError
from skd_tf.known_datasets import KNOWN_DATASETS
from skd_tf.teacher_cache import HEADER_BYTES

_SHUFFLE_STREAM = 2 << 32  # far from the augmentation's: no epoch of one is an epoch of the other
_ASSETS = pathlib.Path(__file__).parent / "assets"


@dataclasses.dataclass(frozen=True)
class Split:
    """Decoded examples: `images` uint8 `[n, h, w, c]`, `labels` int32 `[n]`, `index` int64 `[n]` in the source's split."""

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __len__(self):
        return len(self.labels)

    def take(self, rows):
        return Split(self.images[rows], self.labels[rows], self.index[rows])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What training needs to know of a set. `validation` and `test` are None where there are none."""

    name: str
    version: str
    class_names: tuple
    mean: tuple
    std: tuple
    augmentation: augment.Augmentation
    train: Split
    validation: Split | None
    test: Split | None

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def image_shape(self):
        return self.train.images.shape[1:]


def load(config, data_dir=None, *, test=True):
    """Reads and decodes a dataset.

    Args:
      config: a `Config`; `dataset`, `download`, `data_seed`, `validation_fraction` and `image_size` are used.
      data_dir: TFDS data directory; None is TFDS' own default.
      test: whether the test split is read at all (a search must not see it).

    Returns:
      A `Dataset`; `validation` is drawn from the training split by data_seed alone.

    Raises:
      InputError: an unknown or unprepared set, one that is not an image classification set, or images of several sizes.
    """
    read = _SOURCES.get(config.dataset, _read_tfds)
    version, class_names, splits = read(config, data_dir, ("train", "test") if test else ("train",))
    train, validation = _hold_out(splits["train"], config.validation_fraction, config.data_seed)
    known, height = KNOWN_DATASETS.get(config.dataset), train.images.shape[1]
    if known is None:
        mean, std = _pixel_statistics(train.images)
        natural = train.images.shape[3] == 3  # photographs may be mirrored; characters may not
        augmentation = augment.Augmentation(pad=max(1, height // 8), flip=natural)
    else:
        mean, std = known.mean, known.std
        augmentation = augment.Augmentation(round(known.pad * height / known.image_shape[0]), known.flip)
    return Dataset(
        config.dataset, version, tuple(class_names), tuple(mean), tuple(std), augmentation,
        train, validation, splits.get("test"),
    )  # fmt: skip


def train_stream(
    dataset, config, *, steps_per_epoch, first_step, last_step, shards=1, shard_range=None, logit_files=None
):  # fmt: skip
    """Augmented training batches of steps [first_step, last_step).

    One element is one replica's part of a global batch, so a step takes `len(shard_range)` elements. Rows are dealt out in
    order: a global batch holds the same examples for any number of replicas.

    Args:
      dataset: a `Dataset`.
      config: `batch_size` (global), `seed` (order) and `data_seed` (augmentation) are used.
      steps_per_epoch: full global batches in an epoch; the short last one is dropped.
      first_step: global step to start from.
      last_step: global step to end before.
      shards: replicas in all; they divide the global batch.
      shard_range: the replicas fed by this stream, all of them by default.
      logit_files: paths of `TeacherCache` files for epochs 0, 1, ..., in the order of `dataset.train`; augmentation then
        has as many epochs as there are files, and starts again after them.

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
    rows_per_epoch = steps_per_epoch * config.batch_size
    with tf.device("CPU"):
        files = tf.constant(logit_files or [""])
        images, labels, index = tf.constant(train.images), tf.constant(train.labels), tf.constant(train.index)

    def epoch_rows(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(examples), seed=tf.stack([tf.constant(config.seed, tf.int64), epoch + _SHUFFLE_STREAM]), alg="philox"
        )
        pictures = epoch % len(logit_files) if logit_files else epoch
        table = augment.draws(config.data_seed, pictures, last_index + 1)
        drawn = {"rows": order, "table": tf.gather(tf.gather(table, index), order)}
        if logit_files:
            logits = _read_logits(tf.gather(files, pictures), dataset.num_classes, config.teacher_cache_dtype)
            drawn["logits"] = tf.gather(logits, order)

        def deal(values):  # [rows, ...] -> [steps * local replicas, rows a replica, ...]
            shape = values.shape[1:]
            values = tf.reshape(values, [steps_per_epoch, shards, config.batch_size // shards, *shape])[:, local]
            begin = tf.maximum(first_step - epoch * steps_per_epoch, 0)
            end = tf.minimum(last_step - epoch * steps_per_epoch, steps_per_epoch)
            return tf.reshape(values[begin:end], [-1, config.batch_size // shards, *shape])

        return tf.data.Dataset.from_tensor_slices({name: deal(v[:rows_per_epoch]) for name, v in drawn.items()})

    def batch(drawn):
        pixels = augment.apply(tf.gather(images, drawn["rows"]), drawn["table"], augmentation)
        x = {"image": pixels, "teacher_logits": drawn["logits"]} if logit_files else pixels
        return x, tf.gather(labels, drawn["rows"])

    epochs = tf.data.Dataset.range(first_step // steps_per_epoch, math.ceil(last_step / steps_per_epoch))
    stream = epochs.flat_map(epoch_rows).map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return stream.prefetch(tf.data.AUTOTUNE)


def _read_logits(path, classes, dtype):
    """The records of a `TeacherCache` file, `[examples, classes]`, by plain TensorFlow operations."""
    records = tf.io.decode_raw(tf.io.read_file(path), dtype)
    return tf.reshape(records[HEADER_BYTES // tf.as_dtype(dtype).size :], [-1, classes])


def _hold_out(split, fraction, data_seed):
    held_out = round(len(split) * fraction)
    if not held_out:
        return split, None
    order = np.random.Generator(np.random.Philox(data_seed)).permutation(len(split))
    return split.take(np.sort(order[held_out:])), split.take(np.sort(order[:held_out]))


def _pixel_statistics(images):
    sums, squares, pixels = 0.0, 0.0, math.prod(images.shape[:3])
    for chunk in np.array_split(images, max(1, images.nbytes >> 26)):
        chunk = chunk.reshape(-1, images.shape[3]) / 255.0
        sums, squares = sums + chunk.sum(axis=0), squares + np.square(chunk).sum(axis=0)
    mean = sums / pixels
    std = np.sqrt(np.maximum(squares / pixels - np.square(mean), 1e-12))
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 1e-4).round(4).tolist())


def _read_digits(config, data_dir, names):
    del data_dir
    if config.image_size not in (0, 8):
        raise InputError(
            f"digits has 8x8 images. Expected --image_size=0 or 8. Received image_size={config.image_size}. Leave it out."
        )
    with np.load(_ASSETS / "digits.npz", allow_pickle=False) as archive:
        images = np.rint(archive["images"].astype(np.float64) * (255 / 16)).astype(np.uint8)[..., None]
        labels = archive["labels"].astype(np.int32)
    known = KNOWN_DATASETS["digits"]
    # In order, not shuffled: consecutive digits are by the same writers, so most test writers are unseen.
    parts = {"train": slice(0, known.train), "test": slice(known.train, None)}
    splits = {name: Split(images[part], labels[part], np.arange(len(labels[part]))) for name, part in parts.items()}
    return "1.0.0", [str(digit) for digit in range(10)], {name: splits[name] for name in names}


def _read_tfds(config, data_dir, names):
    import tensorflow_datasets as tfds

    where = f"--data_dir={data_dir}" if data_dir else "TFDS' default folder (no --data_dir given)"
    try:
        builder = tfds.builder(config.dataset, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise InputError(
            f"Unknown dataset. Expected one of {', '.join(sorted(KNOWN_DATASETS))} or another TFDS image classification "
            f"set. Received dataset={config.dataset}. Check the name and {where}."
        ) from error
    if not builder.is_prepared():
        if not config.download:
            raise InputError(
                f"Dataset {config.dataset} is not prepared. Expected it in {where}. Received nothing readable there. "
                "Point --data_dir at a prepared TFDS folder, or add --download."
            )
        builder.download_and_prepare()
    image_key, label_key = _supervised_keys(builder.info, tfds)
    found = {"train": "train", "test": next((s for s in ("test", "validation") if s in builder.info.splits), None)}
    if "train" not in builder.info.splits or ("test" in names and found["test"] is None):
        raise InputError(
            f"Dataset {config.dataset} lacks a split. Expected train, and test or validation. "
            f"Received splits={', '.join(builder.info.splits)}. Choose another set."
        )
    shape = builder.info.features[image_key].shape
    read_config = tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=False)
    splits = {}
    for name in names:
        count = builder.info.splits[found[name]].num_examples
        stream = builder.as_dataset(split=found[name], shuffle_files=False, read_config=read_config)
        stream = stream.map(
            lambda example: (_fit(example[image_key], shape, config), example[label_key]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        splits[name] = _collect(stream, count, config)
    return str(builder.version), builder.info.features[label_key].names, splits


def _supervised_keys(info, tfds):
    keys = info.supervised_keys
    features = info.features
    if (
        not keys
        or len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
        or features[keys[0]].np_dtype != np.uint8
    ):
        raise InputError(
            f"Dataset {info.name} is not an image classification set. Expected one uint8 image and one class label. "
            f"Received supervised_keys={keys}. Choose another set."
        )
    return keys


def _fit(image, shape, config):
    """Brings one decoded image to `image_size`: shorter side resized, centre cropped."""
    size = config.image_size
    if not size:
        return image
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    scale = size / tf.minimum(height, width)
    new_size = tf.cast(tf.round([height * scale, width * scale]), tf.int32)
    image = tf.image.resize(image, new_size, antialias=True)
    image = tf.image.resize_with_crop_or_pad(image, size, size)
    image.set_shape([size, size, shape[-1]])
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def _collect(stream, count, config):
    shape = stream.element_spec[0].shape
    if not shape.is_fully_defined():
        raise InputError(
            f"The images of {config.dataset} have several sizes. Expected --image_size in pixels. "
            f"Received image_size={config.image_size}. Add for example --image_size=64."
        )
    needed = count * math.prod(shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory // 3:
        raise InputError(
            f"{config.dataset} does not fit in memory. Expected at most {memory / 3 / 2**30:.1f} GiB decoded. "
            f"Received {needed / 2**30:.1f} GiB at image size {shape[0]}x{shape[1]}. Lower --image_size."
        )
    images, labels, filled = np.empty([count, *shape], np.uint8), np.empty([count], np.int32), 0
    for image, label in stream.batch(1024).as_numpy_iterator():
        images[filled : filled + len(label)], labels[filled : filled + len(label)] = image, label
        filled += len(label)
    if filled != count:
        raise InputError(
            f"{config.dataset} is damaged. Expected {count} examples. Received {filled}. Prepare it again."
        )
    return Split(images, labels, np.arange(count))


_SOURCES = {"digits": _read_digits}
