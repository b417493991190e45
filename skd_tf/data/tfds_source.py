"""Any TFDS image classification dataset: decoded into memory, or read from its files record by record."""

import contextlib
import errno
import hashlib
import math
import os
import re
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from skd_tf.data import image_ops, kept_arrays, shard_index
from skd_tf.data.array_record import ArrayRecordImages
from skd_tf.data.catalog import KNOWN_DATASETS, fixed_shape, known_of
from skd_tf.data.dataset import Source, Split
from skd_tf.data.disk_images import DiskImages, TFRecordImages
from skd_tf.data.memory_budget import aligned_empty, keeps_in_memory
from skd_tf.data.settings import DataSettings
from skd_tf.errors import input_error
from skd_tf.runtime import devices
from skd_tf.runtime.files import sha256_of_json
from skd_tf.runtime.local_paths import TFDS_SCHEMES, require_local, scheme_of
from skd_tf.runtime.streams import untuned

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)  # the machine's state, reported as such


def read(settings: DataSettings, data_dir: str | None, names: Sequence[str]) -> Source:
    """The `Source` of a dataset that TFDS has prepared, or prepares with --download."""
    import tensorflow_datasets as tfds  # takes 0.3 s to import, which other sources need not pay

    builder = _prepared(tfds, settings, data_dir)
    keys = _supervised_keys(tfds, builder.info)
    tests = [split for split in ("test", "validation") if split in builder.info.splits]
    if "train" not in builder.info.splits or ("test" in names and not tests):
        raise input_error(
            f"Dataset {settings.dataset} lacks a split",
            expected="train, and test or validation",
            received=f"splits={', '.join(builder.info.splits)}",
            remedy="Choose another dataset",
        )
    height, width, channels = builder.info.features[keys[0]].shape
    shape, resize = fixed_shape(settings, (height, width, channels or 3))
    tfds_splits = {"train": "train"}
    if "test" in names:  # ImageNet's own test images have no labels: test on its validation split
        labelled = (split for split in tests[:-1] if _has_labels(tfds, settings, builder, split, keys))
        tfds_splits["test"] = next(labelled, tests[-1])
    counts = {name: builder.info.splits[tfds_splits[name]].num_examples for name in names}
    in_memory = keeps_in_memory(settings, counts.values(), shape)
    splits = {}
    for name, count in counts.items():
        with _damage_as_input_error(settings, builder, tfds_splits[name]):
            if in_memory:
                splits[name] = _in_memory(tfds, builder, tfds_splits[name], keys, count, shape, resize)
            else:
                splits[name] = _on_disk(builder, tfds_splits[name], keys, count, shape, resize)
    version, class_names = str(builder.version), tuple(builder.info.features[keys[1]].names)
    known = known_of(settings.dataset)
    if not known:
        return Source(version, class_names, splits)
    pad = round(known.pad * shape[0] / known.image_shape[0])
    return Source(version, class_names, splits, known.mean, known.std, pad, known.flip)


@contextlib.contextmanager
def _damage_as_input_error(settings, builder, split):
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        reason = re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", error.message.splitlines()[0])  # without the place in the graph
        raise input_error(
            f"The {split} split of {settings.dataset} is damaged",
            expected="complete records of images",
            received=f"{reason} in {builder.data_path}",
            remedy="Prepare it again",
        ) from error


def _prepared(tfds, settings, data_dir):
    if data_dir:
        require_local(data_dir, "data_dir", schemes=TFDS_SCHEMES)
    where = f"--data_dir={data_dir}" if data_dir else "TFDS' default folder (no --data_dir given)"
    try:
        builder = tfds.builder(settings.dataset, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:  # the last: no such version
        known = ", ".join(sorted(KNOWN_DATASETS))
        raise input_error(
            "Unknown dataset",
            expected=f"one of {known}, another TFDS image classification dataset, folder:PATH or MODULE:FUNCTION",
            received=f"dataset={settings.dataset}",
            remedy=f"Check the name, its version and {where}",
        ) from error
    except Exception as error:
        if not scheme_of(str(data_dir or "")):
            raise
        raise input_error(
            "TFDS cannot read its data folder",
            expected="a bucket that this machine may list",
            received=f"--data_dir={data_dir}: {' '.join(str(error).split())[:300]}",
            remedy="Check the bucket, the network and the credentials, or copy the folder to a local disk",
        ) from error
    if not builder.is_prepared():
        if not settings.download:
            raise input_error(
                f"Dataset {settings.dataset} is not prepared",
                expected=f"it in {where}",
                received="nothing readable there",
                remedy="Point --data_dir at a prepared TFDS folder, or add --download",
            )
        _download(builder, settings, data_dir)
    return builder


def _download(builder, settings, data_dir):
    """Lets TFDS download and prepare a dataset. Whatever stops it, a missing archive or network, becomes one line."""
    place = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets"))
    manual = os.path.join(place, "downloads", "manual")
    try:
        builder.download_and_prepare()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        reason = " ".join(str(error).split())[:300]
        if builder.MANUAL_DOWNLOAD_INSTRUCTIONS and isinstance(error, AssertionError):
            instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split()).rstrip(".")
            raise input_error(
                f"TFDS may not download {settings.dataset}: you have to fetch its archives yourself",
                expected=f"them in {manual}",
                received=reason.partition(" Create it and")[0],
                remedy=f"Put them there. TFDS says: {instructions}",
            ) from error
        raise input_error(
            f"TFDS cannot download and prepare {settings.dataset} ({type(error).__name__})",
            expected="a network, room on the disk and what TFDS needs for this dataset",
            received=reason or "no message",
            remedy=f"Try again, or prepare it on another machine with the same command and copy its folder "
            f"{builder.name} into {place}",
        ) from error


