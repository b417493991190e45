"""The names of a model's layers, and layers that training leaves as they are."""

import collections
import re

import keras

from skd_tf.errors import flag_error
from skd_tf.runtime import compat


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
