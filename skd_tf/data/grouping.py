"""Groups of images that belong together, as the frames of a video do: which they are, from the names of files."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from skd_tf.data.catalog import source_kind
from skd_tf.errors import counted, flag_error
from skd_tf.runtime.console import warn


def check(dataset: str, group: str) -> None:
    """Raises `InputError` if --group is given for a dataset without file names."""
    if group and source_kind(dataset) not in ("folder", "images", "function"):
        problem = f"needs the names of files, which {dataset} does not have"
        raise flag_error("group", group, problem, "--dataset=folder:PATH or MODULE:FUNCTION with it", "Omit it")


def group_names(names: Iterable[str], group: str, *, says: bool = True) -> list[str]:
    """The group of each file: what the pattern's groups match in its name, or the whole match if it has none.

    A file that does not match is a group of its own.

    Args:
      names: of the files; in a dataset folder, the path below the class folder.
      group: a regular expression, which is searched.
      says: whether it warns of files that do not match.

    Raises:
      InputError: no name matches.

    Example:
      >>> group_names(["cow_07_001.jpg", "cow_07_002.jpg", "ox_07_001.jpg"], r"^(.*)_\\d+")
      ['cow_07', 'cow_07', 'ox_07']
    """
    pattern, found, unmatched = re.compile(group), [], []
    for number, name in enumerate(names):
        match = pattern.search(name)
        if match is None:
            unmatched.append(name)
            found.append("\0" * (pattern.groups + 1) + str(number))  # more than a match has
        else:
            found.append("\0".join(part or "" for part in match.groups()) if pattern.groups else match[0])
    if found and len(unmatched) == len(found):
        raise flag_error(
            "group", group, "matches no file name", f"a pattern found in names such as {unmatched[0]}", "Correct it"
        )
    if unmatched and says:
        warn(
            f"--group={group} does not match {len(unmatched)} of {counted(len(found), 'file')}, such as {unmatched[0]}: "
            "each is its own group."
        )
    return found


def numbered(groups: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
    """Groups by split as numbers int64 `[n]`, the same number for the same group in every split."""
    every = np.concatenate([np.asarray(part) for part in groups.values()])
    numbers = np.unique(every, return_inverse=True)[1].reshape(-1)
    ends = np.cumsum([len(part) for part in groups.values()])
    return dict(zip(groups, np.split(numbers, ends[:-1]), strict=True))


def warn_of_shared(groups: Mapping[str, np.ndarray]) -> None:
    """Warns of groups that the dataset itself has on both sides of a split."""
    for name in groups.keys() - {"train"} if "train" in groups else ():
        shared = np.intersect1d(groups["train"], groups[name])
        if len(shared):
            images = int(np.isin(groups[name], shared).sum())
            warn(
                f"Both train and {name} contain {counted(len(shared), 'group')} with {images} of "
                f"{counted(len(groups[name]), f'{name} image')}: what is measured on them is too good."
            )
