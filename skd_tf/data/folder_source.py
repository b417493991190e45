"""Folders of JPEG and PNG files: every file is decoded once before training, and what cannot be is named and left out."""

import hashlib
import os

import numpy as np
import tensorflow as tf

from skd_tf.data import folder_index
from skd_tf.data.catalog import size_and_resize
from skd_tf.data.dataset import Source, Split
from skd_tf.data.disk_images import DiskImages, FileImages
from skd_tf.data.memory_budget import keeps_in_memory, several_sizes
from skd_tf.errors import input_error
from skd_tf.runtime.console import say, warn

_MOST_UNREADABLE = 0.01  # of a split's files
_NAMED = 10  # unreadable files that are named, each on a line
_CHUNK = 256


def read(settings, data_dir, names):
    """The `Source` of --dataset=folder:PATH."""
    del data_dir
    folder = folder_index.find(settings.dataset, settings.data_seed)
    if folder.others:
        warn(f"{len(folder.others)} files are neither JPEG nor PNG and are left out: {folder.others[0]} ...")
    labels = {name: np.array([label for _, label in folder.splits[name]], np.int32) for name in names}
    paths = {name: [str(path) for path, _ in folder.splits[name]] for name in names}
    splits = splits_of_files(settings, paths, labels)
    counts = ", ".join(f"{len(split)} {name} images" for name, split in splits.items())
    say(f"{folder.root}: {len(folder.class_names)} classes, {counts}.")
    return Source(_version(folder), folder.class_names, splits)


def splits_of_files(settings, paths, labels):
    """Splits of image files, in memory where they fit; unreadable files are named and left out.

    Args:
      settings: `DataSettings`.
      paths: {split: list of paths}.
      labels: {split: int32 `[n]`}.

    Raises:
      InputError: more than a hundredth of a split cannot be read, or images of several sizes without --image_size.
    """
    shapes = {name: _shapes(paths[name]) for name in paths}
    for name, shape in shapes.items():
        _check_readable(name, np.array(paths[name]), shape[:, 0] > 0)
    readable = np.concatenate([shape[shape[:, 0] > 0] for shape in shapes.values()])
    channels = 1 if (readable[:, 2] == 1).all() else 3
    size, resize = size_and_resize(settings)
    if not size and len(np.unique(readable[:, :2], axis=0)) > 1:
        raise several_sizes(settings)
    shape = (size, size, channels) if size else (*readable[0, :2].tolist(), channels)
    in_memory = keeps_in_memory(settings, [len(s) for s in shapes.values()], shape)
    splits = {}
    for name in paths:
        rows = np.flatnonzero(shapes[name][:, 0] > 0)
        stored = DiskImages(FileImages(paths[name], _identity(paths[name])), rows, shape, resize)
        images = decode_all(stored) if in_memory else stored
        # Numbered by place in the listing: a file that is left out changes no other one's augmentation.
        splits[name] = Split(images, labels[name][rows], rows.astype(np.int64))
    return splits


def decode_all(stored):
    """`DiskImages` as one array."""
    images = np.empty(stored.shape, np.uint8)
    for start in range(0, len(stored), _CHUNK):
        images[start : start + _CHUNK] = stored[start : start + _CHUNK]
    return images


def _shapes(paths):
    """(height, width, channels) int32 `[n, 3]` of files by decoding each; zeros for one that does not decode."""

    def shape_of(row, path):
        return row, tf.shape(tf.io.decode_image(tf.io.read_file(path), expand_animations=False))

    stream = tf.data.Dataset.from_tensor_slices((np.arange(len(paths)), paths))
    stream = stream.map(shape_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False).ignore_errors()
    shapes = np.zeros([len(paths), 3], np.int32)
    for row, shape in stream.as_numpy_iterator():
        shapes[row] = shape
    return shapes


def _check_readable(name, paths, readable):
    bad = paths[~readable]
    if len(bad) > _MOST_UNREADABLE * len(paths) and len(bad):
        raise input_error(
            f"Too many files of the {name} split do not decode: {len(bad)} of {len(paths)}",
            expected=f"JPEG or PNG, at most {_MOST_UNREADABLE:.0%} damaged",
            received=f"{', '.join(bad[:3])}{' ...' * (len(bad) > 3)}",
            remedy="Repair or remove them",
        )
    for path in bad[:_NAMED]:
        warn(f"{path} does not decode and is left out.")
    if len(bad) > _NAMED:
        warn(f"{len(bad) - _NAMED} more files of the {name} split do not decode and are left out.")


def _identity(paths):
    """SHA-256 over paths, sizes and times of change."""
    digest = hashlib.sha256()
    for path in paths:
        facts = os.stat(path)
        digest.update(f"{os.path.abspath(path)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _version(folder):
    """Changes with any file's name, size or class."""
    digest = hashlib.sha256()
    for name in ("train", "test"):
        for path, label in folder.splits[name]:
            digest.update(f"{os.path.relpath(path, folder.root)}\0{os.path.getsize(path)}\0{label}\n".encode())
    return digest.hexdigest()[:12]
