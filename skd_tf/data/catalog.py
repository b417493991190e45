"""Dataset names, the reader each belongs to, and the datasets whose numbers are known in advance."""

import re
import typing
from collections.abc import Sequence

from skd_tf.config.augmentations import AugmentationList, parse_augmentation
from skd_tf.data.settings import DataSettings
from skd_tf.errors import flag_error
from skd_tf.runtime.local_paths import same_place

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_VERSION = re.compile(r":[\d.*]+$")
FOLDER = "folder:"
IMAGES = "images:"  # a folder of images without labels
PACKAGED = ("digits", "fashion_mnist_10k")  # read from the package itself


class KnownDataset(typing.NamedTuple):
    """One dataset.

    Attributes:
      train: examples in the training split, including those held out for validation.
      test: examples in the test split.
      num_classes: classes.
      image_shape: (height, width, channels) in pixels; if the images differ in size, the shape they are resized to.
      mean, std: per channel, of pixels scaled to [0, 1].
      flip: whether a mirrored image keeps its class.
      pad: pixels of zero padding on each side before the random crop.
      augmentation: "pad_crop", or "resized_crop" for a window of random area and aspect ratio.
    """

    train: int
    test: int
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    pad: int
    augmentation: str = "pad_crop"


KNOWN_DATASETS = {
    "digits": KnownDataset(898, 899, 10, (8, 8, 1), (0.3075,), (0.377,), flip=False, pad=1),
    "fashion_mnist_10k": KnownDataset(8_000, 2_000, 10, (28, 28, 1), (0.2864,), (0.3537,), flip=True, pad=2),
    "mnist": KnownDataset(60_000, 10_000, 10, (28, 28, 1), (0.1307,), (0.3081,), flip=False, pad=2),
    "fashion_mnist": KnownDataset(60_000, 10_000, 10, (28, 28, 1), (0.2860,), (0.3530,), flip=True, pad=2),
    "cifar10": KnownDataset(
        50_000, 10_000, 10, (32, 32, 3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), flip=True, pad=4
    ),
    "cifar100": KnownDataset(
        50_000, 10_000, 100, (32, 32, 3), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), flip=True, pad=4
    ),
    "svhn_cropped": KnownDataset(
        73_257, 26_032, 10, (32, 32, 3), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), flip=False, pad=4
    ),
    "imagenet2012": KnownDataset(
        1_281_167,
        50_000,
        1000,
        (224, 224, 3),
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        flip=True,
        pad=28,
        augmentation="resized_crop",
    ),
}


def source_kind(name: str) -> str:
    """Which reader a dataset's name belongs to: "packaged", "folder", "images", "function" or "tfds"."""
    if name in PACKAGED:
        return "packaged"
    if is_folder(name):
        return "folder" if has_labels(name) else "images"
    return "function" if _FUNCTION.fullmatch(name) else "tfds"


def is_folder(name: str) -> bool:
    """Whether a name stands for a folder of image files, with class folders or without."""
    return name.startswith((FOLDER, IMAGES))


def has_labels(name: str) -> bool:
    """Whether a dataset has labels: all have but images:PATH."""
    return not name.startswith(IMAGES)


def are_same(name: str, other: str) -> bool:
    """Whether two names stand for one dataset, of any version: they are equal, or paths of the same folder.

    Example:
      >>> import os
      >>> are_same("cifar10", "cifar10:3.0.2")
      True
      >>> are_same("folder:photos", f"folder:{os.path.abspath('photos')}/"), are_same("folder:photos", "images:photos")
      (True, False)
    """
    return same_place(without_version(name)) == same_place(without_version(other))


def without_version(name: str) -> str:
    """The name of a dataset without a pinned version: cifar10 of cifar10:3.0.2."""
    return name if is_folder(name) else _VERSION.sub("", name)


def is_code(name: str) -> bool:
    """Whether a name decides which code runs: a user's function, or a TFDS community set, whose code TFDS fetches."""
    return not is_folder(name) and ":" in without_version(name)


def known_of(name: str) -> KnownDataset | None:
    """The `KnownDataset` of a name, with or without a pinned version (cifar10:3.0.2); None for any other dataset."""
    return KNOWN_DATASETS.get(without_version(name))


def augmentation_of(settings: DataSettings) -> str:
    """The list of augmentations, in which "auto" is replaced by what published recipes use for the dataset."""
    known = known_of(settings.dataset)
    return re.sub(r"\bauto\b", known.augmentation if known else "pad_crop", settings.augmentation)


def augmentations(settings: DataSettings) -> AugmentationList:
    """`augmentation_of` as a structure."""
    return parse_augmentation(augmentation_of(settings))


def crops_originals(settings: DataSettings) -> bool:
    """Whether training images are cropped from the originals at their full resolution."""
    return augmentations(settings).crop == "resized"


def size_and_resize(settings: DataSettings) -> tuple[int, int]:
    """(side of the images after the crop, shorter side before the centre crop), in pixels; 0: images keep their size.

    With resized crops a test image shows its middle 224 / 256, as in published ImageNet recipes.
    """
    known = known_of(settings.dataset)
    crops = crops_originals(settings)
    size = settings.image_size or (known.image_shape[0] if known and known.augmentation == "resized_crop" else 0)
    return size, (round(size * 256 / 224) if crops else size)


def fixed_shape(settings: DataSettings, shape: Sequence[int | None]) -> tuple[tuple[int, int, int], int]:
    """(shape that all images get, shorter side before the centre crop) of images whose own shape is `shape`.

    Args:
      settings: `image_size` and `augmentation` are used.
      shape: (height, width, channels); None for a height or width in which the images differ.

    Raises:
      InputError: the images differ in size and there is no --image_size.
    """
    size, resize = size_and_resize(settings)
    height, width, channels = (size, size, shape[2]) if size else shape
    if height is None or width is None:
        problem = f"is needed: the images of {settings.dataset} have several sizes"
        raise flag_error("image_size", settings.image_size, problem, "pixels", "Add for example --image_size=64")
    assert channels is not None  # readers know them
    return (height, width, channels), resize
