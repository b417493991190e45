"""Folders of JPEG and PNG files. Each file is decoded once before training; one that fails is reported and skipped."""

import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from skd_tf.data import folder_index, image_ops
from skd_tf.data.catalog import fixed_shape
from skd_tf.data.dataset import Source, Split
from skd_tf.data.disk_images import DiskImages, FileImages
from skd_tf.data.memory_budget import keeps_in_memory
from skd_tf.data.settings import DataSettings
from skd_tf.errors import input_error
from skd_tf.runtime.console import say, warn

_MOST_UNREADABLE = 0.01  # fraction of a split's files
_NAMED = 10  # unreadable files that are named, one per line
_CHUNK = 256


def read(settings: DataSettings, data_dir: str | None, names: Sequence[str]) -> Source:
    """The `Source` of --dataset=folder:PATH."""
    del data_dir
    folder = folder_index.find(settings.dataset, settings.data_seed)
    if folder.other_files:
        warn(f"Skipped {len(folder.other_files)} files that are not JPEG or PNG: {folder.other_files[0]} ...")
    labels = {name: np.array([label for _, label in folder.splits[name]], np.int32) for name in names}
    paths = {name: [path for path, _ in folder.splits[name]] for name in names}
    splits = splits_of_files(settings, paths, labels)
    counts = ", ".join(f"{len(split)} {name} images" for name, split in splits.items())
    say(f"{folder.root}: {len(folder.class_names)} classes, {counts}.")
    return Source(_version(folder), folder.class_names, splits)


def splits_of_files(
    settings: DataSettings, paths: Mapping[str, Sequence[str]], labels: Mapping[str, np.ndarray]
) -> dict[str, Split]:
    """Splits of image files, decoded into memory if they fit. Unreadable files are reported and skipped.

    Args:
      settings: `image_size`, `augmentation` and `cache_dataset` are used.
      paths: {split: paths of its n files}.
      labels: {split: int32 `[n]`}.

    Raises:
      InputError: more than 1% of a split's files cannot be read, or images differ in size and there is no --image_size.
    """
    shapes = {name: _shapes(paths[name]) for name in paths}
    readable = {name: shape[:, 0] > 0 for name, shape in shapes.items()}
    for name in paths:
        _report_unreadable(name, np.array(paths[name])[~readable[name]], len(paths[name]))
    found = np.concatenate([shapes[name][readable[name]] for name in paths])
    channels = 1 if (found[:, 2] == 1).all() else 3
    height, width = found[0, :2].tolist() if (found[:, :2] == found[0, :2]).all() else (None, None)
    shape, resize = fixed_shape(settings, (height, width, channels))
    in_memory = keeps_in_memory(settings, [len(s) for s in shapes.values()], shape)
    splits = {}
    for name in paths:
        rows = np.flatnonzero(readable[name])
        on_disk = DiskImages(FileImages(paths[name], _identity(paths[name])), rows, shape, resize)
        # The index counts all listed files, so skipping one does not change how the others are augmented.
        splits[name] = Split(_decoded(on_disk) if in_memory else on_disk, labels[name][rows], rows.astype(np.int64))
    return splits


def _decoded(on_disk):
    """`DiskImages` as one array."""
    images = np.empty(on_disk.shape, np.uint8)
    for start in range(0, len(on_disk), _CHUNK):
        images[start : start + _CHUNK] = on_disk[start : start + _CHUNK]
    return images


def _shapes(paths):
    """(height, width, channels) int32 `[n, 3]`, from decoding each file; zeros for one that does not decode."""

    def shape_of(row, path):
        return row, tf.shape(image_ops.decode(tf.io.read_file(path)))

    stream = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), paths))
    stream = stream.map(shape_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).ignore_errors()
    shapes = np.zeros([len(paths), 3], np.int32)
    for row, shape in stream.as_numpy_iterator():
        shapes[row] = shape
    return shapes


def _report_unreadable(name, unreadable, count):
    if len(unreadable) > _MOST_UNREADABLE * count:
        raise input_error(
            f"Too many files of the {name} split do not decode: {len(unreadable)} of {count}",
            expected=f"JPEG or PNG, at most {_MOST_UNREADABLE:.0%} damaged",
            received=f"{', '.join(unreadable[:3])}{' ...' * (len(unreadable) > 3)}",
            remedy="Repair or remove them",
        )
    for path in unreadable[:_NAMED]:
        warn(f"Skipped {path}: it does not decode.")
    if len(unreadable) > _NAMED:
        warn(f"Skipped {len(unreadable) - _NAMED} more files of the {name} split that do not decode.")


def _identity(paths):
    """SHA-256 over paths, sizes and modification times."""
    digest = hashlib.sha256()
    for path in paths:
        facts = os.stat(path)
        digest.update(f"{os.path.abspath(path)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _version(folder):
    """Changes if the name, size or class of any file changes."""
    digest = hashlib.sha256()
    for name in ("train", "test"):
        for path, label in folder.splits[name]:
            digest.update(f"{os.path.relpath(path, folder.root)}\0{os.path.getsize(path)}\0{label}\n".encode())
    return digest.hexdigest()[:12]
