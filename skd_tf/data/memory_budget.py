"""Decides whether decoded images are kept in memory."""

import math
import os
from collections.abc import Iterable

from skd_tf.data.catalog import augmentation_of
from skd_tf.data.settings import DataSettings
from skd_tf.errors import flag_error, input_error


def keeps_in_memory(settings: DataSettings, counts: Iterable[int], shape: tuple[int, int, int]) -> bool:
    """Whether a dataset is decoded once into memory: if it takes at most a third of it, or as --cache_dataset says.

    Args:
      settings: `cache_dataset` and `augmentation` decide.
      counts: number of examples in each split that is read.
      shape: (height, width, channels) of every image.

    Raises:
      InputError: --cache_dataset=memory with resized crops, or with a dataset that is too large.
    """
    if settings.cache_dataset == "none":
        return False
    if augmentation_of(settings) == "resized_crop":  # each window comes from the original, at its full resolution
        if settings.cache_dataset == "memory":
            problem = "cannot serve resized crops: they need the original images, which are not kept in memory"
            raise flag_error("cache_dataset", "memory", problem, "auto or none", "Omit it")
        return False
    needed, most = sum(counts) * math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3
    if needed > most and settings.cache_dataset == "memory":
        raise input_error(
            f"{settings.dataset} does not fit in memory",
            expected=f"at most {most / 2**30:.1f} GiB decoded",
            received=f"{needed / 2**30:.1f} GiB at image size {shape[0]}x{shape[1]}",
            remedy="Lower --image_size, or omit --cache_dataset",
        )
    return needed <= most
