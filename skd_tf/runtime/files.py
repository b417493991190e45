"""Text and JSON files, and locks on folders that several processes share."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import pathlib
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import filelock

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

from skd_tf.errors import input_error
from skd_tf.runtime import atomic_files, cluster
from skd_tf.runtime.console import warn

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # the answers of file systems without locks


class LockedError(OSError):
    """Another process holds the lock. `owner` says which: "process 123 on HOST"."""

    def __init__(self, path: pathlib.Path, owner: str) -> None:
        super().__init__(f"{path} is locked by {owner}")
        self.owner = owner


@cluster.chief_only
def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file whole or not at all. Only the chief writes."""
    with atomic_files.writing(path) as file:
        file.write(text.encode())


def most_open() -> int:
    """How many files this process may have open; at most 2^15, as Linux maps at most 2^16 into memory."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if resource else 512
    return limit if 0 <= limit < 1 << 15 else 1 << 15  # no limit is -1, or a very large number


def printable(name: str) -> str:
    """A file name in which the bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def csv_line(cells: Sequence[Any]) -> bytes:
    """A line of a CSV file, in UTF-8; see `printable`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return printable(text.getvalue()).encode()


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file whole or not at all. Only the chief writes."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: str | os.PathLike, what: str, remedy: str) -> Any:
    """Reads a JSON file, which must exist.

    Args:
      path: of the file.
      what: the file's name in the error, as in "The result".
      remedy: what to do if it is damaged; a sentence.

    Raises:
      InputError: the file is not JSON.
    """
    try:
        return json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        raise input_error(f"{what} is damaged ({error})", expected="JSON", received=path, remedy=remedy) from error


def sha256_of_json(facts: Any) -> str:
    """SHA-256 of a value that JSON can hold. The order of a dict's keys does not matter."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def file_lock(path: pathlib.Path, *, wait: bool, without_locks: str) -> Iterator[None]:
    """Holds a file lock of the operating system, which releases it even if the process is killed.

    Args:
      path: of the lock file. It stays, and says who held the lock last.
      wait: whether to wait while another process holds the lock.
      without_locks: what to do by hand on a file system without locks; the end of a warning.

    Raises:
      LockedError: another process holds it, and `wait` is false.
      OSError: the file cannot be created.
    """
    lock = filelock.FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock.acquire()
        path.write_text(f"process {os.getpid()} on {platform.node()}")
    except filelock.Timeout as error:
        raise LockedError(path, path.read_text()) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        reason = getattr(error, "strerror", None) or error
        warn(f"{path.parent} is on a file system without locks ({reason}): {without_locks}")
    try:
        yield
    finally:
        lock.release()
