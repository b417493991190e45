"""Compares what an export answers with what the live student answers, in the process that writes it."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.errors import input_error
from skd_tf.runtime import compat
from skd_tf.serving.parity_check import ExportError

_IMAGES = 8
_ANY_SIZE = 64  # height and width of generated images where the student takes any
# Allowed difference of a logit, as a fraction of the largest live logit. The copy is float32; a half-precision student,
# and convolutions in TF32, are rounded more coarsely than float32.
_FLOAT32, _COARSE = 1e-3, 0.1


def generated_images(model: keras.Model) -> np.ndarray:
    """Random pixels `[8, h, w, c]` in [0, 255] of the dtype that the model takes.

    Other integers than uint8 are 0 or 1: they may be indices into a table of any size.
    """
    shape = [size or _ANY_SIZE for size in model.input_shape[1:]]
    kind = _kind_of(model)
    high = 2 if kind.kind in "iu" and kind != np.uint8 else 256
    return np.random.default_rng(0).integers(0, high, [_IMAGES, *shape]).astype(kind)


def _kind_of(model):
    return np.dtype(keras.backend.standardize_dtype(model.inputs[0].dtype).replace("bfloat16", "float32"))


def as_images(images: Any, model: keras.Model) -> np.ndarray:
    """Images `[n, h, w, c]` in the dtype that the model takes; `InputError` for anything else."""
    try:
        found = np.asarray(images).astype(_kind_of(model))
    except (TypeError, ValueError):  # a tf.data.Dataset, or images of several sizes
        found = np.empty([])
    shape = model.input_shape[1:]
    fits = found.ndim == 1 + len(shape) and len(found) > 0
    if not fits or any(size not in (None, its) for size, its in zip(shape, found.shape[1:], strict=True)):
        raise input_error(
            "These are not images that the student takes",
            expected=f"an array [n, {', '.join(str(size or 'any') for size in shape)}] of at least one image",
            received=f"images of the type {type(images).__name__}" + f" and the shape {found.shape}" * bool(found.ndim),
            remedy="Give a few images, or leave them out",
        )
    return found


def require_same_answers(
    answers: Callable[[Any], Any], live: Callable[[Any], Any], images: Any, *, name: str, bound: float
) -> None:
    """Raises `ExportError` unless an export gives the live student's logits, and gives them twice.

    Args:
      answers: the export, from images to logits `[n, classes]`.
      live: the live student, from images to the logits whose softmax is its probability.
      images: `[n, h, w, c]`.
      name: of the export, for the message.
      bound: allowed difference of a logit, as a fraction of the largest live logit.
    """
    wanted, again, first, second = (
        keras.ops.convert_to_numpy(f(images)).astype(np.float64) for f in (live, live, answers, answers)
    )
    if not np.isfinite(wanted).all():
        raise ExportError("The student's logits are not finite, so it is not exported.")
    largest = bound * np.abs(wanted).max()
    parts = (
        ("The student gives the same images other logits in a second call", again, wanted),
        (f"{name} gives the same images other logits in a second call", second, first),
        (f"{name} differs from the live student", first, wanted),
    )
    for problem, one, other in parts:
        difference = np.abs(one - other).max()
        if not difference <= largest:  # also if it is not a number
            raise ExportError(f"{problem}: by {difference:.3g} in a logit; {largest:.3g} is allowed.")


def bound_of(student: keras.Model) -> float:
    """How far the float32 copy of a student may be from it, as a fraction of the largest logit."""
    half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in compat.layers_of(student))
    return _COARSE if half or tf.config.list_physical_devices("GPU") else _FLOAT32


def served(path: str | os.PathLike) -> Callable[[Any], Any]:
    """The function from images to logits in a SavedModel that keras.Model.export wrote."""
    loaded = tf.saved_model.load(str(path))
    return lambda images: loaded.serve(tf.constant(images))
