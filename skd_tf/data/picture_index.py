"""Folders of images without class folders, --dataset=images:PATH: found and split without TensorFlow."""

import os
import pathlib
from typing import Any

import numpy as np

from skd_tf.data import folder_parts, folder_walk, grouping, hold_out
from skd_tf.errors import InputError, counted, input_error

_last_walk: list[Any] = []  # a run asks for a folder several times: root, walk, found
_LEAST = 3  # images from which a fifth is at least one


def parts_of(root: pathlib.Path) -> dict[str, pathlib.Path]:
    """{"train", "test" and maybe "validation" -> folder} in a folder; {} if its folders are not such parts."""
    try:
        return folder_parts.find_parts(root, folder_parts.visible_folders(root))
    except InputError:  # without classes a folder called train is a folder like any other
        return {}


def find(root: pathlib.Path) -> tuple[dict[str, list[str]], folder_walk.FolderWalk]:
    """({part: paths of its images}, the walk). Without parts there is one, "train", with all images of the tree.

    Raises:
      InputError: a part has no image, or the whole tree has too few.
    """
    if _last_walk and _last_walk[0] == root and _last_walk[1].is_current():
        _, walk, found = _last_walk
        return dict(found), walk
    walk, parts = folder_walk.FolderWalk(root), parts_of(root)
    found = {part: walk.tree(folder) for part, folder in (parts or {"train": root}).items()}
    walk.finish()
    for part, paths in found.items():
        if len(paths) < (1 if parts else _LEAST):
            raise input_error(
                f"The {part} part has no image" if parts else "The folder has too few images",
                expected=f"files that end in {', '.join(folder_walk.SUFFIXES)}" + f", at least {_LEAST}" * (not parts),
                received=f"{counted(len(paths), 'image')} in {parts.get(part, root)}",
                remedy="Check the path, or convert its files",
            )
    _last_walk[:] = root, walk, found
    return dict(found), walk


def split(
    root: pathlib.Path, paths: list[str], fraction: float, data_seed: int, group: str
) -> tuple[list[str], list[str]]:
    """(training, test) images: about a fraction of all images is drawn, whole groups only.

    Args:
      root: folder of the images.
      paths: of all images.
      fraction: of the images, to draw.
      data_seed: decides the draws.
      group: as the flag of that name.
    """
    groups = grouping.numbered({"all": group_names(root, paths, group, says=False)})["all"] if group else None
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((data_seed, 1))))
    rows = {*hold_out.held_out_rows(np.zeros(len(paths), int), fraction, random, groups=groups).tolist()}
    return [p for i, p in enumerate(paths) if i not in rows], [p for i, p in enumerate(paths) if i in rows]


def group_names(root: pathlib.Path, paths: list[str], group: str, says: bool = True) -> list[str]:
    """The group of each image, searched in its path below `root`."""
    return grouping.group_names(
        (pathlib.Path(os.path.relpath(path, root)).as_posix() for path in paths), group, says=says
    )


def require_batch(images: int, batch: int, name: str) -> None:
    """Raises InputError if --unlabelled=`name` has fewer images than the `batch` that each step takes."""
    if images < batch:
        raise input_error(
            "There are fewer unlabelled images than each batch takes",
            expected=f"at least {batch}",
            received=f"{images} from --unlabelled={name}",
            remedy="Lower --unlabelled_share",
        )
