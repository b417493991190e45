"""Folders of image files: found and split by their names alone, without TensorFlow."""

import itertools
import os
import pathlib
import typing
from collections import Counter

import numpy as np

from skd_tf.data import folder_parts, folder_walk, grouping, hold_out, picture_index
from skd_tf.data.catalog import FOLDER, IMAGES, has_labels, is_folder
from skd_tf.data.folder_parts import shown
from skd_tf.errors import InputError, counted, input_error
from skd_tf.runtime.files import printable

_TEST_FRACTION = 0.2  # of each class, if the folder has no test part
_UNLABELLED = "-1"
_PARTS = ("train", "validation", "test")
_WITHOUT_CLASS_FOLDERS = {  # what else a user may do with such a part
    "train": "",
    "validation": ", or remove the folder: validation images are then drawn from the training part",
    "test": ", or pass the training part as the folder: a fifth of each class is then the test split",
}
_last_walk: list[typing.Any] = []  # a run asks for its folder several times: root, walk, parts, found
_found: dict[tuple, tuple] = {}  # {arguments of find: (walk, ImageFolder)} of the last folders
_MOST_FOUND = 4


class ImageFolder(typing.NamedTuple):
    """The content of a folder.

    Attributes:
      root: its path.
      class_names: in alphabetical order, which is the order of the labels, with bytes that are not UTF-8 escaped; () for a
        folder without labels.
      splits: {"train", "test" and, if the folder has one, "validation"} -> list of (path, label); label -1 is unlabelled.
      notes: what the user must know about the folder; texts without a period.
      groups: {split: group of each of its images}; None without --group.
    """

    root: pathlib.Path
    class_names: tuple[str, ...]
    splits: dict[str, list[tuple[str, int]]]
    notes: tuple[str, ...]
    groups: dict[str, list[str]] | None = None


def find(dataset: str, data_seed: int, data_rules: int = 2, group: str = "") -> ImageFolder:
    """The `ImageFolder` that a dataset's name stands for.

        PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg (or val), or PATH/CLASS/*.jpg, split by data_seed

    Common spellings of train, validation and test are known (`skd_tf.data.folder_parts`). Images in subfolders of a
    class folder belong to that class. A class folder named -1 holds unlabelled images. "images:PATH" has no classes:
    all images of the tree belong to it, or all of its parts.

    Args:
      dataset: "folder:PATH" or "images:PATH".
      data_seed: if the folder has no test part, decides which fifth of each class, or of the images, is the test split.
      data_rules: as the flag of that name; 1 reads the folder as skd_tf 0.1 did.
      group: as the flag of that name; searched in the path below the class folder.

    Raises:
      InputError: there is no such folder, it has fewer than two classes, a class has no images, a part has no class
        folders, or the test part has classes that the training part lacks.
    """
    root = _root(dataset)
    kind, _, path = dataset.partition(":")
    if not root.is_dir() or not path.strip():  # Path("") is the current folder
        elsewhere = f"; {path} is looked for in {pathlib.Path.cwd()}, and --dataset={kind}:/ABSOLUTE/PATH anywhere"
        raise input_error(
            "A file is not a folder" if root.is_file() else "There is no such folder",
            expected="a folder with train/ and test/, or with one folder per class"
            if has_labels(dataset)
            else "a folder of images",
            received=f"--dataset={dataset}",
            remedy=f"Check the path{elsewhere if path.strip() and not root.is_absolute() else ''}",
        )
    arguments = dataset, root, data_seed, data_rules, group
    if arguments in _found and _found[arguments][0].is_current():
        return _found[arguments][1]
    walk, folder = (_with_labels if has_labels(dataset) else _without_labels)(root, data_seed, data_rules, group)
    if walk:
        while len(_found) >= _MOST_FOUND:
            del _found[next(iter(_found))]
        _found[arguments] = walk, folder
    return folder


