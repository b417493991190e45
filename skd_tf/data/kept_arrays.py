"""Arrays that are kept for later processes in the user's cache folder: $XDG_CACHE_HOME or ~/.cache, in skd_tf/."""

import contextlib
import os
import pathlib
import time

import numpy as np

from skd_tf.runtime import atomic_files

_UNUSED_DAYS = 180  # after which a file is removed


def place(kind: str, name: str) -> pathlib.Path:
    """The file in which arrays of a kind are kept under a name."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(cache, "skd_tf", kind, f"{name}.npz")


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays in a file by name; none if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            arrays = dict(kept)
    except Exception:  # a damaged archive raises many kinds
        return {}
    with contextlib.suppress(OSError):
        os.utime(path)  # a file that is read is in use
    return arrays


def save(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Keeps arrays in a file, whole or not at all. A cache folder that cannot be written is no problem."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unused(path.parent)
        with atomic_files.writing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # no array is named allow_pickle


def _remove_unused(folder):
    for path in folder.glob("*.npz"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNUSED_DAYS * 86_400:
                path.unlink()
