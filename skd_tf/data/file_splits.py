"""Splits of image files: which files decode, what shape and depth they share, and their pixels in memory or on disk."""

import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from skd_tf.data import file_problems, image_ops
from skd_tf.data.catalog import fixed_shape
from skd_tf.data.dataset import Split
from skd_tf.data.disk_images import DiskImages, FileImages, UprightFileImages
from skd_tf.data.file_facts import DAMAGED, DECODES, UNREADABLE, UNTRIED, FileFacts
from skd_tf.data.memory_budget import aligned_empty, keeps_in_memory
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted
from skd_tf.runtime import devices
from skd_tf.runtime.console import warn
from skd_tf.runtime.streams import untuned

# Part of the identity of images on disk: raise it when the same files would give other pixels.
DECODING_VERSION = 2

_BATCH_BYTES = 8 << 20


class FileSplits:
    """The files of a data set.

    Args:
      settings: a `DataSettings`.
      root: folder of the data set.
      paths: {split: paths of its files}, also of splits that are not read.
      class_names: in the order of the labels.
      channels: of all images; None: 1 if all files are grey, else 3.
      png_bits: with which 16-bit PNGs are read; None: by the brightest training image.

    Attributes:
      png_bits: bits that hold the brightest value of the training part's 16-bit PNGs; None if no file that was read is
        one.
      warnings: of what was read, for the run's records.
    """

    def __init__(
        self,
        settings: DataSettings,
        root: str | os.PathLike,
        paths: Mapping[str, Sequence[str]],
        class_names: Sequence[str],
        *,
        channels: int | None = None,
        png_bits: int | None = None,
    ) -> None:
        self._channels = channels
        self._settings, self._root, self._paths, self._class_names = settings, root, paths, class_names
        self.png_bits, self.warnings = png_bits, tuple[str, ...]()
        self._facts: dict[str, FileFacts] = {}

    def read(self, labels: Mapping[str, np.ndarray]) -> dict[str, Split]:
        """Splits, decoded into memory if they fit. Unreadable files are reported and skipped.

        Args:
          labels: {split: int32 `[n]`} of the splits to read.

        Raises:
          InputError: too many of a split's files cannot be read, a class is left without one, or images differ in size
            and there is no --image_size.
        """
        for name in self._paths:  # what files have in common is the same whichever splits are read
            self._facts[name] = self._facts_of(name)
        self._find_bits(labels)
        shape, resize = self._shape(self._facts)
        counts = [len(labels[name]) for name in labels]
        in_memory = keeps_in_memory(self._settings, counts, shape)
        splits = {}
        for name in labels:
            facts = self._facts[name]
            if in_memory:
                rows, images = self._decoded(name, shape, resize)
            else:
                self._try(name, self._untried(name))
                rows = np.flatnonzero(facts.rows["state"] == DECODES)
                images = DiskImages(self._store(name), rows, shape, resize)
            self._report_unreadable(name, labels[name])
            # The index counts all listed files, so skipping one does not change how the others are augmented.
            # Names are for people who look at answers. The training split, the largest, needs none.
            files = None if name == "train" else self._names(name)[rows]
            splits[name] = Split(images, labels[name][rows], rows.astype(np.int64), in_memory, files)
        self.warnings = tuple(file_problems.report_equal_content(self._paths, self._facts, labels))
        return splits

    def hashes(self, name: str) -> list[bytes]:
        """The content hash of each file of a split that was read."""
        return self._facts[name].hashes()

    def _names(self, name):
        """The paths of a split's files below the folder of the data, object `[n]`."""
        return np.array(
            [pathlib.PurePath(os.path.relpath(p, self._root)).as_posix() for p in self._paths[name]], object
        )

    def _facts_of(self, name):
        facts = FileFacts(self._root, self._paths[name])
        if self._settings.data_rules == 1:
            _as_in_earlier_versions(facts, self._paths[name])
        return facts

    def _find_bits(self, names):
        """Finds what the 16-bit PNGs of the training part hold, and says so."""
        deep = {name: self._facts[name].rows["deep"] for name in names}
        if self.png_bits is not None or not any(flags.any() for flags in deep.values()):
            return
        peaks = {}
        for name in {"train", *names}:
            self._measure_deep(name)
            peaks[name] = self._facts[name].rows["peak"][self._facts[name].rows["deep"]]
        brightest = int(peaks["train"].max(initial=-1))
        self.png_bits = max(8, brightest.bit_length()) if brightest >= 0 else 16
        count, total = sum(int(flags.sum()) for flags in deep.values()), sum(map(len, deep.values()))
        found = f"the brightest training value is {brightest}" if brightest >= 0 else "none of them is for training"
        over = sum(int((peaks[name] >= 2**self.png_bits).sum()) for name in names)
        clipped = f" Pixels of {counted(over, 'image')} are brighter and become 255." if over else ""
        warn(
            f"16-bit PNGs: {count:,} of {counted(total, 'image')}, and {found}. They are read as {self.png_bits}-bit "
            f"images, value / {2 ** (self.png_bits - 8)}.{clipped}"
        )

    def _measure_deep(self, name):
        """Decodes the 16-bit PNGs of a split whose brightest value is unknown."""
        facts = self._facts[name]
        rows = np.flatnonzero(facts.rows["deep"] & (facts.rows["peak"] < 0) & (facts.rows["state"] != DAMAGED))

        def peak_of(row, path):
            values = tf.io.decode_png(tf.io.read_file(path), dtype=tf.uint16)
            return row, tf.reduce_max(tf.cast(values, tf.int32))

        for row, peak in _stream(rows, peak_of, self._paths[name]).as_numpy_iterator():
            facts.rows["peak"][row] = peak
        failed = rows[facts.rows["peak"][rows] < 0]
        facts.rows["state"][failed] = DAMAGED
        self._read_again(name, failed)
        if len(rows):
            facts.save()

    def _shape(self, names):
        """(shape of all images, shorter side before the centre crop)."""
        found = self._sizes(names)
        if not self._settings.image_size and len(np.unique(found, axis=0)) > 1:
            for name in names:  # a damaged file may say any size
                self._try(name, self._untried(name))
            found = self._sizes(names)
        channels = self._channels or (1 if all(map(self._is_grey, names)) else 3)
        same = len(found) > 0 and (found == found[0]).all()
        height, width = found[0].tolist() if same else (None, None)
        if not len(found):
            for name in names:
                self._report_unreadable(name, None)
        return fixed_shape(self._settings, (height, width, channels))

    def _sizes(self, names):
        """(height, width) `[n, 2]` of the upright images that may be readable."""
        sizes = []
        for name in names:
            rows = self._facts[name].rows[self._usable(name)]
            size = np.stack([rows["height"], rows["width"]], axis=1)
            sizes.append(np.where((rows["orientation"] >= 5)[:, None], size[:, ::-1], size))
        return np.concatenate(sizes)

    def _is_grey(self, name):
        """Whether all images of a split are grey. Coloured files that do not decode do not count, at any start."""
        rows = self._facts[name].rows
        coloured = self._usable(name) & ~rows["grey"]
        many = coloured.sum() > file_problems.most_unreadable(
            len(coloured)
        )  # the split is refused unless one of them decodes
        if many or self._settings.data_rules == 1:
            return not coloured.any()
        if not (coloured & (rows["state"] == DECODES)).any():
            self._try(name, np.flatnonzero(coloured & (rows["state"] == UNTRIED)))
        return not (coloured & (rows["state"] == DECODES)).any()

    def _usable(self, name):
        return self._facts[name].usable()

    def _report_unreadable(self, name, labels):
        file_problems.report_unreadable(name, self._paths[name], self._facts[name], labels, self._class_names)

    def _store(self, name):
        facts, paths = self._facts[name], self._paths[name]
        if self._settings.data_rules == 1:
            return FileImages(paths, _identity_of_earlier_versions(paths))
        identity = {"decoding": DECODING_VERSION, "files": facts.identity(), "png_bits": self.png_bits}
        return UprightFileImages(paths, identity, facts.rows["orientation"], facts.rows["deep"], self.png_bits or 16)

    def _untried(self, name):
        return np.flatnonzero(self._facts[name].rows["state"] == UNTRIED)

    def _try(self, name, rows):
        """Decodes files, to know which are damaged."""
        self._mark(name, rows, self._that_decode(name, rows))

    def _that_decode(self, name, rows):
        """Whether each file of a split is one of `rows` and decodes, bool `[n]`."""
        found = np.zeros(len(self._facts[name].rows), bool)
        if len(rows):
            store = self._store(name)
            for row, _ in _stream(rows, lambda row: (row, tf.shape(store.decode(row, 3)))).as_numpy_iterator():
                found[row] = True
        return found

    def _mark(self, name, rows, found):
        facts = self._facts[name]
        before = facts.rows["state"][rows].copy()
        facts.rows["state"][rows] = np.where(found[rows], DECODES, DAMAGED)
        self._read_again(name, rows[~found[rows]])
        if (before != facts.rows["state"][rows]).any() and self._settings.data_rules != 1:
            facts.save()

    def _read_again(self, name, rows):
        """Finds which files that did not decode are not damaged, but could not be read."""
        facts = self._facts[name]
        facts.read_again(rows, self._paths[name])
        for row in np.flatnonzero(self._that_decode(name, rows[facts.rows["state"][rows] == DAMAGED])).tolist():
            facts.rows["state"][row], facts.problems[row] = UNREADABLE, "it could not be read for a moment"

    def _decoded(self, name, shape, resize):
        """(rows that decode, their images as one array): each file is decoded once."""
        store, rows = self._store(name), np.flatnonzero(self._usable(name))
        images, found = aligned_empty(len(rows), shape), np.zeros(len(self._facts[name].rows), bool)
        place = np.zeros(len(found), np.int64)
        place[rows] = np.arange(len(rows))
        stream = _stream(rows, functools.partial(_fitted, store, shape, resize))
        size = min(256, max(1, _BATCH_BYTES // math.prod(shape)))
        for batch_rows, batch in stream.batch(size).as_numpy_iterator():
            images[place[batch_rows]], found[batch_rows] = batch, True
        self._mark(name, rows, found)
        kept = np.flatnonzero(found[rows])
        for new, old in enumerate(kept.tolist()):  # in place: a copy would need the memory twice
            if new != old:
                images[new] = images[old]
        return rows[kept], images[: len(kept)]


def _fitted(store, shape, resize, row):
    return row, store.fitted(row, shape, resize)


def _stream(rows, function, paths=None):
    """A stream of `function` of each row (and its path); leaves out the rows for which it fails."""
    columns = (rows,) if paths is None else (rows, [os.fsencode(paths[row]) for row in rows.tolist()])
    if not len(rows):
        columns = (np.zeros(0, np.int64),) if paths is None else (np.zeros(0, np.int64), np.zeros(0, "S1"))
    stream = tf.data.Dataset.from_tensor_slices(columns if len(columns) > 1 else columns[0])
    stream = stream.map(function, num_parallel_calls=devices.cpu_count(), deterministic=False)
    return untuned(stream.ignore_errors())


def _as_in_earlier_versions(facts, paths):
    """skd_tf 0.1 knew no orientation and no depth, and took what TensorFlow decodes."""
    facts.rows["orientation"], facts.rows["deep"] = 1, False
    for row in np.flatnonzero((facts.rows["state"] == UNREADABLE) & (facts.rows["size"] > 0)).tolist():
        if "animated" in facts.problems.get(row, ""):
            continue
        try:
            shape = image_ops.decode(tf.io.read_file(os.fsencode(paths[row]))).shape
        except tf.errors.OpError:
            continue
        facts.rows["height"][row], facts.rows["width"][row] = shape[:2]
        facts.rows["grey"][row], facts.rows["state"][row] = shape[2] == 1, DECODES


def _identity_of_earlier_versions(paths):
    """SHA-256 over paths, sizes and modification times."""
    digest = hashlib.sha256()
    for path in paths:
        if os.path.exists(path):
            facts = os.stat(path)
            line = f"{os.path.abspath(path)}\0{facts.st_size}\0{facts.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
