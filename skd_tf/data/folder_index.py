"""Folders of images, a class a folder: found and split by file names alone, without TensorFlow."""

import os
import pathlib
import typing

import numpy as np

from skd_tf.data.catalog import FOLDER
from skd_tf.errors import input_error

TEST_SHARE = 0.2  # of a folder without a test part, class by class
UNLABELLED = "-1"
_SUFFIXES = (".jpg", ".jpeg", ".png")
_PARTS = {"train": ("train", "training"), "test": ("test", "val", "validation")}


class ImageFolder(typing.NamedTuple):
    """What a folder holds.

    Attributes:
      root: its path.
      class_names: in alphabetic order, the order of the labels.
      splits: {"train", "test"} -> list of (path, label), ordered; label -1 is unlabelled.
      others: files that are neither JPEG nor PNG by name, hidden ones left out.
    """

    root: pathlib.Path
    class_names: tuple
    splits: dict
    others: tuple


def find(dataset, data_seed):
    """The `ImageFolder` behind a dataset's name.

        PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val), or PATH/CLASS/*.jpg, split by data_seed

    Images in a class folder's own folders count as well. A class folder named -1 holds unlabelled images.

    Args:
      dataset: "folder:PATH".
      data_seed: of the split into train and test where the folder has no test part: a fifth of every class.

    Raises:
      InputError: no such folder, fewer than two classes, a class without images, or test classes that are not trained on.
    """
    root = pathlib.Path(dataset.removeprefix(FOLDER)).expanduser()
    if not root.is_dir():
        raise _refusal(
            "There is no such folder",
            "a folder with train/ and test/, or with a folder for each class",
            f"--dataset={dataset}",
            "Check the path",
        )
    parts = {part: next((root / n for n in names if (root / n).is_dir()), None) for part, names in _PARTS.items()}
    if (parts["train"] is None) != (parts["test"] is None):
        there = parts["train"] or parts["test"]
        raise _refusal(
            "The folder has one part only",
            "train/ and test/ (or val/), or neither",
            str(there),
            "Add the other, or point at that one: it is then split",
        )
    others = []
    if parts["train"]:
        found = {part: _classes(folder, others) for part, folder in parts.items()}
    else:
        found = {"train": _classes(root, others)}
    class_names = tuple(sorted(name for name in found["train"] if name != UNLABELLED))
    if len(class_names) < 2:
        raise _refusal(
            "The folder has too few classes",
            "at least two folders, one a class, with JPEG or PNG files",
            f"{', '.join(class_names) or 'none'} in {parts['train'] or root}",
            "Check the path",
        )
    strange = sorted(set(found.get("test", ())) - set(class_names) - {UNLABELLED})
    if strange:
        raise _refusal(
            "Test images of classes that are not trained on",
            f"the classes {_shown(class_names)}",
            _shown(strange),
            "Rename or remove these folders",
        )
    if "test" not in found:
        found["train"], found["test"] = _split(found["train"], class_names, data_seed)
    labels = {name: label for label, name in enumerate(class_names)} | {UNLABELLED: -1}
    splits = {
        part: [(path, labels[name]) for name in sorted(files) for path in files[name]] for part, files in found.items()
    }
    return ImageFolder(root, class_names, splits, tuple(others))


def test_is_drawn(dataset):
    """Whether a dataset is a folder without a test part, so that data_seed says which images are tested on."""
    root = pathlib.Path(dataset.removeprefix(FOLDER)).expanduser()
    return dataset.startswith(FOLDER) and not any((root / name).is_dir() for name in _PARTS["test"])


def _classes(folder, others):
    """{class: sorted paths} of a folder; other files are added to `others`."""
    classes = {}
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        paths = classes[entry.name] = []
        for place, folders, names in os.walk(entry, followlinks=True):
            folders.sort()
            for name in sorted(name for name in names if not name.startswith(".")):
                path = os.path.join(place, name)
                (paths if name.lower().endswith(_SUFFIXES) else others).append(path)
        if not paths:
            raise _refusal("A class has no images", "JPEG or PNG files in every class folder", str(entry), "Remove it")
    return classes


def _split(classes, class_names, data_seed):
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((data_seed, 1))))
    train, test = dict(classes), {}
    for name in class_names:
        order = random.permutation(len(classes[name]))
        held_out = set(order[: max(1, round(TEST_SHARE * len(order)))].tolist())
        if len(held_out) == len(order):
            raise _refusal(
                "A class is too small to be split",
                "at least two images, or train/ and test/ folders",
                f"{len(order)} in {name}",
                "Add images",
            )
        train[name] = [path for i, path in enumerate(classes[name]) if i not in held_out]
        test[name] = [path for i, path in enumerate(classes[name]) if i in held_out]
    return train, test


def _shown(names, most=8):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _refusal(problem, expected, received, remedy):
    return input_error(f"{problem}", expected=f"{expected}", received=f"{received}", remedy=f"{remedy}")
