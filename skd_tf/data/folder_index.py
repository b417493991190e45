"""Folders of images with one folder per class: found and split by file names alone, without TensorFlow."""

import os
import pathlib
import typing

import numpy as np

from skd_tf.data.catalog import FOLDER
from skd_tf.errors import input_error

_TEST_FRACTION = 0.2  # of each class, if the folder has no test part
_UNLABELLED = "-1"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_PARTS = {"train": ("train", "training"), "test": ("test", "val", "validation")}


class ImageFolder(typing.NamedTuple):
    """The content of a folder.

    Attributes:
      root: its path.
      class_names: in alphabetical order, which is the order of the labels.
      splits: {"train", "test"} -> sorted list of (path, label); label -1 is unlabelled.
      other_files: files whose names do not end as JPEG or PNG files do; hidden files are ignored.
    """

    root: pathlib.Path
    class_names: tuple[str, ...]
    splits: dict[str, list[tuple[str, int]]]
    other_files: tuple[str, ...]


def find(dataset: str, data_seed: int) -> ImageFolder:
    """The `ImageFolder` that a dataset's name stands for.

        PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val), or PATH/CLASS/*.jpg, split by data_seed

    Images in subfolders of a class folder belong to that class. A class folder named -1 holds unlabelled images.

    Args:
      dataset: "folder:PATH".
      data_seed: if the folder has no test part, decides which fifth of each class is the test split.

    Raises:
      InputError: there is no such folder, it has fewer than two classes, a class has no images, or the test part has
        classes that the training part lacks.
    """
    root = _root(dataset)
    if not root.is_dir():
        raise input_error(
            "There is no such folder",
            expected="a folder with train/ and test/, or with one folder per class",
            received=f"--dataset={dataset}",
            remedy="Check the path",
        )
    parts = {part: next((root / n for n in names if (root / n).is_dir()), None) for part, names in _PARTS.items()}
    if (parts["train"] is None) != (parts["test"] is None):
        raise input_error(
            "The folder has one part only",
            expected="train/ and test/ (or val/), or neither",
            received=parts["train"] or parts["test"],
            remedy="Add the other part, or pass this one as the folder: it is then split",
        )
    other_files: list[str] = []
    folders = {part: folder for part, folder in parts.items() if folder} or {"train": root}
    found = {part: _classes(folder, other_files) for part, folder in folders.items()}
    class_names = tuple(sorted(found["train"].keys() - {_UNLABELLED}))
    if len(class_names) < 2:
        raise input_error(
            "The folder has too few classes",
            expected="at least two folders of JPEG or PNG files, one per class",
            received=f"{', '.join(class_names) or 'none'} in {folders['train']}",
            remedy="Check the path",
        )
    unknown = sorted(found.get("test", {}).keys() - {*class_names, _UNLABELLED})
    if unknown:
        raise input_error(
            "The test part has classes that are not trained on",
            expected=f"the classes {_shown(class_names)}",
            received=_shown(unknown),
            remedy="Rename or remove these folders",
        )
    if "test" not in found:
        found["train"], found["test"] = _split(found["train"], class_names, data_seed)
    labels = {name: label for label, name in enumerate(class_names)} | {_UNLABELLED: -1}
    splits = {
        part: [(path, labels[name]) for name in sorted(files) for path in files[name]] for part, files in found.items()
    }
    return ImageFolder(root, class_names, splits, tuple(other_files))


def draws_test_split(dataset: str) -> bool:
    """Whether a dataset is a folder without a test part, so that data_seed decides which images are the test split."""
    return dataset.startswith(FOLDER) and not any((_root(dataset) / name).is_dir() for name in _PARTS["test"])


def _root(dataset):
    return pathlib.Path(dataset.removeprefix(FOLDER)).expanduser()


def _classes(folder, other_files):
    """{class: sorted paths of its images}; appends all other files to `other_files`."""
    classes = {}
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        paths = classes[entry.name] = []
        for place, folders, names in os.walk(entry, followlinks=True):
            folders.sort()
            for name in sorted(name for name in names if not name.startswith(".")):
                path = os.path.join(place, name)
                (paths if name.lower().endswith(_SUFFIXES) else other_files).append(path)
        if not paths:
            raise input_error(
                "A class has no images",
                expected="JPEG or PNG files in every class folder",
                received=entry,
                remedy="Remove it",
            )
    return classes


def _split(classes, class_names, data_seed):
    """Moves a random fifth of each class, at least one image, to a test split."""
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((data_seed, 1))))
    train, test = dict(classes), {}
    for name in class_names:
        order = random.permutation(len(classes[name]))
        held_out = set(order[: max(1, round(_TEST_FRACTION * len(order)))].tolist())
        if len(held_out) == len(order):
            raise input_error(
                "A class is too small to be split",
                expected="at least two images, or train/ and test/ folders",
                received=f"{len(order)} in {name}",
                remedy="Add images",
            )
        train[name] = [path for i, path in enumerate(classes[name]) if i not in held_out]
        test[name] = [path for i, path in enumerate(classes[name]) if i in held_out]
    return train, test


def _shown(names, most=8):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