def _supervised_keys(tfds, info):
    """(key of the image, key of the label)."""
    keys, features = info.supervised_keys, info.features
    if (
        not keys
        or len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
        or features[keys[0]].np_dtype != np.uint8
    ):
        raise input_error(
            f"Dataset {info.name} is not an image classification dataset",
            expected="one uint8 image and one class label",
            received=f"supervised_keys={keys}",
            remedy="Choose another dataset",
        )
    return keys


def _has_labels(tfds, settings, builder, split, keys):
    """Whether any example of a split has a label: decodes no image, stops at the first label, and keeps the answer."""
    if _is_array_record(builder):
        with _damage_as_input_error(settings, builder, split):
            return bool((ArrayRecordImages(builder, split, *keys).labels >= 0).any())
    files = [(path, tf.io.gfile.stat(path).length) for path in map(str, builder.info.splits[split].filepaths)]
    place = kept_arrays.place("labelled", sha256_of_json([builder.info.full_name, split, keys, files])[:32])
    kept = kept_arrays.load(place).get("found")
    if kept is not None:
        return bool(kept)
    with _damage_as_input_error(settings, builder, split):
        stream = builder.as_dataset(split=split, decoders={keys[0]: tfds.decode.SkipDecoding()}, shuffle_files=False)
        found = any(untuned(stream.map(lambda example: example[keys[1]] >= 0)).as_numpy_iterator())
    kept_arrays.save(place, found=np.array(found))
    return found


def _in_memory(tfds, builder, split, keys, count, shape, resize):
    """A split decoded into memory, in the order of its shards."""
    if _is_array_record(builder):
        records = ArrayRecordImages(builder, split, *keys)
        stream = tf.data.Dataset.range(len(records)).map(
            lambda row: records.fitted_example(row, shape, resize), num_parallel_calls=devices.cpu_count()
        )
    else:
        stream = builder.as_dataset(
            split=split, shuffle_files=False, read_config=tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=False)
        )
        stream = stream.map(
            lambda example: (image_ops.fit(example[keys[0]], shape, resize), example[keys[1]]),
            num_parallel_calls=devices.cpu_count(),
        )
    images, labels, filled = aligned_empty(count, shape), np.empty([count], np.int32), 0
    chunk = max(1, (64 << 20) // math.prod(shape))
    for image, label in untuned(stream.batch(min(chunk, 1024))).as_numpy_iterator():
        images[filled : filled + len(label)], labels[filled : filled + len(label)] = image, label
        filled += len(label)
    if filled != count:
        raise _damaged(builder, count, filled)
    return Split(images, labels, np.arange(count), own_memory=True)


def _on_disk(builder, split, keys, count, shape, resize):
    """A split whose images stay in their files; one pass finds each record's label, and of a TFRecord its offset."""
    image_key, label_key = keys
    if _is_array_record(builder):
        store = ArrayRecordImages(builder, split, *keys)
        labels = store.labels
    else:
        store, labels = _tfrecord_images(builder, split, image_key, label_key, count)
    if len(labels) != count:
        raise _damaged(builder, count, len(labels))
    return Split(DiskImages(store, np.arange(count), shape, resize), labels.astype(np.int32), np.arange(count))


def _tfrecord_images(builder, split, image_key, label_key, count):
    """(the images of a split, their labels)."""
    shards = [str(path) for path in builder.info.splits[split].filepaths]
    if builder.info.file_format.value != "tfrecord":
        raise input_error(
            f"{builder.name} is not kept in memory, and its file format has no random access",
            expected="file format tfrecord or array_record",
            received=builder.info.file_format.value,
            remedy="Prepare it again as tfrecord, or lower --image_size",
        )
    index = shard_index.read(f"{builder.info.full_name} {split}", shards, label_key, count)

    def image_of(record):
        return tf.io.parse_single_example(record, {image_key: tf.io.FixedLenFeature([], tf.string)})[image_key]

    identity = hashlib.sha256(index.label.tobytes() + index.length.tobytes()).hexdigest()
    facts = [builder.info.full_name, split, identity]
    records = np.stack([index.shard, index.offset, index.length], axis=1)
    return TFRecordImages(shards, image_of, records, facts), index.label


def _is_array_record(builder):
    return builder.info.file_format.value == "array_record"


def _damaged(builder, expected, found):
    return input_error(
        f"{builder.name} is damaged", expected=f"{expected} examples", received=found, remedy="Prepare it again"
    )
