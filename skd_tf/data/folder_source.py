"""Folders of image files. Files that do not decode are named and skipped; see docs/data.md for all rules."""

import hashlib
import os
from collections.abc import Sequence

import numpy as np

from skd_tf.data import folder_index, grouping
from skd_tf.data.catalog import source_kind
from skd_tf.data.dataset import Source
from skd_tf.data.file_splits import FileSplits
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted
from skd_tf.runtime.console import say, warn


def read(settings: DataSettings, data_dir: str | None, names: Sequence[str]) -> Source:
    """The `Source` of --dataset=folder:PATH or images:PATH; the latter has no labels, and no class names yet."""
    del data_dir
    folder = folder_index.find(settings.dataset, settings.data_seed, settings.data_rules, settings.group)
    for note in folder.notes:
        warn(f"{folder.root}: {note}.")
    names = [name for name in folder.splits if name in names or (name == "validation" and "train" in names)]
    labels = {name: np.array([label for _, label in folder.splits[name]], np.int32) for name in names}
    paths = {name: [path for path, _ in folder.splits[name]] for name in folder.splits}
    files = FileSplits(settings, folder.root, paths, folder.class_names)
    splits = files.read(labels)
    counts = ", ".join(counted(len(split), f"{name} image") for name, split in splits.items())
    kind = source_kind(settings.dataset)
    classes = counted(len(folder.class_names), "class") if kind == "folder" else "no labels"
    say(f"{folder.root}: {classes}, {counts}.")
    key_name = settings.dataset if settings.data_rules == 1 else kind
    groups = grouping.numbered(folder.groups) if folder.groups else None
    version, set_version = digests_of(folder)
    return Source(
        version,
        folder.class_names,
        splits,
        key_name=key_name,
        png_bits=files.png_bits,
        groups=groups,
        set_version=set_version,
        warnings=files.warnings,
        hashes=files.hashes,
    )


def digests_of(folder: folder_index.ImageFolder) -> tuple[str, str]:
    """(version, set version) of a folder's files, as in `Dataset`."""
    lines = list(_lines(folder))
    return _digest(lines), _digest(sorted(lines))


def _lines(folder):
    """A line of name, size and class for each file of each split."""
    for name in ("train", "test", "validation"):
        for path, label in folder.splits.get(name, ()):
            size = os.path.getsize(path) if os.path.exists(path) else -1  # -1: a link that leads nowhere
            yield f"{os.path.relpath(path, folder.root)}\0{size}\0{label}\n"


def _digest(lines):
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:12]
