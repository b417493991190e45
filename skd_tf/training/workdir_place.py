"""Whether a workdir lies among the pictures of its run. TensorFlow is not imported."""

import os
import pathlib

from skd_tf.config import Config
from skd_tf.data import folder_parts
from skd_tf.errors import InputError, input_error
from skd_tf.runs import run_files


def check(config: Config, workdir: str | os.PathLike) -> None:
    """Raises `InputError` for a new workdir whose files would count as the run's pictures."""
    for name in ("dataset", "unlabelled"):
        kind, _, folder = getattr(config, name).partition(":")
        if kind in ("folder", "images") and _is_walked(pathlib.Path(os.path.expanduser(folder)), kind, workdir):
            raise input_error(
                "The workdir is in the folder of the pictures, where its files would be among the data",
                expected=f"a folder outside of {folder}",
                received=f"--workdir={os.fspath(workdir)} with --{name}={getattr(config, name)}",
                remedy="Choose another --workdir",
            )


def _is_walked(pictures, kind, workdir):
    """Whether a new folder there is read as a part of the data."""
    root, place = (pathlib.Path(os.path.realpath(path)) for path in (pictures, workdir))
    if not place.is_relative_to(root) or not root.is_dir():
        return False
    between = [folder for folder in (place, *place.parents) if folder.is_relative_to(root)]
    if any((folder / name).is_file() for folder in between for name in (run_files.CONFIG, run_files.SEARCH)):
        return False  # it has begun
    inside = place.relative_to(root).parts
    if any(map(folder_parts.is_leaving, inside)):
        return False
    try:
        parts = folder_parts.find_parts(root, folder_parts.visible_folders(root)) if kind == "folder" else {}
    except InputError:  # said where the data is checked
        return False
    return not inside or not parts or any(place.is_relative_to(os.path.realpath(part)) for part in parts.values())
