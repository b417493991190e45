"""Decides whether decoded images are kept in memory."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from skd_tf.data.catalog import crops_originals
from skd_tf.data.settings import DataSettings
from skd_tf.errors import flag_error, input_error
from skd_tf.runtime.console import say

_SHARE = 0.5  # of the free memory, as the training needs memory too
_LOADING = 1.3  # times the images' bytes are in use while they are loaded
_ALIGNMENT = 64  # bytes: TensorFlow reads an array in place only if it starts at a multiple of this
_WITHOUT_SYSCONF = 4 << 30  # bytes
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_CGROUPS = pathlib.Path("/sys/fs/cgroup")


_decided: dict[str, bool] = {}


@contextlib.contextmanager
def as_decided(in_memory: Mapping[str, bool]) -> Iterator[None]:
    """Inside, `--cache_dataset=auto` keeps a named dataset in memory or on disk as it says, however much memory is free.

    A run that resumes compares its images with those it began with, and can only do so in the same place.
    """
    before = dict(_decided)
    _decided.update(in_memory)
    try:
        yield
    finally:
        _decided.clear()
        _decided.update(before)


def decided(dataset: str) -> bool | None:
    """Where `as_decided` keeps a dataset: True in memory, False on disk, None if it says nothing."""
    return _decided.get(dataset)


def keeps_in_memory(
    settings: DataSettings, counts: Iterable[int], shape: tuple[int, int, int], most: float | None = None
) -> bool:
    """Whether a dataset is decoded once into memory: if it takes at most half of what is free, or as --cache_dataset says.

    With --cache_dataset=memory it may take all that is free, less what loading needs.

    Args:
      settings: `cache_dataset` and `augmentation` decide.
      counts: number of examples in each split that is read.
      shape: (height, width, channels) of every image.
      most: bytes that it may take; half of the free memory if None.

    Raises:
      InputError: --cache_dataset=memory with resized crops, or with a dataset that is too large.
    """
    resumes = most is None and settings.cache_dataset == "auto" and settings.dataset in _decided
    if settings.cache_dataset == "none" or (resumes and not _decided[settings.dataset]):
        return False
    if crops_originals(settings):  # each window comes from the original, at its full resolution
        if settings.cache_dataset == "memory":
            problem = "cannot serve resized crops: they need the original images, which are not kept in memory"
            raise flag_error("cache_dataset", "memory", problem, "auto or none", "Omit it")
        return False
    must = resumes or settings.cache_dataset == "memory"
    if most is None:
        most = budget() / _SHARE / _LOADING if must else budget()
    needed = sum(counts) * math.prod(shape)
    if needed <= most:
        return True
    size, limit = f"{_shown(needed)} at image size {shape[0]}x{shape[1]}", _shown(most)
    if must:
        raise input_error(
            f"{settings.dataset} does not fit in memory{', where this run keeps its images' * resumes}",
            expected=f"at most {limit} decoded, as loading takes up to {_LOADING} times as much",
            received=size,
            remedy="Free memory" if resumes else "Lower --image_size, or use --cache_dataset=none",
        )
    say(f"{settings.dataset} takes {size}, more than half of the free memory ({limit}): its images are read from disk.")
    return False


def budget() -> float:
    """Bytes that decoded images may take: half of what the machine and the process's container have free."""
    return _SHARE * min([_free_on_machine(), *_free_in_cgroups()])


def aligned_empty(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """An uninitialised uint8 array `[count, *shape]` that TensorFlow can read in place."""
    size = count * math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].reshape(count, *shape)


def is_aligned(images: np.ndarray) -> bool:
    """Whether TensorFlow can read an array in place."""
    return images.flags.c_contiguous and images.flags.writeable and images.ctypes.data % _ALIGNMENT == 0


def aligned(images: np.ndarray) -> np.ndarray:
    """The images if TensorFlow can read them in place, else a copy that it can."""
    if is_aligned(images):
        return images
    copy = aligned_empty(len(images), images.shape[1:])
    np.copyto(copy, images)
    return copy


def _shown(size):
    """Bytes as a text with three digits."""
    unit, name = next(((unit, name) for unit, name in _UNITS if size >= unit), _UNITS[-1])
    return f"{size / unit:.3g} {name}"


def _free_on_machine():
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if not hasattr(os, "sysconf"):  # Windows, where what is free takes a call of its API
        return _WITHOUT_SYSCONF
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_in_cgroups(root: pathlib.Path = _CGROUPS, groups: str | None = None):
    """Free bytes of the process's control groups and of those around them, versions 1 and 2."""
    if groups is None:
        with contextlib.suppress(OSError):
            groups = pathlib.Path("/proc/self/cgroup").read_text()
    free = []
    for line in (groups or "").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        folder = top / place.strip("/")
        for group in (folder, *folder.parents):  # a container may see its own group at the top
            if group != top and top not in group.parents:
                break
            with contextlib.suppress(OSError, ValueError):  # no such file; "max"
                limit, used = (int((group / name).read_text()) for name in names)
                free.append(max(0, limit - used + _reclaimable(group)))
    return free


def _reclaimable(group):
    """Bytes of a group's use that are cached files, which the system gives up when memory is short."""
    with contextlib.suppress(OSError, ValueError):
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return 0
