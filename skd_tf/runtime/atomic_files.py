"""Files that are on the disk under their name whole, or not at all."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from typing import BinaryIO

_OURS = re.compile(r".+\.[0-9a-f]{8}\.tmp")  # names that `_beside` makes
_CANNOT_FLUSH_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # what some file systems answer
_WINDOWS = not hasattr(os, "O_DIRECTORY")  # it flushes no file opened to read, and opens no folder


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Yields a new binary file that gets the name `path` when the block ends.

    Until then it has a temporary name beside it, which is unique across processes and machines: several may write the
    same file at once. Its bytes reach the disk before the rename, and the name after it. If an error or a signal ends the
    block, the temporary file is removed and what was at `path` stays. Of a link, the file that it names is replaced.

    Raises:
      OSError: a full disk, or a folder that cannot be written to; `filename` is set.
    """
    path = pathlib.Path(os.path.realpath(path)) if os.path.islink(path) else pathlib.Path(path)
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and (error.filename is None or str(error.filename) == str(temporary)):
            error.filename = str(path)  # a full disk names no file, and the user does not know the temporary one
        raise


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields the path of a file or folder to create, which gets the name `path` when the block ends.

    For files that a library writes: it sees the final name, inside a temporary folder. Otherwise like `writing`, except
    that a folder at `path` is removed just before the rename. Of a link to a folder, that folder is replaced.

    Raises:
      OSError: a full disk, or a folder that cannot be written to; `filename` is set.
    """
    path = pathlib.Path(path)
    if path.is_symlink() and path.is_dir():
        path = path.resolve()
    beside = _beside(path)
    try:
        beside.mkdir()
        with naming(path):
            yield beside / path.name
        _flush_all(beside)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(beside / path.name, path)
        _flush_folder(path.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def sweep(folder: str | os.PathLike, *, older_than_seconds: float = 0.0) -> None:
    """Removes the temporary files that killed processes left in a folder, as far as that is possible.

    Only names that `writing` and `replacing` make are removed: the folder may hold a user's own files.
    """
    for path in pathlib.Path(folder).glob("*.tmp"):
        with contextlib.suppress(OSError):
            if _OURS.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older_than_seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Adds this path to an OSError that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _beside(path):
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


def _flush_all(folder):
    """Writes the files of a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "r+b" if _WINDOWS else "rb") as file:
                os.fsync(file.fileno())


def _flush_folder(folder):
    """Makes a rename survive a power cut."""
    if _WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH_FOLDERS:
            raise
    finally:
        os.close(descriptor)
