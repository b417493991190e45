"""What a dataset is: splits of images with labels, and what training needs to know of them."""

import dataclasses

import numpy as np

from skd_tf.data.augmentation import Augmentation, ResizedCrop
from skd_tf.data.disk_images import DiskImages

UNLABELLED = -1


def evenly_spaced(count, most):
    """At most so many of `count` rows, in order, from the first to the last: the first ones may all be of one class.

    Args:
      count: rows there are.
      most: rows to choose.

    Returns:
      int64 `[min(count, most)]`.
    """
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples: `images` uint8 `[n, h, w, c]`, `labels` int32 `[n]` (-1: none), `index` int64 `[n]` in the source's split.

    Images are an array in memory, or `DiskImages`, which are indexed like one.
    """

    images: np.ndarray | DiskImages
    labels: np.ndarray
    index: np.ndarray

    def __len__(self):
        return len(self.labels)

    def take(self, rows):
        images = self.images.take(rows) if isinstance(self.images, DiskImages) else self.images[rows]
        return Split(images, self.labels[rows], self.index[rows])

    def labelled(self):
        """The examples that have a label."""
        return self if (self.labels >= 0).all() else self.take(np.flatnonzero(self.labels >= 0))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What training needs to know of a set. `validation` and `test`, None where there are none, are labelled throughout."""

    name: str
    version: str
    class_names: tuple
    mean: tuple
    std: tuple
    augmentation: Augmentation | ResizedCrop
    train: Split
    validation: Split | None
    test: Split | None

    @property
    def num_classes(self):
        return len(self.class_names)

    @property
    def image_shape(self):
        return self.train.images.shape[1:]


@dataclasses.dataclass(frozen=True)
class Source:
    """What a reader finds: splits by name, and where the source itself knows them mean, std, pad and flip."""

    version: str
    class_names: tuple
    splits: dict
    mean: tuple | None = None
    std: tuple | None = None
    pad: int | None = None
    flip: bool | None = None
