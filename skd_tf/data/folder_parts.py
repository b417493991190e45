"""Which folders of a data set are its training, validation and test parts; from their names, without TensorFlow."""

import pathlib
import re
from collections.abc import Iterable, Sequence

from skd_tf.errors import InputError, input_error

_WORDS = {
    **dict.fromkeys(("train", "training", "trainset", "traindata", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "valset", "validset", "dev", "devset"), "validation"),
    **dict.fromkeys(("test", "testing", "testset", "testdata", "tst"), "test"),
    **dict.fromkeys(("pred", "predict", "prediction"), ""),  # pictures without labels beside the parts
}
_FILLERS = {
    *("set", "sets", "data", "dataset", "image", "images", "img", "imgs", "pic", "pics", "picture", "pictures"),
    *("photo", "photos", "split", "folder", "files", "of", "the"),
}
_LEAVINGS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
_LEFT_FILES = {"thumbs.db", "desktop.ini"}
_EARLIER = {"train": ("train", "training"), "test": ("test", "val", "validation")}


def is_leaving(name: str) -> bool:
    """Whether a file or folder is hidden, or something that a system leaves behind: it is never data."""
    return name.startswith(".") or name.lower() in _LEAVINGS or name.lower() in _LEFT_FILES


def part_of(name: str) -> tuple[str | None, tuple[str, ...]]:
    """(part that a folder's name spells, its other words); the part is None if the name spells none.

    Example:
      >>> part_of("Training"), part_of("seg_test"), part_of("val2017"), part_of("cat")
      (('train', ()), ('test', ('seg',)), ('validation', ()), (None, ('cat',)))
    """
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![^\W\d_A-Z])|[^\W\d_][^\W\d_A-Z]*", name)]
    parts = [_WORDS[word] for word in words if word in _WORDS]
    rest = tuple(word for word in words if word not in _WORDS and word not in _FILLERS)
    return (parts[0] if len(parts) == 1 else None), rest


def find_parts(root: pathlib.Path, folders: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
    """{"train", "validation", "test" -> folder} among the folders in `root`; empty if they are classes.

    Without a test part the validation part is the test part.

    Raises:
      InputError: parts without a training part or the reverse, or two folders for one part.
    """
    groups: dict[tuple[str, ...], dict[str, list[pathlib.Path]]] = {}
    spelled = {folder: part_of(folder.name) for folder in folders}
    only_parts = all(part is not None for part, _ in spelled.values())
    for folder, (part, rest) in spelled.items():
        if part:
            groups.setdefault(rest, {}).setdefault(part, []).append(folder)
    # Words beside the part's are allowed where all folders have them: seg_train and seg_test, but not test_bench and cat.
    whole = [
        group for rest, group in groups.items() if "train" in group and len(group) > 1 and (not rest or only_parts)
    ]
    if len(whole) > 1:
        raise _error(
            "The folder has several training parts", "one train/ and one test/ with a folder per class", folders
        )
    if not whole:
        if only_parts:
            _refuse_doubled(groups.get((), {}))
        _refuse_one_part(root, groups.get((), {}), only_parts and len(spelled) > 0)
        return {}
    _refuse_doubled(whole[0])
    parts = {part: places[0] for part, places in whole[0].items()}
    if "test" not in parts:
        parts["test"] = parts.pop("validation")
    return {part: _inner(folder, part) for part, folder in parts.items()}


def find_parts_of_earlier_versions(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """As `find_parts`, by the rules of skd_tf 0.1: exact names, and a val/ beside test/ is not used."""
    parts = {part: next((root / n for n in names if (root / n).is_dir()), None) for part, names in _EARLIER.items()}
    found = {part: folder for part, folder in parts.items() if folder}
    if len(found) == 1:
        raise _one_part_only(next(iter(found.values())))
    return found


def visible_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, sorted by name, without what systems leave behind.

    Raises:
      InputError: the folder cannot be listed.
    """
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_leaving(entry.name))
    except OSError as error:
        raise unlistable(folder, error) from error


def unlistable(folder: object, error: OSError) -> InputError:
    """The `InputError` about a folder that the system does not let us list."""
    return input_error(
        f"A folder cannot be listed ({error.strerror})",
        expected="a readable folder",
        received=folder,
        remedy="Correct its permissions, or move it elsewhere",
    )


def shown(names: Iterable[object], most: int = 8) -> str:
    """Up to `most` names, and how many more there are."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def _refuse_doubled(parts):
    doubled = next((places for places in parts.values() if len(places) > 1), None)
    if doubled:
        raise _error("Two folders are the same part", "one folder for each of train, validation and test", doubled)


def _refuse_one_part(root, parts, only_parts):
    """A lone part is an error, unless it may be a class: "train" beside "car" and "bus", with pictures in each."""
    for places in parts.values():
        if only_parts or visible_folders(places[0]):
            raise _one_part_only(places[0])


def _inner(folder, part):
    """seg_train/seg_train/CLASS: the folder of the same part inside a part."""
    inside = visible_folders(folder)
    return inside[0] if len(inside) == 1 and part_of(inside[0].name)[0] == part else folder


def _one_part_only(folder):
    return input_error(
        "The folder has one part only",
        expected="train/ and test/ (or val/), or neither",
        received=folder,
        remedy="Add the other part, or pass this one as the folder: it is then split",
    )


def _error(problem, expected, folders):
    remedy = "Rename or remove folders, or pass one of them"
    return input_error(problem, expected=expected, received=shown(folders), remedy=remedy)
