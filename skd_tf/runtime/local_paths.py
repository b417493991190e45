"""Paths are folders and files that the operating system knows; a URL is refused before it becomes a local folder."""

import os
import pathlib
import re
from collections.abc import Iterable

from skd_tf.errors import flag_error, input_error

TFDS_SCHEMES = ("gs",)  # that TFDS reads a --data_dir from; TensorFlow's wheel has no other file system
_URL = re.compile(r"(?:folder:|images:)?([A-Za-z][A-Za-z0-9+.-]*)://")
_COLLAPSED_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # pathlib.Path("gs://bucket") is gs:/bucket
_REMEDY = (
    "Mount the bucket (gcsfuse, mount-s3, rclone mount), or use a local folder and mirror it after each checkpoint: "
    "docs/buckets.md has a script"
)


def scheme_of(path: str | os.PathLike) -> str:
    """The scheme of a URL, in lower case; "" for a path.

    Example:
      >>> scheme_of("gs://bucket/run"), scheme_of("folder:s3://photos"), scheme_of("runs/gs:/x"), scheme_of("m.nets:small")
      ('gs', 's3', '', '')
    """
    pattern = _URL if isinstance(path, str) else _COLLAPSED_URL
    match = pattern.match(os.fspath(path).strip())
    return match[1].lower() if match else ""


def require_local(path: str | os.PathLike, name: str, *, schemes: Iterable[str] = ()) -> None:
    """Refuses a URL.

    Args:
      path: what the user gave.
      name: the flag or argument that it was given as.
      schemes: of the URLs that are allowed.

    Raises:
      InputError: it is a URL of another scheme.
    """
    scheme = scheme_of(path)
    if not scheme or scheme in schemes:
        return
    if scheme == "file":
        raise flag_error(name, path, "is a URL", "a path", "Leave out file://")
    allowed = "".join(f" or {known}://" for known in schemes)
    raise flag_error(name, path, "is a URL, not a folder or file", f"a path{allowed}", _REMEDY)


def split_paths(text: str) -> tuple[str, ...]:
    """The paths in a text that separates them with commas; a text that is itself a path is one, commas included.

    Example:
      >>> split_paths("runs/a, runs/b"), split_paths("runs/a"), split_paths("")
      (('runs/a', 'runs/b'), ('runs/a',), ())
    """
    if "," not in text or os.path.exists(text):
        return (text,) if text else ()
    return tuple(part.strip() for part in text.split(","))


def without_slash(text: str) -> str:
    """A path, or several with commas, without a slash at the end, which a shell's completion adds.

    Example:
      >>> without_slash("runs/a/,runs/b/"), without_slash("folder:photos/"), without_slash("/")
      ('runs/a,runs/b', 'folder:photos', '/')
    """
    return re.sub(r"(?<=[^/:,])/+(?=,|$)", "", text)


def same_place(name: str) -> str:
    """The name of a dataset, with the real path where it is folder:PATH or images:PATH.

    Example:
      >>> same_place("cifar10"), same_place("folder:a/../b/") == same_place(f"folder:{os.path.abspath('b')}")
      ('cifar10', True)
    """
    kind, colon, path = name.partition(":")
    return kind + colon + os.path.realpath(os.path.expanduser(path)) if kind in ("folder", "images") and path else name


def require_folder(path: str | os.PathLike, name: str) -> None:
    """Refuses what cannot become a folder: a URL, a file, a place inside a file, or a link that leads nowhere.

    Args:
      path: what the user gave; the folder need not exist.
      name: the flag or argument that it was given as.

    Raises:
      InputError: it is one of these.
    """
    require_local(path, name)
    path = pathlib.Path(path)
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            raise input_error(
                f"--{name} is behind a link that leads nowhere",
                expected="an existing or new folder",
                received=f"--{name}={path}, where {place} leads to {os.readlink(place)}",
                remedy="Create that folder, or remove the link",
            )
        if place.exists():
            if not place.is_dir():
                problem = "is a file" if place == path else f"is inside the file {place}"
                raise flag_error(name, path, problem, "an existing or new folder", "Choose another path")
            return