def _with_labels(root, data_seed, data_rules, group):
    """(the walk, the `ImageFolder`) of a folder with classes; no walk by the rules of earlier versions."""
    walk = None
    if data_rules == 1:
        parts = folder_parts.find_parts_of_earlier_versions(root)
        others: Counter[str] = Counter()
        folders = parts or {"train": root}
        found = {part: folder_walk.classes_of_earlier_versions(folder, others) for part, folder in folders.items()}
        notes = _others_note(others, "")
    else:
        parts, found, walk = _walked(root)
        folders = parts or {"train": root}
        notes = _others_note(walk.others, walk.first_other) + _notes(root, parts, folders, found, walk)
    found = {part: found[part] for part in _PARTS if part in found}
    class_names = tuple(sorted(found["train"].keys() - {_UNLABELLED}))
    _check_classes(root, folders, found, class_names)
    if "test" not in found:
        if group:
            found["train"], found["test"] = _split_groups(root, found["train"], class_names, data_seed, group)
        else:
            found["train"], found["test"] = _split(found["train"], class_names, data_seed)
    labels = {name: label for label, name in enumerate(class_names)} | {_UNLABELLED: -1}
    splits = {
        part: [(path, labels[name]) for name in sorted(files) for path in files[name]] for part, files in found.items()
    }
    groups = None
    if group:
        every = [[path for path, _ in files] for files in splits.values()]
        places = {part: folders.get(part, root) for part in splits}
        below = [_below_class(places[part], path) for part, paths in zip(splits, every, strict=True) for path in paths]
        names = iter(grouping.group_names(below, group))
        groups = {part: list(itertools.islice(names, len(paths))) for part, paths in zip(splits, every, strict=True)}
    return walk, ImageFolder(root, tuple(map(printable, class_names)), splits, tuple(notes), groups)


def unlabelled_paths(dataset: str) -> list[str]:
    """The images that --unlabelled=images:PATH trains on: the training part, or all if the folder has no parts."""
    splits = find(dataset, data_seed=0).splits
    drawn = splits["test"] if draws_test_split(dataset) else []
    return sorted(path for path, _ in splits["train"] + drawn)


def _without_labels(root, data_seed, data_rules, group):
    """(the walk, the `ImageFolder`) of a folder without classes, which has the same rules in all versions."""
    found, walk = picture_index.find(root)
    if "test" not in found:
        found["train"], found["test"] = picture_index.split(root, found["train"], _TEST_FRACTION, data_seed, group)
    found = {part: found[part] for part in _PARTS if part in found}
    groups = {part: picture_index.group_names(root, paths, group) for part, paths in found.items()} if group else None
    splits = {part: [(path, -1) for path in paths] for part, paths in found.items()}
    parts = picture_index.parts_of(root)
    notes = _parts_notes(root, parts) + (_loose_note(root, "outside the parts") if parts else [])
    notes += _others_note(walk.others, walk.first_other) + _links_note(walk.links)
    return walk, ImageFolder(root, (), splits, tuple(notes), groups)


def _walked(root):
    """(parts, {part: {class: paths}}, the walk) of a folder; walked again only if one of its folders has changed."""
    if _last_walk and _last_walk[0] == root and _last_walk[1].is_current():
        _, walk, parts, found = _last_walk
        return parts, found, walk
    walk = folder_walk.FolderWalk(root)
    parts = folder_parts.find_parts(root, folder_parts.visible_folders(root))
    found = {part: walk.classes(folder) for part, folder in (parts or {"train": root}).items()}
    walk.finish()
    _last_walk[:] = root, walk, parts, found
    return parts, found, walk


def _below_class(folder, path):
    """The path of an image below its class folder, with / between its parts."""
    return "/".join(pathlib.Path(os.path.relpath(path, folder)).parts[1:])


def _split_groups(root, classes, class_names, data_seed, group):
    """Moves about a fifth of each class to a test split, whole groups only."""
    files = [(path, label) for label, name in enumerate(class_names) for path in classes[name]]
    files += [(path, -1) for path in classes.get(_UNLABELLED, ())]
    names = grouping.group_names((_below_class(root, path) for path, _ in files), group, says=False)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((data_seed, 1))))
    labels, groups = np.array([label for _, label in files]), grouping.numbered({"train": names})["train"]
    rows = hold_out.held_out_rows(labels, _TEST_FRACTION, random, groups=groups)
    held_out = {files[row][0] for row in rows}
    parts = {
        name: ([p for p in paths if p not in held_out], [p for p in paths if p in held_out])
        for name, paths in classes.items()
    }
    return {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items() if part[1]}


def draws_test_split(dataset: str) -> bool:
    """Whether a dataset is a folder without a test part, so that data_seed decides which images are the test split."""
    root = _root(dataset)
    if not is_folder(dataset) or not root.is_dir():
        return is_folder(dataset)
    if not has_labels(dataset):
        return not picture_index.parts_of(root)
    try:
        return not folder_parts.find_parts(root, folder_parts.visible_folders(root))
    except InputError:  # whoever reads the folder reports it
        return False


