"""Datasets: splits of images with labels, and the facts about them that training needs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from skd_tf.data.augmentation import NO_EXTRA, Augmentation, Extra, ResizedCrop
from skd_tf.data.catalog import has_labels
from skd_tf.data.disk_images import DiskImages, digest_of

_MOVED = 64  # images that are moved at once


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Chooses up to `most` of `count` rows, evenly spaced: in a sorted dataset the first rows are all of one class.

    Args:
      count: number of rows.
      most: number of rows to choose.

    Returns:
      int64 `[min(count, most)]`, ascending, from the first row to the last.

    Examples:
      >>> evenly_spaced(9, 3)
      array([0, 4, 8])
    """
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples of one split.

    Attributes:
      images: uint8 `[n, height, width, channels]`; an array in memory, or `DiskImages`, which are indexed like one.
      labels: int32 `[n]`; -1 is unlabelled.
      index: int64 `[n]`, each example's position in the source's split. It selects the example's augmentation.
      own_memory: whether the array of images may be changed, because nothing else refers to it.
      files: paths of the image files below the folder of the data, object `[n]`; None for a split that is not in files, or is trained on.
    """

    images: np.ndarray | DiskImages
    labels: np.ndarray
    index: np.ndarray
    own_memory: bool = False
    files: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def images_digest(self) -> str:
        """Digest of the pixels in memory, or of the files; computed once."""
        return digest_of(self.images)

    def take(self, rows: np.ndarray) -> "Split":
        """The examples at these rows, in this order."""
        images = self.images.take(rows) if isinstance(self.images, DiskImages) else self.images[rows]
        files = None if self.files is None else self.files[rows]
        return Split(images, self.labels[rows], self.index[rows], files=files)

    def without(self, rows: np.ndarray) -> "Split":
        """The examples at all other rows, in their order. Images of its own are moved in place: this split is used up."""
        kept = np.setdiff1d(np.arange(len(self)), rows)
        if not self.own_memory or isinstance(self.images, DiskImages):
            return self.take(kept)
        images = self.images
        for start in range(0, len(kept), _MOVED):  # no row moves backwards past one that is still needed
            chunk = kept[start : start + _MOVED]
            images[start : start + len(chunk)] = images[chunk]
        files = None if self.files is None else self.files[kept]
        return Split(images[: len(kept)], self.labels[kept], self.index[kept], own_memory=True, files=files)

    def labelled(self) -> "Split":
        """The examples that have a label."""
        return self if (self.labels >= 0).all() else self.take(np.flatnonzero(self.labels >= 0))


class DrawnFrom(NamedTuple):
    """Labels, positions in the source's training split, and groups or None of the examples; each int `[n]`."""

    labels: np.ndarray
    positions: np.ndarray
    groups: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset as training needs it.

    Attributes:
      name: as in --dataset.
      version: of the data; it changes if the data do.
      class_names: in the order of the labels; of a dataset without labels, those of the teacher.
      mean, std: per channel, of pixels scaled to [0, 1].
      augmentation: how training images are cropped and mirrored.
      extra: their augmentation after that.
      train: may contain unlabelled examples.
      validation, test: all examples are labelled, or none in a dataset without labels; None without such a split.
      unlabelled: more training images, without labels; only its own training split is used.
      drawn_from: the training examples that the validation split was drawn from; None: it was not drawn.
      set_version: as `version`, but independent of how a folder is split.
      key_name: stands for the name in the identity of the data; without the path of a folder, which may be a copy.
      png_bits: bits that hold the brightest value of the set's 16-bit PNGs; None without such files.
      warnings: what a run's records say about the pictures, as that one is in two splits.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation | ResizedCrop
    train: Split
    validation: Split | None
    test: Split | None
    key_name: str = ""
    png_bits: int | None = None
    warnings: tuple[str, ...] = ()
    extra: Extra = NO_EXTRA
    drawn_from: DrawnFrom | None = None
    set_version: str = ""
    unlabelled: "Dataset | None" = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "key_name", self.key_name or self.name)
        object.__setattr__(self, "set_version", self.set_version or self.version)

    @property
    def has_labels(self) -> bool:
        """Whether its examples have labels: all but those of images:PATH."""
        return has_labels(self.name)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train.images.shape[1:]

    def first_images(self, most: int) -> np.ndarray:
        """Up to `most` images of the training split, or of the test split if the training split was not read."""
        split = self.train if len(self.train) or self.test is None else self.test
        return split.images[:most]


@dataclasses.dataclass(frozen=True)
class Source:
    """What a reader returns: the splits by name, and mean, std, pad and flip if the source itself knows them.

    `groups` are {split: int `[n]`} by the position in the source's split, which `Split.index` holds. `hashes` gives the content
    hash of each file of a split by the same position, b"" where there is none. `key_name`, `png_bits` and `set_version` are as
    in `Dataset`. A "validation" split is there only if the source has one of its own.
    """

    version: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pad: int | None = None
    flip: bool | None = None
    key_name: str = ""
    png_bits: int | None = None
    warnings: tuple[str, ...] = ()
    groups: dict[str, np.ndarray] | None = None
    hashes: Callable[[str], list[bytes]] | None = None
    set_version: str = ""
