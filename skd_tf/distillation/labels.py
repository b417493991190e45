"""Checks labels on the host, before a step computes with them: a compiled step cannot raise an error."""

import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.distillation import sample_weights
from skd_tf.errors import InputError, input_error

_SUM_TOLERANCE = 0.02  # of a soft row; half precision rounds
_MARK = "skd_tf labels:"  # in TensorFlow's error, whose other lines are about the graph


def as_numbers(labels: tf.Tensor) -> tf.Tensor:
    """Labels of any dtype but bool, which becomes float32."""
    return tf.cast(labels, tf.float32) if labels.dtype == tf.bool else labels


def check(labels: Any, num_classes: int | None, where: str = "y") -> None:
    """Raises `InputError` unless these are labels of `num_classes` classes (None: any number).

    Args:
      labels: class numbers `[n]` or `[n, 1]`, -1 for unlabelled; or rows `[n, classes]` that sum to 1, or to 0 for
        unlabelled. An array or tensor.
      num_classes: of the logits.
      where: names the labels in the message.
    """
    values = np.asarray(labels)
    check_form(values.dtype, values.shape, num_classes, where)
    values = values.astype(np.float64)
    if values.ndim == 1 or values.shape[-1] == 1:
        numbers = values.reshape(-1)
        bad = ~((numbers == np.floor(numbers)) & (numbers >= -1))
        if num_classes is not None:
            bad |= ~(numbers < num_classes)
        if bad.any():
            raise _no_such_class(numbers[bad.argmax()], bad.argmax(), bad.sum(), num_classes, where)
        return
    sums = values.sum(axis=-1)
    bad = ~((values >= 0).all(axis=-1) & ((np.abs(sums - 1) <= _SUM_TOLERANCE) | (sums == 0)))
    if bad.any():
        place = bad.argmax()
        raise input_error(
            "These labels are not probabilities",
            expected="rows >= 0 that sum to 1, or to 0 for an image without a label",
            received=f"{where}[{place}], which sums to {sums[place]:g} and has the minimum {values[place].min():g}",
            remedy="Divide each row by its sum",
        )


def check_form(dtype: Any, shape: Any, num_classes: int | None, where: str = "y") -> None:
    """Raises `InputError` if no values of this dtype and shape are labels."""
    rows = f"[n, {num_classes or 'classes'}]"
    try:
        numeric = np.dtype(getattr(dtype, "as_numpy_dtype", dtype)).kind in "biuf" or dtype == tf.bfloat16
    except TypeError:
        numeric = False
    if not numeric:
        raise input_error(
            "The labels are not numbers",
            expected=f"class numbers [n], or rows {rows}",
            received=f"{where} of {_kind(dtype)}",
            remedy="Number the classes from 0: np.unique(y, return_inverse=True)[1]",
        )
    shape = None if getattr(shape, "rank", 0) is None else tuple(shape)
    width = None if shape is None or len(shape) != 2 else shape[1]
    if shape is not None and (
        len(shape) not in (1, 2) or not (None in (width, num_classes) or width in (1, num_classes))
    ):
        raise input_error(
            "The labels have another shape",
            expected=f"class numbers [n], or rows {rows}",
            received=f"{where}.shape={shape}",
            remedy="Take one label per image" if shape else "Batch the dataset: dataset.batch(32)",
        )


def _kind(dtype):
    name = getattr(dtype, "name", str(dtype))
    return "text" if name.startswith(("str", "bytes")) else f"the dtype {name}"


def checked(dataset: tf.data.Dataset, num_classes: int | None) -> tf.data.Dataset:
    """The same batches (x, y) or (x, y, sample_weight); a wrong label or sample weight raises an error.

    Without `num_classes`, only sample weights are checked. It checks in the input pipeline, on the host, so that no step has to wait. `translated` makes an `InputError`.
    """

    def check_batch(*batch):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        if num_classes is not None:
            with tf.control_dependencies([_assert_labels(y, num_classes)]):
                y = tf.identity(y)
        if weights is None:
            return x, y
        with tf.control_dependencies([sample_weights.assertion(weights)]):
            return x, y, tf.identity(weights)

    return dataset.map(check_batch)


def _assert_labels(y, num_classes):
    values = tf.cast(y, tf.float64)
    if len(y.shape) == 1 or y.shape[-1] == 1:
        values = tf.reshape(values, [-1])
        good = (values == tf.floor(values)) & (values >= -1) & (values < num_classes)
    else:
        sums = tf.reduce_sum(values, axis=-1)
        good = tf.reduce_all(values >= 0, axis=-1) & ((tf.abs(sums - 1) <= _SUM_TOLERANCE) | (sums == 0))
    place = tf.argmax(tf.cast(~good, tf.int32))
    # gather_nd of a batch without rows would fail although nothing is wrong.
    first = tf.reduce_sum(tf.where(tf.range(tf.size(good), dtype=tf.int64) == place, _shown(values), 0.0))
    text = tf.strings.format(_MARK + " {} at {} of a batch;", (first, place))
    return tf.debugging.Assert(tf.reduce_all(good), [text])


def _shown(values):
    return values if len(values.shape) == 1 else tf.reduce_sum(values, axis=-1)


def translated(error: tf.errors.InvalidArgumentError, num_classes: int | None) -> InputError | None:
    """The `InputError` of a label or sample weight that `checked` found; None for any other error of TensorFlow."""
    text = str(error)
    if _MARK not in text:
        return sample_weights.translated(error)
    found = text.split(_MARK, 1)[1].split(";", 1)[0].strip()
    return input_error(
        "A label does not exist",
        expected=f"class numbers from 0 to {(num_classes or 0) - 1}, -1 for an image without a label, or rows that sum to 1",
        received=f"y={found} (of rows, the sum)",
        remedy="Use -1 instead, or drop these images",
    )


def translated_dtype(error: ValueError, num_classes: int | None) -> InputError | None:
    """The `InputError` of text in the batches of a generator, which Keras refuses itself; None for any other error."""
    found = re.match(r"Invalid dtype: ((?:str|bytes|object)\d*)", str(error))
    if isinstance(error, InputError) or not found:
        return None
    return input_error(
        "The batches hold text or objects where numbers belong, as labels may",
        expected=f"images, and class numbers [n] or rows [n, {num_classes or 'classes'}]",
        received=f"dtype={found[1]}",
        remedy="Number the classes from 0: np.unique(y, return_inverse=True)[1]",
    )


def _no_such_class(value, place, count, num_classes, where):
    highest = "the number of classes - 1" if num_classes is None else num_classes - 1
    if value != np.floor(value):
        remedy = "Round them, or give soft labels as rows [n, classes]"
    elif value == num_classes:
        remedy = "Subtract 1 if your classes are numbered from 1"
    else:
        remedy = "Use -1 to ignore an image's label"
    return input_error(
        "A label does not exist",
        expected=f"whole numbers from 0 to {highest}, or -1 for an image without a label",
        received=f"{where}[{place}]={value:g} ({count:,} such labels)",
        remedy=remedy,
    )
