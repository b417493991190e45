"""What goes into a model and what comes out: one image tensor, and logits `[batch, classes]`, or a clear message.

A model may take its images in a dict or list of one entry. It may return its logits in a dict or list of one entry, as
the entry `logits` of a dict, or as `[batch, 1, 1, classes]`. Everything else is refused.
"""

import inspect
import os
from collections.abc import Mapping
from typing import Any

import keras

from skd_tf.errors import InputError, input_error
from skd_tf.models.graph import graph_of
from skd_tf.runtime import compat
from skd_tf.runtime.console import say

LOGITS = "logits"


def require_model(model: Any, who: str) -> None:
    """Raises `InputError` if what is given as a student or teacher is not a model."""
    if isinstance(model, (str, os.PathLike)):
        remedy = "Load it: keras.models.load_model(PATH), or keras.layers.TFSMLayer(PATH, ...) for a SavedModel teacher"
        raise _not_a_model(who, f"{str(model)!r}", remedy)
    if isinstance(model, (list, tuple, Mapping)):
        raise _not_a_model(
            who, f"a {type(model).__name__} of {len(model)}", "Join them in one model: keras.layers.Average"
        )
    if (who == "student" and not isinstance(model, keras.Model)) or not callable(model) or not _takes_training(model):
        raise _not_a_model(who, type(model).__name__, "Pass a keras.Model")


def _takes_training(model):
    """Whether a plain function can be called as a model is, with `training`; anything else can."""
    if not inspect.isroutine(model):
        return True
    parameters = inspect.signature(model).parameters
    return "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _not_a_model(who, received, remedy):
    return input_error(
        f"The {who} is not a model", expected="a keras.Model", received=f"{who}={received}", remedy=remedy
    )


def logits_in(output: Any, who: str) -> Any:
    """The logits `[batch, classes]` in what a model returns: eager, in a graph or symbolic.

    Args:
      output: a tensor, or a dict or list of tensors.
      who: names the model in the message.

    Raises:
      InputError: it is not clear which tensor holds the logits, or it does not have this shape.
    """
    output = _only(output, who)
    shape = getattr(output, "shape", None)
    if shape is not None and len(shape) == 2:
        return output
    classes = classes_in(shape, who)
    if isinstance(output, keras.KerasTensor):
        return keras.layers.Reshape((classes,), name="logits_without_places")(output)  # "reshape" may be taken
    return keras.ops.reshape(output, (-1, classes))


def classes_of(model: Any, who: str) -> int | None:
    """The number of classes of a model's logits; None if they are not known before it is called.

    Raises:
      InputError: as for `logits_in`.
    """
    graph = graph_of(model)
    if graph is not None:  # Keras flattens the dict of the shapes
        return classes_in(_only(graph.output, who).shape, who)
    shape = getattr(model, "output_shape", None)
    return None if shape is None else classes_in(shape, who)


def classes_in(shape: Any, who: str) -> int:
    """The number of classes in an output's shape, which may be None; `InputError` if it is not that of logits."""
    shape = None if shape is None or getattr(shape, "rank", 0) is None else tuple(shape)
    if shape is None or len(shape) < 2 or shape[-1] is None or any(size != 1 for size in shape[1:-1]):
        raise input_error(
            f"The {who}'s output is not one row of logits per image",
            expected="shape [batch, classes]",
            received=f"shape={shape}",
            remedy="End it in a pooling or Flatten layer, and Dense(classes)",
        )
    return shape[-1]


def with_logits(model: Any, who: str, *, announce: bool = False) -> Any:
    """The model with one image tensor in and logits out, with the same layers; itself if it is so already.

    Args:
      model: any model; one that is neither Functional nor Sequential is returned as it is.
      who: names it in messages.
      announce: whether to print a line if it is changed.

    Raises:
      InputError: it takes several inputs, or as for `logits_in`.
    """
    graph = graph_of(model)
    if graph is None:
        return model
    require_one_input(model, who)
    plain = isinstance(graph.input, keras.KerasTensor) and isinstance(graph.output, keras.KerasTensor)
    if plain and len(graph.output.shape) == 2:
        return model
    logits = logits_in(graph.output, who)
    if announce and logits is not graph.output:
        kind = "a dict" if isinstance(graph.output, Mapping) else "a list"
        form = f"shape {tuple(graph.output.shape)}" if isinstance(graph.output, keras.KerasTensor) else kind
        say(f"The {who} returns {form}: its logits {tuple(logits.shape)} are used.")
    return keras.Model(graph.inputs[0], logits, name=model.name)


def require_one_input(model: Any, who: str) -> None:
    """Raises `InputError` if a model takes more than one input."""
    graph = graph_of(model)
    if graph is not None and len(graph.inputs) != 1:
        names = [tensor.name for tensor in graph.inputs]
        raise input_error(
            f"The {who} takes several inputs",
            expected="one input, the images",
            received=f"inputs={', '.join(names)}",
            remedy="Build a model that takes only the images, with the others as constants inside it",
        )


def input_names(model: Any) -> tuple[str, ...]:
    """The names under which a model's images may be given."""
    graph = graph_of(model)
    if graph is None:
        return ()
    keys = tuple(graph.input) if isinstance(graph.input, Mapping) else ()
    layers = (compat.producer(tensor)[0].name for tensor in graph.inputs)  # the name in summary()
    return tuple(dict.fromkeys([*keys, *layers, *(tensor.name for tensor in graph.inputs)]))


def call(model: Any, images: Any, **options: Any) -> Any:
    """The model's output for images, given in the dict of one entry that some models take."""
    graph = graph_of(model) if isinstance(model, keras.Model) else None
    if graph is not None and isinstance(graph.input, Mapping):
        images = dict.fromkeys(graph.input, images)
    return model(images, **options)


def _only(value, who):
    """The only entry of a dict or list, or the one named logits; any other value itself."""
    while isinstance(value, (Mapping, list, tuple)):
        if isinstance(value, Mapping) and LOGITS in value:
            value = value[LOGITS]
        elif len(value) == 1:
            (value,) = value.values() if isinstance(value, Mapping) else value
        else:
            raise _several(value, who)
    return value


def _several(value, who) -> InputError:
    names = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"a list of {len(value)}"
    return input_error(
        f"The {who} returns several outputs",
        expected=f"one output [batch, classes], or a dict with an entry named {LOGITS}",
        received=f"outputs={names}",
        remedy="Choose one: keras.Model(model.input, model.output[...])",
    )
