"""Arrays that a user's function returns become ours without a second copy, if nothing else refers to them."""

import math
import sys
from collections.abc import Callable

import numpy as np

from skd_tf.data.memory_budget import aligned_empty, is_aligned

_HOLDER = [object()]
_ALONE = sys.getrefcount(_HOLDER[0])  # of an object to which only one list refers
_PIECE_BYTES = 16 << 20


def taken_over(holder: list[np.ndarray]) -> tuple[np.ndarray, bool]:
    """Takes the array out of a list, in memory that TensorFlow can read in place if it can be moved there.

    Args:
      holder: a list of one uint8 array `[n, ...]`, which should be the only reference to it. It is emptied.

    Returns:
      (the array, whether it may be changed). One that something else refers to is returned as it is, with False.
    """
    if not _is_alone(holder):
        return holder.pop(), False
    if is_aligned(holder[0]):
        return holder.pop(), True
    shape = holder[0].shape[1:]
    return converted(holder, shape, max(1, _PIECE_BYTES // math.prod(shape)), lambda images: images), True


def converted(
    holder: list[np.ndarray], shape: tuple[int, ...], step: int, convert: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Takes the array out of a list and converts it piece by piece, from its end.

    The memory of an array that nothing else refers to is given back at the same rate: the peak is then one piece more
    than the larger one of the two arrays.

    Args:
      holder: as for `taken_over`.
      shape: of a converted image.
      step: images in a piece.
      convert: images `[at most step, ...]` -> uint8 `[as many, *shape]`.

    Returns:
      The converted images, which TensorFlow can read in place.
    """
    alone, images = _is_alone(holder), holder.pop()
    owner = images if images.base is None or not alone else images.base
    count, given, strides = len(images), images.shape[1:], images.strides
    del images
    result = aligned_empty(count, shape)
    for start in range((count - 1) // step * step, -1, -step):
        rows = min(step, count - start)
        # A new view each time, because an array that shrinks may move.
        left = np.lib.stride_tricks.as_strided(owner, (start + rows, *given), strides, writeable=False)
        result[start : start + rows] = convert(left[start:])
        del left
        if alone:
            owner.resize(start * math.prod(given), refcheck=False)
    return result


def _is_alone(holder):
    """Whether only `holder` refers to its array, which fills memory of its own example by example."""
    if sys.getrefcount(holder[0]) > _ALONE:
        return False
    size, base = math.prod(holder[0].shape[1:]), holder[0].base
    if base is None:
        alone, owner = True, holder[0]
    elif isinstance(base, np.ndarray):
        del base
        alone, owner = sys.getrefcount(holder[0].base) <= _ALONE, holder[0].base
    else:
        return False
    begins = holder[0].__array_interface__["data"][0] == owner.__array_interface__["data"][0]
    whole = owner.base is None and owner.nbytes == holder[0].nbytes and owner.dtype == holder[0].dtype and begins
    return alone and whole and owner.flags.owndata and holder[0].strides[0] == size and size > 0
