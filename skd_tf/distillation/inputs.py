"""Checks the data given to a Distiller before anything is computed with it: its structure, labels and sample weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.distillation import labels, sample_weights
from skd_tf.errors import InputError, counted, input_error
from skd_tf.models.adapter import are_probabilities

IMAGE, TEACHER_LOGITS = "image", "teacher_logits"
_ARRAYS = (np.ndarray, tf.Tensor)
_MARK = "skd_tf teacher_logits:"  # in TensorFlow's error, whose other lines are about the graph


def image_of(x: Any) -> Any:
    """The images in x: x itself, its entry "image", or its only entry besides teacher_logits."""
    if isinstance(x, (list, tuple)) and len(x) == 1:
        return x[0]
    if not isinstance(x, Mapping):
        return x
    names = [name for name in x if name != TEACHER_LOGITS]
    name = IMAGE if IMAGE in names or len(names) != 1 else names[0]
    if name not in x:
        raise wrong_structure(x, ())
    return x[name]


def wrong_structure(x: Any, names: Sequence[str]) -> InputError:
    """x has a structure that the Distiller does not take."""
    if isinstance(x, (list, tuple)) and len({getattr(part, "shape", ()) for part in x}) == 1 and len(x) > 2:
        return input_error(
            "The images are a list, which Keras takes for the inputs of several layers",
            expected="one array [n, height, width, channels]",
            received=f"x=a {type(x).__name__} of {len(x)}",
            remedy="Use np.stack(x)",
        )
    received = f"a {type(x).__name__} of {len(x)}" if isinstance(x, (list, tuple)) else type(x).__name__
    received = f"x with the entries {', '.join(map(str, x)) or 'none'}" if isinstance(x, Mapping) else f"x={received}"
    return input_error(
        "The structure of x is not one that a Distiller takes",
        expected=f'the images alone, or {{"image": images, "teacher_logits": logits}}{_or_names(names)}',
        received=received,
        remedy='For TFDS, load with as_supervised=True, or map the elements: lambda e: (e["image"], e["label"])',
    )


def _or_names(names):
    return f", or a dict whose one entry is the student's input ({', '.join(names)})" if names else ""


def no_labels(x: Any) -> InputError:
    """There is no y."""
    received = f"x with the entries {', '.join(map(str, x))}, and y=None" if isinstance(x, Mapping) else "y=None"
    return input_error(
        "The data has no labels",
        expected="(x, y) or (x, y, sample_weight)",
        received=received,
        remedy='For TFDS, load with as_supervised=True, or map lambda e: (e["image"], e["label"]); y of -1 means unlabelled',
    )


def check_structure(x: Any, names: Sequence[str]) -> None:
    """Raises `InputError` if x is neither images, nor a dict of them under "image" or one of `names`."""
    if isinstance(x, (list, tuple)) and len(x) != 1:
        raise wrong_structure(x, names)
    if isinstance(x, Mapping):
        others = [name for name in x if name != TEACHER_LOGITS]
        if len(others) != 1 or (others[0] != IMAGE and others[0] not in names):
            raise wrong_structure(x, names)


def checked(
    x: Any,
    y: Any,
    weights: Any,
    *,
    names: Sequence[str],
    num_classes: int | None,
    where: tuple[str, str] = ("y", "sample_weight"),
) -> tuple[Any, Any, Any]:
    """Checks what `fit` and `evaluate` are given, as far as that is possible without reading data twice.

    Arrays are checked whole. A tf.data.Dataset gets a check of each batch's labels and sample weights. Of other data,
    `check_batch` checks each batch when it arrives.

    Args:
      x, y, weights: as for `Distiller.fit`, whose argument `sample_weight` is `weights`.
      names: of the student's input.
      num_classes: of the student; None if it is not known yet.
      where: names the labels and the sample weights in messages.

    Returns:
      (x, y, weights) to use instead.

    Raises:
      InputError: the structure is wrong, there are no labels, or a label or sample weight is not valid.
    """
    if isinstance(x, tf.data.Dataset):
        x_spec, y_spec, weights_spec = keras.utils.unpack_x_y_sample_weight(x.element_spec)
        if isinstance(weights_spec, tf.NoneTensorSpec):
            weights_spec = None
        if y_spec is None:
            raise no_labels(x_spec)
        check_structure(x_spec, names)
        if not isinstance(y_spec, tf.TensorSpec):
            raise _structured_labels(y_spec, where[0])
        labels.check_form(y_spec.dtype, y_spec.shape, num_classes, where[0])
        if isinstance(weights_spec, tf.TensorSpec):
            sample_weights.check_form(weights_spec.dtype, weights_spec.shape, where=where[1])
        elif weights_spec is not None:
            sample_weights.checked(weights_spec, None, where[1])
        known = are_checked_whole(x, num_classes)
        checks = known or weights_spec is not None
        if isinstance(x_spec, Mapping) and TEACHER_LOGITS in x_spec:
            x = x.map(_with_finite_logits)
        return (labels.checked(x, num_classes if known else None) if checks else x), y, weights
    if x is None:
        raise input_error("There is no data", expected="x and y", received="x=None", remedy="Pass images and labels")
    if not isinstance(x, (*_ARRAYS, Mapping, list, tuple)):
        return x, y, weights
    if isinstance(x, (list, tuple)) and len(x) == 1:
        (x,) = x
    check_structure(x, names)
    if (shape := getattr(image_of(x), "shape", None)) and shape[0] == 0:
        raise input_error(
            "There are no images",
            expected="at least one",
            received=f"x.shape={tuple(shape)}",
            remedy="Look at what selects them",
        )
    if isinstance(y, (list, tuple)) and len(y) == 1 and isinstance(y[0], _ARRAYS):
        (y,) = y
    elif isinstance(y, (list, tuple)):
        y = np.asarray(y)  # Keras would take a list for the labels of several outputs
    if y is None:
        raise no_labels(x)
    if isinstance(y, Mapping):
        raise _structured_labels(y, where[0])
    labels.check(y, num_classes, where[0])
    if isinstance(x, Mapping) and TEACHER_LOGITS in x:
        _require_finite(np.asarray(x[TEACHER_LOGITS]))
    return x, y, sample_weights.checked(weights, len(y), where[1])


def are_checked_whole(data: Any, num_classes: int | None) -> bool:
    """Whether `checked` can see to all labels in the data, so that no batch has to be checked when it arrives."""
    if isinstance(data, tf.data.Dataset):
        labels_spec = keras.utils.unpack_x_y_sample_weight(data.element_spec)[1]
        return num_classes is not None and labels_spec.shape.rank is not None
    return isinstance(data, (*_ARRAYS, Mapping, list, tuple))


def _structured_labels(y, where):
    names = ", ".join(map(str, y)) if isinstance(y, Mapping) else f"a {type(y).__name__}"
    return input_error(
        "The labels are not one array",
        expected="class numbers [n], or rows [n, classes]",
        received=f"{where}={names}",
        remedy="Choose the label that the student learns",
    )


def check_batch(x: Any, y: Any, weights: Any = None, *, names: Sequence[str], num_classes: int | None) -> None:
    """Checks one batch of eager tensors, as `checked` does; also the teacher's logits in it."""
    if y is None:
        raise no_labels(x)
    check_structure(x, names)
    if not hasattr(y, "dtype"):
        raise _structured_labels(y, "y")
    labels.check(y, num_classes)
    sample_weights.checked(weights, len(y))
    if isinstance(x, Mapping) and TEACHER_LOGITS in x:
        logits = np.asarray(x[TEACHER_LOGITS])
        fits = logits.ndim in (2, 3) and num_classes in (None, logits.shape[-1])
        if not fits:
            raise input_error(
                "The teacher's logits have another shape",
                expected=f"[n, {num_classes}], or of several teachers [n, teachers, {num_classes}]",
                received=f"teacher_logits.shape={logits.shape}",
                remedy="Use the student's classes",
            )
        _require_finite(logits)
        each = np.reshape(logits, (len(logits), -1, logits.shape[-1]))  # of several teachers, or of one
        if len(logits) > 1 and any(are_probabilities(each[:, i]) for i in range(each.shape[1])):
            raise input_error(
                "The teacher's logits are probabilities",
                expected="raw logits",
                received="teacher_logits >= 0 that sum to 1 for each image",
                remedy="Give the values before the softmax, or np.log(np.maximum(p, 1e-37)) of these",
            )


