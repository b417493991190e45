"""Checks sample weights on the host, before a step multiplies the loss by them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.errors import InputError, counted, input_error

_MARK = "skd_tf sample_weight:"  # in TensorFlow's error, whose other lines are about the graph


def checked(weights: Any, count: int | None, where: str = "sample_weight") -> Any:
    """The weights as an array or tensor.

    Args:
      weights: `[n]` or `[n, 1]`: an array, a tensor, or a list of numbers. None stays None.
      count: n, the number of images; None if it is not known.
      where: names the weights in messages.

    Raises:
      InputError: they are not finite numbers >= 0, one for each image.
    """
    if weights is None:
        return None
    if isinstance(weights, Mapping):
        raise _not_numbers(f"a dict of {', '.join(map(str, weights))}", where)
    if isinstance(weights, (list, tuple)):  # Keras would take a list for the weights of several outputs
        try:
            weights = np.asarray(weights[0] if len(weights) == 1 and np.ndim(weights[0]) else weights)
        except ValueError:  # parts of different lengths
            raise _not_numbers(f"{where}={weights!r:.60}", where) from None
    values = np.asarray(weights)
    check_form(values.dtype, values.shape, count, where)
    values = values.astype(np.float64).reshape(-1)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        place = bad.argmax()
        raise _out_of_range(f"{where}[{place}]={values[place]:g} ({counted(int(bad.sum()), 'such weight')})")
    return weights


def check_form(dtype: Any, shape: Any, count: int | None = None, where: str = "sample_weight") -> None:
    """Raises `InputError` if no values of this dtype and shape are the weights of `count` images."""
    name = getattr(dtype, "name", str(dtype))
    if name != "bfloat16" and np.dtype(getattr(dtype, "as_numpy_dtype", dtype)).kind not in "biuf":
        raise _not_numbers(f"{where}.dtype={name}", where)
    shape = None if getattr(shape, "rank", 0) is None else tuple(shape)
    if shape is None:
        return
    one_each = len(shape) == 1 or (len(shape) == 2 and shape[1] in (None, 1))
    if not one_each or not (None in (count, shape[0]) or shape[0] == count):
        raise input_error(
            "There is not one sample weight for each image",
            expected=f"[{'n' if count is None else count}]",
            received=f"{where}.shape={shape}",
            remedy="Give one weight per image; class_weight has one per class",
        )


def assertion(weights: tf.Tensor) -> tf.Operation:
    """An operation of the input pipeline that fails for a weight that is out of range; `translated` reads its error."""
    values = tf.reshape(tf.cast(weights, tf.float64), [-1])
    bad = ~(tf.math.is_finite(values) & (values >= 0))
    return tf.debugging.Assert(~tf.reduce_any(bad), [_MARK, tf.boolean_mask(values, bad)[:1], ";"], summarize=1)


def translated(error: tf.errors.InvalidArgumentError) -> InputError | None:
    """The `InputError` of a weight that `assertion` found; None for any other error of TensorFlow."""
    text = str(error)
    if _MARK not in text:
        return None
    found = text.split(_MARK, 1)[1].split(";", 1)[0].strip("' []\n")
    return _out_of_range(f"sample_weight={float(found):g}")


def _not_numbers(received, where):
    return input_error(
        "The sample weights are not numbers",
        expected="one finite number >= 0 per image",
        received=received,
        remedy=f"Give {where} as an array [n]",
    )


def _out_of_range(received):
    return input_error(
        "A sample weight is out of range",
        expected="a finite number >= 0",
        received=received,
        remedy="Use 0 to leave an image out of the loss",
    )
