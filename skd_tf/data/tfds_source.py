"""Any TFDS image classification set: decoded into memory, or its records read where they lie."""

import contextlib
import hashlib
import math

import numpy as np
import tensorflow as tf

from skd_tf.data import image_ops
from skd_tf.data.catalog import KNOWN_DATASETS, known_of, size_and_resize
from skd_tf.data.dataset import Source, Split
from skd_tf.data.disk_images import RECORD_FRAME, DiskImages, TFRecordImages
from skd_tf.data.memory_budget import keeps_in_memory, several_sizes
from skd_tf.errors import input_error
from skd_tf.runtime.console import say


def read(settings, data_dir, names):
    """The `Source` of a set that TFDS has prepared, or prepares with --download."""
    import tensorflow_datasets as tfds

    builder = _prepared(tfds, settings, data_dir)
    image_key, label_key = _supervised_keys(builder.info, tfds)
    tests = [split for split in ("test", "validation") if split in builder.info.splits]
    if "train" not in builder.info.splits or ("test" in names and not tests):
        raise input_error(
            f"Dataset {settings.dataset} lacks a split",
            expected="train, and test or validation",
            received=f"splits={', '.join(builder.info.splits)}",
            remedy="Choose another set",
        )
    size, resize = size_and_resize(settings)
    shape = builder.info.features[image_key].shape
    shape = (size, size, shape[-1] or 3) if size else shape
    if None in shape:
        raise several_sizes(settings)
    keys = image_key, label_key
    found = {"train": "train"}
    if "test" in names:  # ImageNet's own test images have no labels: there it is the validation split that is tested on
        labelled = (split for split in tests[:-1] if _has_labels(settings, tfds, builder, split, keys))
        found["test"] = next(labelled, tests[-1])
    counts = {name: builder.info.splits[found[name]].num_examples for name in names}
    in_memory = keeps_in_memory(settings, counts.values(), shape)
    splits = {}
    for name, count in counts.items():
        with _telling_damage(settings, builder, found[name]):
            if in_memory:
                splits[name] = _decoded(tfds, builder, found[name], keys, count, shape, resize)
            else:
                say(
                    f"Reading the labels of {count:,} {name} examples of {settings.dataset}, whose images stay on the disk."
                )
                splits[name] = _stored(builder, found[name], keys, count, shape, resize)
    known = known_of(settings.dataset)
    facts = {}
    if known:
        pad = round(known.pad * shape[0] / known.image_shape[0])
        facts = {"mean": known.mean, "std": known.std, "pad": pad, "flip": known.flip}
    return Source(str(builder.version), builder.info.features[label_key].names, splits, **facts)


@contextlib.contextmanager
def _telling_damage(settings, builder, split):
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
        raise input_error(
            f"The {split} split of {settings.dataset} is damaged",
            expected="whole records of images",
            received=f"{error.message.splitlines()[0]} in {builder.data_path}",
            remedy="Prepare it again",
        ) from error


def _prepared(tfds, settings, data_dir):
    where = f"--data_dir={data_dir}" if data_dir else "TFDS' default folder (no --data_dir given)"
    try:
        builder = tfds.builder(settings.dataset, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise input_error(
            "Unknown dataset",
            expected=f"one of {', '.join(sorted(KNOWN_DATASETS))}, another TFDS image classification set, folder:PATH or MODULE:FUNCTION",
            received=f"dataset={settings.dataset}",
            remedy=f"Check the name and {where}",
        ) from error
    if not builder.is_prepared():
        if not settings.download:
            raise input_error(
                f"Dataset {settings.dataset} is not prepared",
                expected=f"it in {where}",
                received="nothing readable there",
                remedy="Point --data_dir at a prepared TFDS folder, or add --download",
            )
        builder.download_and_prepare()
    return builder


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
        raise input_error(
            f"Dataset {info.name} is not an image classification set",
            expected="one uint8 image and one class label",
            received=f"supervised_keys={keys}",
            remedy="Choose another set",
        )
    return keys


def _has_labels(settings, tfds, builder, split, keys):
    """Whether any example of a split has one; decodes no image, and reads no further than the first."""
    with _telling_damage(settings, builder, split):
        stream = builder.as_dataset(split=split, decoders={keys[0]: tfds.decode.SkipDecoding()}, shuffle_files=False)
        return any(stream.map(lambda example: example[keys[1]] >= 0).as_numpy_iterator())


def _decoded(tfds, builder, split, keys, count, shape, resize):
    """A split decoded into memory, in the order of its shards."""
    stream = builder.as_dataset(
        split=split, shuffle_files=False, read_config=tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=False)
    )
    stream = stream.map(
        lambda example: (image_ops.fit(example[keys[0]], shape, resize), example[keys[1]]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    images, labels, filled = np.empty([count, *shape], np.uint8), np.empty([count], np.int32), 0
    chunk = max(1, (64 << 20) // math.prod(shape))
    for image, label in stream.batch(min(chunk, 1024)).as_numpy_iterator():
        images[filled : filled + len(label)], labels[filled : filled + len(label)] = image, label
        filled += len(label)
    if filled != count:
        raise _damaged(builder, count, filled)
    return Split(images, labels, np.arange(count))


def _stored(builder, split, keys, count, shape, resize):
    """A split whose images stay in their TFRecord shards; one pass finds each record's place and label."""
    image_key, label_key = keys
    shards = [str(path) for path in builder.info.splits[split].filepaths]
    if builder.info.file_format.value != "tfrecord":
        raise input_error(
            f"{builder.name} is not kept in memory, and its files cannot be read in any order",
            expected="file format tfrecord",
            received=f"{builder.info.file_format.value}",
            remedy="Prepare it again as tfrecord, or lower --image_size",
        )

    def label_and_length(record):
        label = tf.io.parse_single_example(record, {label_key: tf.io.FixedLenFeature([], tf.int64)})[label_key]
        return label, tf.strings.length(record)

    def shard_of(number, path):
        records = tf.data.TFRecordDataset(path).map(label_and_length)
        return records.map(lambda label, length: (number, label, tf.cast(length, tf.int64)))

    stream = tf.data.Dataset.from_tensor_slices((np.arange(len(shards), dtype=np.int64), shards))
    stream = stream.interleave(
        shard_of, cycle_length=16, block_length=64, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    chunks = list(stream.batch(4096).as_numpy_iterator())
    shard, labels, lengths = (np.concatenate(column) for column in zip(*chunks, strict=True))
    if len(labels) != count:
        raise _damaged(builder, count, len(labels))
    in_file_order = np.argsort(shard, kind="stable")
    shard, labels, lengths = shard[in_file_order], labels[in_file_order], lengths[in_file_order]
    ends = np.cumsum(lengths + RECORD_FRAME)
    starts = ends - lengths - RECORD_FRAME
    offsets = starts - starts[np.searchsorted(shard, shard)]

    def image_of(record):
        return tf.io.parse_single_example(record, {image_key: tf.io.FixedLenFeature([], tf.string)})[image_key]

    identity = hashlib.sha256(labels.tobytes() + lengths.tobytes()).hexdigest()
    facts = [builder.info.full_name, split, identity]
    store = TFRecordImages(shards, image_of, shard, offsets, lengths, facts)
    return Split(DiskImages(store, np.arange(count), shape, resize), labels.astype(np.int32), np.arange(count))


def _damaged(builder, expected, found):
    return input_error(
        f"{builder.name} is damaged", expected=f"{expected} examples", received=f"{found}", remedy="Prepare it again"
    )
