"""Where decoded images are kept: in memory where they fit, else nowhere."""

import math
import os

from skd_tf.data.catalog import augmentation_of
from skd_tf.errors import input_error


def keeps_in_memory(settings, counts, shape):
    """Whether a set is decoded once into memory.

    Args:
      settings: `cache_dataset` and `augmentation` are used.
      counts: examples of the splits that are read.
      shape: (height, width, channels) of every image.

    Raises:
      InputError: --cache_dataset=memory where it cannot be.
    """
    if settings.cache_dataset == "none":
        return False
    if augmentation_of(settings) == "resized_crop":  # a window of the original, at another resolution each time
        if settings.cache_dataset == "memory":
            raise input_error(
                "Resized crops are cut from the original images, which are not kept in memory",
                expected="--cache_dataset=auto or none",
                received="--cache_dataset=memory",
                remedy="Leave it out",
            )
        return False
    needed, most = sum(counts) * math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 3
    if needed > most and settings.cache_dataset == "memory":
        raise input_error(
            f"{settings.dataset} does not fit in memory",
            expected=f"at most {most / 2**30:.1f} GiB decoded",
            received=f"{needed / 2**30:.1f} GiB at image size {shape[0]}x{shape[1]}",
            remedy="Lower --image_size, or drop --cache_dataset",
        )
    return needed <= most


def several_sizes(settings):
    return input_error(
        f"The images of {settings.dataset} have several sizes",
        expected="--image_size in pixels",
        received=f"image_size={settings.image_size}",
        remedy="Add for example --image_size=64",
    )
