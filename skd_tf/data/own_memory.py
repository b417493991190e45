"""Arrays that a user's function returns become ours without a second copy, if nothing else refers to them."""

import math
import sys

import numpy as np

from skd_tf.data.memory_budget import aligned_empty, is_aligned

_HOLDER = [object()]
_ALONE = sys.getrefcount(_HOLDER[0])  # of an object to which only one list refers
_PIECE_BYTES = 16 << 20


def taken_over(holder: list[np.ndarray]) -> tuple[np.ndarray, bool]:
    """Takes the array out of a list, in memory that TensorFlow can read in place if it can be moved there.

    An array that nothing else refers to is moved piece by piece, from its end, and its memory is given back at the same
    rate: the peak is one piece more than the array.

    Args:
      holder: a list of one uint8 array `[n, ...]`, which should be the only reference to it. It is emptied.

    Returns:
      (the array, whether it may be changed). One that something else refers to is returned as it is, with False.
    """
    if not _is_alone(holder):
        return holder.pop(), False
    images = holder.pop()
    if is_aligned(images):
        return images, True
    owner = images if images.base is None else images.base
    images = images.view()  # keeps its shape when the owner shrinks
    count, size = len(images), math.prod(images.shape[1:])
    moved, step = aligned_empty(count, images.shape[1:]), max(1, _PIECE_BYTES // size)
    for start in range((count - 1) // step * step, -1, -step):
        moved[start : start + step] = images[start : start + step]
        owner.resize(start * size, refcheck=False)  # the view ends beyond it from here on, and is not read there again
    return moved, True


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
    whole = owner.base is None and owner.nbytes == holder[0].nbytes and begins
    return alone and whole and owner.flags.owndata and holder[0].strides[0] == size and size > 0
