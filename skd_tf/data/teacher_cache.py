"""Teacher logits on disk: computed once per augmented image and shared by all later runs.

One file holds the logits of one pass over a list of images, in their order: a header, then fixed-length records. A file
gets its name only once it is complete, and its checksum is verified before it is used.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from skd_tf.errors import EnvironmentFailure, input_error, message
from skd_tf.runtime import atomic_files
from skd_tf.runtime.files import sha256_of_json, write_json
from skd_tf.runtime.local_paths import require_local

HEADER_BYTES = 1024  # a multiple of every dtype's size, so tf.data can skip it as a whole number of records
_FORMAT = 1
_NO_CHECKSUM = "0" * 64
_ABANDONED_SECONDS = 24 * 3600


class TeacherCache:
    """A folder of logit files; several processes may share it.

    Args:
      folder: created if it does not exist.
      dtype: of the records, "float16" or "float32".
      say: called with a line for each file that is damaged or has another key; it is then computed again.
    """

    def __init__(self, folder: str | os.PathLike, dtype: str, say: Callable[[str], object]) -> None:
        require_local(folder, "teacher_cache_dir")
        self.folder, self.dtype, self._say = pathlib.Path(folder), np.dtype(dtype), say
        self._verified: set[pathlib.Path] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A younger temporary file may belong to another process.
            atomic_files.sweep(self.folder, older_than_seconds=_ABANDONED_SECONDS)
        except OSError as error:
            raise self._unwritable(error) from error

    def read_facts(self, key: str) -> Any:
        """What `write_facts` stored under a key, or None."""
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_text())
            if record["sha256"] == sha256_of_json([key, record["facts"]]):
                return record["facts"]
        self._say(f"Teacher cache: {path.name} is damaged. It is not used and will be written again.")
        return None

    def write_facts(self, key: str, facts: Any) -> None:
        """Stores a value under a key, as JSON."""
        try:
            write_json(self.folder / f"{key}.json", {"facts": facts, "sha256": sha256_of_json([key, facts])})
        except OSError as error:
            raise self._unwritable(error) from error

    def path(self, key: str) -> pathlib.Path:
        """The file of a key."""
        return self.folder / f"{key}.logits"

    def has(self, key: str, shape: tuple[int, int]) -> bool:
        """Whether the file of a key exists, is complete and has the right checksum; `shape` is (examples, classes)."""
        path = self.path(key)
        if path in self._verified:
            return True
        if not path.exists():
            return False
        problem = self._problem(path, key, shape)
        if problem:
            self._say(f"Teacher cache: {path.name} {problem}. It is not used and will be computed again.")
            return False
        self._verified.add(path)
        return True

    def require_space(self, files: int, shape: tuple[int, int]) -> None:
        """Raises `EnvironmentFailure`, before anything is written, if the disk has no room for this many more files."""
        needed, free = files * self.file_bytes(shape), shutil.disk_usage(self.folder).free
        if needed > free:
            problem = message(
                "The disk is too small for the teacher cache",
                expected=f"{needed / 1e9:.2f} GB free",
                received=f"{free / 1e9:.2f} GB in {self.folder}",
                remedy="Free some space, or lower --teacher_cache_epochs",
            )
            raise EnvironmentFailure(problem)

    def file_bytes(self, shape: tuple[int, int]) -> int:
        """Size of one file."""
        return HEADER_BYTES + shape[0] * shape[1] * self.dtype.itemsize

    def read(self, key: str, shape: tuple[int, int]) -> np.ndarray:
        """The logits of a key for which `has` is true, `[examples, classes]`."""
        return np.fromfile(self.path(key), self.dtype, offset=HEADER_BYTES).reshape(shape)

    def write(self, key: str, logits: np.ndarray) -> None:
        """Writes logits `[examples, classes]`: the whole file or nothing."""
        body = np.ascontiguousarray(logits, self.dtype)
        if not np.isfinite(body).all():
            raise input_error(
                "The teacher's logits do not fit the dtype of the cache",
                expected=f"finite {self.dtype} numbers",
                received=f"values up to {np.abs(logits).max():.3g}",
                remedy="Use --teacher_cache_dtype=float32, or check the teacher",
            )
        digest = hashlib.sha256(self._header(key, body.shape, _NO_CHECKSUM))
        digest.update(body.data)
        try:
            with atomic_files.writing(self.path(key)) as file:
                file.write(self._header(key, body.shape, digest.hexdigest()))
                file.write(body.data)
        except OSError as error:
            raise self._unwritable(error) from error
        self._verified.add(self.path(key))

    def _header(self, key, shape, checksum):
        facts = {"format": _FORMAT, "key": key, "shape": list(shape), "dtype": self.dtype.name, "sha256": checksum}
        return json.dumps(facts).encode().ljust(HEADER_BYTES)

    def _problem(self, path, key, shape):
        """What is wrong with a file, in words; None if nothing is."""
        try:
            content = path.read_bytes()
            if len(content) != self.file_bytes(shape):
                return f"has {len(content)} bytes instead of {self.file_bytes(shape)}"
            checksum = json.loads(content[:HEADER_BYTES])["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"cannot be read ({error})"
        if content[:HEADER_BYTES] != self._header(key, shape, checksum):
            return "has another key"
        digest = hashlib.sha256(self._header(key, shape, _NO_CHECKSUM))
        digest.update(memoryview(content)[HEADER_BYTES:])
        return None if digest.hexdigest() == checksum else "is damaged: its checksum does not match"

    def _unwritable(self, error):
        return input_error(
            f"The teacher cache cannot be written ({error.strerror})",
            expected="a writable folder",
            received=f"teacher_cache_dir={self.folder}",
            remedy="Choose another --teacher_cache_dir",
        )
