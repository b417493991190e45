"""Facts and logits of a teacher on disk, in a folder that later runs share.

Here one file holds the logits of a whole split, in its order: a header, then fixed-length records. That is for splits
that are measured. The logits of augmented training images are in `logit_shards`; skd_tf 0.1 kept them here too. A file
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

from skd_tf.errors import EnvironmentFailure, InputError, input_error, message
from skd_tf.runtime import atomic_files
from skd_tf.runtime.files import sha256_of_json, write_json
from skd_tf.runtime.local_paths import require_local

HEADER_BYTES = 1024  # a multiple of every dtype's size, so tf.data can skip it as a whole number of records
_FORMAT = 1
_NO_CHECKSUM = "0" * 64
_PIECE = 1 << 20  # bytes
ABANDONED_SECONDS = 24 * 3600  # a younger temporary file may belong to another process


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
            atomic_files.sweep(self.folder, older_than_seconds=ABANDONED_SECONDS)
        except OSError as error:
            raise unwritable(self.folder, error) from error

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
            raise unwritable(self.folder, error) from error

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
        problem = self.problem(path, key, shape)
        if problem:
            self._say(f"Teacher cache: {path.name} {problem}. It is not used and will be computed again.")
            return False
        self._verified.add(path)
        return True

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
            raise not_finite(self.dtype, f"values up to {np.abs(logits).max():.3g}")
        digest = hashlib.sha256(self._header(key, body.shape, _NO_CHECKSUM))
        digest.update(body.data)
        try:
            with atomic_files.writing(self.path(key)) as file:
                file.write(self._header(key, body.shape, digest.hexdigest()))
                file.write(body.data)
        except OSError as error:
            raise unwritable(self.folder, error) from error
        self._verified.add(self.path(key))

    def _header(self, key, shape, checksum):
        facts = {"format": _FORMAT, "key": key, "shape": list(shape), "dtype": self.dtype.name, "sha256": checksum}
        return json.dumps(facts).encode().ljust(HEADER_BYTES)

    def problem(self, path: pathlib.Path, key: str, shape: tuple[int, int]) -> str | None:
        """What is wrong with a file, in words; None if nothing is. Reads all of it, in small pieces.

        Raises:
          OSError: the file cannot be read, which does not say that anything is wrong with it.
        """
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.file_bytes(shape):
                    return f"has {size} bytes instead of {self.file_bytes(shape)}"
                header = file.read(HEADER_BYTES)
                checksum = json.loads(header)["sha256"]
                if header != self._header(key, shape, checksum):
                    return "has another key"
                digest = hashlib.sha256(self._header(key, shape, _NO_CHECKSUM))
                while piece := file.read(_PIECE):
                    digest.update(piece)
        except FileNotFoundError:
            return "is missing"
        except (ValueError, KeyError, TypeError) as error:
            return f"is damaged ({error})"
        return None if digest.hexdigest() == checksum else "is damaged: its checksum does not match"


def not_finite(dtype: np.dtype, received: str) -> InputError:
    """The error of logits that are not finite in the dtype of the cache."""
    narrow = dtype != np.float32
    return input_error(
        "The teacher's logits do not fit the dtype of the cache" if narrow else "The teacher's logits are not finite",
        expected=f"finite {dtype} numbers",
        received=received,
        remedy="Use --teacher_cache_dtype=float32, or check the teacher"
        if narrow
        else "Check the teacher's file, or use --teacher_precision=float32",
    )


def unwritable(folder: pathlib.Path, error: OSError) -> InputError:
    """The error of a cache that cannot be written."""
    return input_error(
        f"The teacher cache cannot be written ({error.strerror})",
        expected="a writable folder",
        received=f"teacher_cache_dir={folder}",
        remedy="Choose another --teacher_cache_dir",
    )


def require_space(folder: pathlib.Path, needed: int) -> None:
    """Raises `EnvironmentFailure` if the disk of a folder has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        problem = message(
            "The disk is too small for the teacher cache",
            expected=f"{needed / 1e9:.2f} GB free",
            received=f"{free / 1e9:.2f} GB in {folder}",
            remedy="Free some space, or lower --teacher_cache_epochs, or store the largest logits: --teacher_cache_top",
        )
        raise EnvironmentFailure(problem)
