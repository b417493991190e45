"""Atomic: a file stands under its name whole and on the disk, or not at all."""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
import time

_OURS = re.compile(r".+\.[0-9a-f]{8}\.tmp")  # what `_beside` names
_CANNOT_FLUSH_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # what some file systems answer


@contextlib.contextmanager
def writing(path):
    """Yields a new binary file that takes the name `path` when the block ends.

    Until then it has a name of its own beside it, which no other process takes, on whatever machine: several may write the
    same file at once. Its bytes are on the disk before it is renamed, and its name after. Where the block, the disk or a
    signal ends it sooner, it is removed, and what was at `path` stays.

    Raises:
      OSError: a full disk, a folder that cannot be written; `filename` is set.
    """
    path = pathlib.Path(path)
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
            error.filename = str(path)  # a full disk names no file, and the temporary one says nothing to anybody
        raise


@contextlib.contextmanager
def replacing(path):
    """Yields the path of a file or folder still to be made, which takes the name `path` when the block ends.

    For what a library writes itself: it has the right name already, in a folder of its own beside. As for `writing`, but a
    folder that was at `path` is removed just before.

    Raises:
      OSError: a full disk, a folder that cannot be written; `filename` is set.
    """
    path = pathlib.Path(path)
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


def sweep(folder, *, older_than_seconds=0.0):
    """Removes what our processes that were killed while they wrote have left in a folder, where that can be removed.

    A user's own files may lie there too, in a shared cache or a workdir: only names that `writing` and `replacing` give go.
    """
    for path in pathlib.Path(folder).glob("*.tmp"):
        with contextlib.suppress(OSError):
            if _OURS.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older_than_seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _beside(path):
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")


def _flush_all(folder):
    """Brings the files of a folder to the disk before their names are."""
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "rb") as file:
                os.fsync(file.fileno())


def _flush_folder(folder):
    """Makes a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH_FOLDERS:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path):
    """An OSError in which a library names no file is raised with this path."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
