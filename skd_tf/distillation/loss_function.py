"""A loss as a Distiller is given it: which function it is, which arguments that takes, and what it returns."""

import inspect
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from skd_tf import losses
from skd_tf.errors import InputError, input_error
from skd_tf.losses.names import RUN_SETTINGS, did_you_mean_loss

LossLike: TypeAlias = str | losses.Loss | Callable[..., dict]


def as_loss(loss: Any) -> losses.Loss:
    """The `Loss` of a name, a function, or what `Objective.get_config` returns; `InputError` for anything else."""
    if isinstance(loss, losses.Loss):
        return loss
    if isinstance(loss, dict):  # from get_config
        return losses.Loss(**loss)
    if isinstance(loss, str):
        if loss not in losses.LOSSES:
            own = "Pass the function itself; MODULE:FUNCTION is for flags" if ":" in loss else "Choose one of these"
            raise input_error(
                "Unknown loss",
                expected=f"one of {', '.join(losses.LOSSES)}, or a function",
                received=f"loss={loss}",
                remedy=did_you_mean_loss(loss, own),
            )
        return losses.LOSSES[loss]
    if isinstance(loss, keras.losses.Loss) or (isinstance(loss, type) and issubclass(loss, keras.losses.Loss)):
        raise input_error(
            "A loss of Keras compares one model with labels, and a Distiller two models",
            expected='a name such as "kd", a skd_tf.losses.Loss or a function of student_logits, teacher_logits and labels',
            received=f"loss={getattr(loss, '__name__', type(loss).__name__)}",
            remedy="See docs/keras.md, A loss of your own",
        )
    if callable(loss):
        return losses.Loss(loss, readout="raw", needs_teacher=True, defaults={})
    raise input_error(
        "This is not a loss",
        expected="a name, a Loss or a function",
        received=f"loss={loss!r}",
        remedy="See skd_tf.LOSSES",
    )


def accepted_arguments(function: Callable[..., dict], settings: Mapping[str, float]) -> set[str]:
    """The names of the arguments that a loss function takes.

    Args:
      function: `(student_logits, teacher_logits, labels, **settings)`.
      settings: its own settings that are given.

    Raises:
      InputError: it has none of a given name, needs one that is not given, or cannot be called like this.
    """
    signature = inspect.signature(function)
    parameters = signature.parameters
    unnamed = {p.name: str(p) for p in parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if unnamed:
        warnings.warn(
            f"The loss function takes {', '.join(unnamed.values())}. It gets only the settings that it names, such as "
            "temperature. A decorator hides the names unless it uses functools.wraps.",
            stacklevel=4,
        )
    accepted = set(parameters) - set(unnamed)
    own = accepted - {"student_logits", "teacher_logits", "labels", *RUN_SETTINGS}
    if not settings.keys() <= own:
        raise input_error(
            "The loss does not have all of these settings",
            expected=", ".join(sorted(own)) or "none",
            received=f"loss_settings={settings}",
            remedy="Remove the others",
        )
    given = {*RUN_SETTINGS, *settings}
    missing = [p.name for p in [*parameters.values()][3:] if p.default is p.empty and p.name not in {*given, *unnamed}]
    if missing:
        raise input_error(
            "The loss function needs settings that are not given",
            expected=", ".join(missing),
            received=f"loss_settings={settings}",
            remedy="Add them, or give them defaults",
        )
    try:
        signature.bind(None, None, None, **dict.fromkeys(accepted & given))
    except TypeError as error:
        raise input_error(
            "The loss function takes other arguments than a loss is given",
            expected="student_logits, teacher_logits, labels, and settings by name",
            received=f"{signature}: {error}",
            remedy="Name the three first, in this order",
        ) from None
    return accepted


def checked_terms(terms: Any, names: set[str], logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """What a loss function returned, as tensors.

    Args:
      terms: it should be a dict with these names, and one value per example of each.
      names: "label" and, with a teacher, "distill".
      logits: the student's, `[batch, classes]`.

    Raises:
      InputError: it is something else.
    """
    if not isinstance(terms, Mapping) or set(terms) != names:
        kind = "a tensor" if tf.is_tensor(terms) else type(terms).__name__
        keys = ", ".join(sorted(map(str, terms))) or "none" if isinstance(terms, Mapping) else kind
        raise input_error(
            "The loss function returns the wrong terms",
            expected=f"a dict with the keys {', '.join(sorted(names))}",
            received=keys,
            remedy="Return a dict with exactly these keys and one value per example",
        )
    if empty := [name for name, term in terms.items() if term is None]:
        raise input_error(
            "A term of the loss function is None",
            expected="one value per example of each term",
            received=f'"{empty[0]}": None',
            remedy="Return tf.zeros([batch]) for a term that the loss does not have",
        )
    for name, term in terms.items():
        if not tf.as_dtype(keras.backend.standardize_dtype(getattr(term, "dtype", "float32"))).is_floating:
            raise input_error(
                "A term of the loss function has no gradient, because it holds whole numbers",
                expected=f'"{name}" of float32 or float64',
                received=f"dtype={keras.backend.standardize_dtype(term.dtype)}",
                remedy="Compute it from the logits without argmax, rounding or a comparison",
            )
    # Of one dtype, so that the terms can be added.
    dtype = tf.float64 if logits.dtype == tf.float64 else tf.float32
    tensors = {name: tf.cast(term, dtype) for name, term in terms.items()}
    for name, term in tensors.items():
        if not term.shape.is_compatible_with(logits.shape[:1]):
            raise input_error(
                "A term of the loss function has the wrong shape",
                expected=f'"{name}" with one value per example, [batch]',
                received=f"shape {list(term.shape)} for logits {list(logits.shape)}",
                remedy="Sum or average over the classes, and not over the batch",
            )
    return tensors


def own_error(function: Callable[..., dict], error: Exception) -> InputError:
    """The `InputError` about an exception that a user's loss function raised: what it says, and in which line of it."""
    file = inspect.unwrap(function).__code__.co_filename if inspect.isfunction(function) else ""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" in {file} line {lines[-1].lineno}: {lines[-1].line}" if lines else ""
    first = next(iter(str(error).splitlines()), "").rstrip(".")
    return input_error(
        "The loss function raises an error",
        expected='{"label": [batch], "distill": [batch]} for logits [batch, classes] and labels',
        received=f"{type(error).__name__}: {first}{place}",
        remedy="Correct it",
    )