def _root(dataset):
    return pathlib.Path(dataset.removeprefix(FOLDER).removeprefix(IMAGES)).expanduser()


def _check_classes(root, folders, found, class_names):
    for part, classes in found.items():
        folder = folders[part]
        if not classes or (part != "train" and not any(classes.values())):
            loose = folder_walk.loose_images(folder)
            received = f"{counted(len(loose), 'image')} without a class folder" if loose else "no images"
            _refuse_part(root, part, folder, received)
    if len(class_names) < 2:
        inside = folder_parts.visible_folders(folders["train"])
        deeper = inside[0] if len(inside) == 1 and len(folder_parts.visible_folders(inside[0])) > 1 else None
        raise input_error(
            "The folder has too few classes",
            expected="at least two folders of images, one per class",
            received=f"{', '.join(class_names) or 'none'} in {folders['train']}",
            remedy=f"Did you mean {deeper}?" if deeper else "Check the path",
        )
    for part, classes in found.items():
        folder = folders[part]
        for name, paths in classes.items():
            if not paths:
                raise input_error(
                    "A class has no images",
                    expected=f"files that end in {', '.join(folder_walk.SUFFIXES)} in every class folder",
                    received=folder / name,
                    remedy="Remove it, or convert its files",
                )
        unknown = sorted(classes.keys() - {*class_names, _UNLABELLED})
        if unknown and part != "train":
            raise input_error(
                f"The {part} part has classes that are not trained on",
                expected=f"the classes {shown(class_names)}",
                received=shown(unknown),
                remedy="Rename or remove these folders",
            )


def _refuse_part(root, part, folder, received):
    if part == "train" and folder == root:
        raise input_error(
            "The folder has too few classes",
            expected="at least two folders of images, one per class",
            received=f"{received} in {folder}",
            remedy="Put the images of each class into a folder of its own",
        )
    raise input_error(
        f"The {part} part has no class folders",
        expected=f"{folder}/CLASS/ with the images of each class",
        received=received,
        remedy=f"Sort the images into class folders{_WITHOUT_CLASS_FOLDERS[part]}",
    )


def _notes(root, parts, folders, found, walk):
    """What the user must know of a folder that is used."""
    notes = _parts_notes(root, parts)
    for folder in dict.fromkeys([*folders.values(), root]):
        notes += _loose_note(folder, "outside the class folders")
    alike = folder_walk.nested_alike(folders["train"])
    if alike:
        notes.append(
            f"All class folders in {folders['train']} have the same subfolders ({alike}). The classes are the outer "
            "folders; if the inner ones are the classes or the splits, swap the levels"
        )
    folded = Counter(" ".join(name.casefold().split()) for name in found["train"])
    doubled = [name for name in sorted(found["train"]) if folded[" ".join(name.casefold().split())] > 1]
    if doubled:
        notes.append(f"Class names that differ only in case or spaces are different classes: {shown(doubled)}")
    return notes + _links_note(walk.links)


def _parts_notes(root, parts):
    if not parts:
        return []
    notes, used = [], {folder if folder.parent == root else folder.parent for folder in parts.values()}
    unused = [folder.name for folder in folder_parts.visible_folders(root) if folder not in used]
    if unused:
        notes.append(f"Not used, next to {shown(sorted(f.name for f in used))}: the folders {shown(unused)}")
    if folder_parts.part_of(parts["test"].name)[0] == "validation":
        notes.append(f"There is no test folder: {parts['test']} is the test split")
    return notes


def _loose_note(folder, where):
    loose = folder_walk.loose_images(folder)
    return [f"Not used: {counted(len(loose), 'image')} in {folder} itself, {where} ({loose[0]} ...)"] if loose else []


def _links_note(links):
    if not links:
        return []
    return [
        f"Not followed: {counted(len(links), 'link')} to a folder that is read anyway or lies around one "
        f"that is ({shown(links, 3)})"
    ]


def _others_note(others, first):
    if not others:
        return []
    counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(6))
    more = f" and {counted(len(others) - 6, 'more kind')}" if len(others) > 6 else ""
    example = f" ({os.path.basename(first)} ...)" if first else ""
    total = counted(sum(others.values()), "other file")
    return [f"Skipped, because only images are read: {total}: {counts}{more}{example}"]


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