def require_finite_images(images: Any) -> None:
    """Raises `InputError` if a pixel is NaN or infinite."""
    bad = ~np.isfinite(np.asarray(tf.cast(images, tf.float64)))
    if bad.any():
        raise input_error(
            "The images are not finite",
            expected="finite pixels",
            received=f"NaN or infinity in {counted(int(bad.sum()), 'pixel')} of the first {counted(len(bad), 'image')}",
            remedy="Look for a division by 0 in what makes the images",
        )


def _with_finite_logits(x, *others):
    logits = x[TEACHER_LOGITS]
    if not logits.dtype.is_floating:
        return x, *others
    flat = tf.reshape(logits, [-1])
    bad = tf.boolean_mask(flat, ~tf.math.is_finite(flat))
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [_MARK, bad[:1], ";"], summarize=1)]):
        return {**x, TEACHER_LOGITS: tf.identity(logits)}, *others


def translated(error: tf.errors.InvalidArgumentError) -> InputError | None:
    """The `InputError` of teacher logits in a dataset that are not finite; None for any other error of TensorFlow."""
    if _MARK not in str(error):
        return None
    return _not_finite(str(error).split(_MARK, 1)[1].split(";", 1)[0].strip("' []\n"))


def _require_finite(logits):
    if not np.isfinite(logits).all():
        raise _not_finite(logits[~np.isfinite(logits)][0])


def _not_finite(value):
    return input_error(
        "The teacher's logits are not finite",
        expected="finite numbers",
        received=f"teacher_logits={value}",
        remedy="Of probabilities, take np.log(np.maximum(p, 1e-37))",
    )
