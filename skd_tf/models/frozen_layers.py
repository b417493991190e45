"""The names of a model's layers, and layers that training leaves as they are."""

import collections
import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras

from skd_tf.errors import flag_error, input_error
from skd_tf.runtime import compat

_numbered_only = contextvars.ContextVar("numbered_only", default=False)


def layer_names(model: keras.Model, *, weightless: bool = False) -> dict[str, keras.layers.Layer]:
    """{name: layer} of all layers that have weights of their own, in the order in which they were built.

    Keras numbers a layer without a name by how many the process has built before it. Here it is numbered within its
    model, so that the same model always has the same names.

    Args:
      model: any model.
      weightless: whether layers without weights are listed too.
    """
    found: dict[str, keras.layers.Layer] = {}
    counts: collections.Counter = collections.Counter()
    for layer in compat.layers_of(model, include_self=False):
        kind = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)  # as Keras does it
        kind = re.sub("([a-z])([A-Z])", r"\1_\2", kind).lower()
        name = layer.name
        replaced = re.fullmatch(r"(\w+_)?batch_normalization(?=_\d+$|$).*", name)
        if replaced and isinstance(layer, (keras.layers.BatchNormalization, keras.layers.Identity)):
            kind = re.sub(r"_\d+$", "", name)  # folded or synchronized, it keeps its name
        if re.fullmatch(rf"{kind}(_\d+)?", name):
            name = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
        while name in found:
            name += "'"
        found[name] = layer
    return {
        name: layer
        for name, layer in found.items()
        if weightless or layer._trainable_variables or layer._non_trainable_variables
    }


@contextlib.contextmanager
def numbered_in_the_model() -> Iterator[None]:
    """Inside this context, `layers_meant` knows the names of `layer_names` alone, as settings of a run have them."""
    before = _numbered_only.set(True)
    try:
        yield
    finally:
        _numbered_only.reset(before)


def layers_meant(
    model: keras.Model, matches: Callable[[str], Any], what: str, *, weightless: bool = False
) -> list[keras.layers.Layer]:
    """The layers of a model whose names match, by `layer_names`; or by Keras' own names of those numbered otherwise there.

    Args:
      model: any model.
      matches: whether a name does.
      what: the setting with the name, for the message.
      weightless: whether layers without weights count too.

    Raises:
      InputError: the names of `layer_names` mean other layers than Keras' own.
    """
    named = layer_names(model, weightless=weightless)
    meant = [layer for name, layer in named.items() if matches(name)]
    renumbered = {name: layer for name, layer in named.items() if name.rstrip("'") != layer.name}
    own = [] if _numbered_only.get() else [layer for layer in renumbered.values() if matches(layer.name)]
    if meant and not {*map(id, own)} <= {*map(id, meant)}:
        by_id = {id(layer): name for name, layer in named.items()}
        here, there = (", ".join(by_id[id(layer)] for layer in found) for found in (meant, own))
        raise input_error(
            "The name means different layers: Keras numbers layers by what the process has built, and skd_tf within the model",
            expected="layers with names of your own, such as Conv2D(..., name='block1')",
            received=f"{what}, which is {here} counted within the model, but {there} by Keras' names",
            remedy="Name the layers, or call keras.utils.clear_session() before each model is built",
        )
    return meant or own


def thaw(model: keras.Model, pattern: str) -> None:
    """Makes them trainable again, after training: so their weights count as parameters."""
    _set_trainable(layer_names(model), pattern, True)


def _set_trainable(names, pattern, value):
    layers = [layer for name, layer in names.items() if re.search(pattern, name)]
    for layer in layers:
        layer.trainable = value
    return layers


def freeze(model: keras.Model, pattern: str) -> list[keras.layers.Layer]:
    """Makes the layers whose names contain a match of a regular expression untrainable; returns them.

    BatchNorm among them uses its moving statistics, and does not change them.

    Raises:
      InputError: no layer matches, or no trainable one is left.
    """
    names = layer_names(model)
    frozen = _set_trainable(names, pattern, False)
    if not frozen or not model.trainable_variables:
        problem = "leaves nothing to train" if frozen else "matches no layer of the student"
        expected = f"some of {', '.join([*names][:8])}, ..."
        raise flag_error("freeze", pattern, problem, expected, "See --list_layers for all names")
    return frozen
