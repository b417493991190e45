"""The end of a network: remove its softmax, or replace its head with one of another size."""

import re
from collections.abc import Iterator
from typing import Any

import keras

from skd_tf.errors import input_error
from skd_tf.models.graph import graph_of, rebuilt, replace_layers
from skd_tf.runtime import compat

# Layers without weights that may follow the head; they keep the number of values.
_AFTER_HEAD = (
    keras.layers.Activation,
    keras.layers.Softmax,
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.Rescaling,
    keras.layers.UnitNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Flatten,
    keras.layers.Reshape,
)

# Layers without weights that change no value, so that an activation before them is still the last one.
_CHANGES_NOTHING = (keras.layers.Identity, keras.layers.Dropout, keras.layers.Flatten, keras.layers.Reshape)
_LINEAR = ("linear", "log_softmax")  # softmax(log_softmax(z)) is softmax(z)


def _operations_from_output(model: Any) -> Iterator[Any]:
    """The operations of a graph with one output, from the output back through single inputs, also in nested graphs."""
    graph = graph_of(model)
    tensor = graph.outputs[0] if graph is not None and len(graph.outputs) == 1 else None
    while tensor is not None:
        operation, inputs = compat.producer(tensor)
        inner = graph_of(operation)
        if inner is not None:
            tensor = inner.outputs[0] if len(inner.outputs) == 1 else None
            continue
        yield operation
        tensor = inputs[0] if len(inputs) == 1 else None


def last_activation(model: Any) -> str:
    """The name of the last activation of a graph with one output; "linear" also if the model cannot be inspected."""
    for operation in _operations_from_output(model):
        name = _activation_name(operation)
        if name != "linear":
            return name
        if not isinstance(operation, (*_CHANGES_NOTHING, keras.layers.Activation)):
            break
    return "linear"


def _activation_name(operation):
    if isinstance(operation, keras.layers.Layer):
        kinds = keras.layers.Softmax, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.ELU
        if isinstance(operation, kinds):
            return type(operation).__name__.lower()
        activation = getattr(operation, "activation", None)
        if isinstance(activation, keras.layers.Layer):
            return _activation_name(activation)
        name = "linear" if activation is None else getattr(activation, "__name__", type(activation).__name__)
        return name.removesuffix("_v2")  # tf.nn.softmax
    # A bare operation of keras.ops: its class HardSigmoid is the function hard_sigmoid.
    name = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", type(operation).__name__).lower()
    return name if hasattr(keras.activations, name) else "linear"


def require_raw_logits(model: Any, who: str, *, softmax: bool = True) -> bool:
    """Checks that a model ends in raw logits, or in a softmax if that is allowed.

    Args:
      model: any model; one that is neither Functional nor Sequential passes.
      who: names it in the message.
      softmax: whether a softmax is allowed.

    Returns:
      Whether it ends in a softmax.

    Raises:
      InputError: it ends in another activation.
    """
    name = last_activation(model)
    if name in _LINEAR or (softmax and name == "softmax"):
        return name == "softmax"
    if name == "softmax" and without_softmax(model)[1]:
        remedy = "Build it without (classifier_activation=None), or pass skd_tf.models.heads.without_softmax(model)[0]"
    elif name == "softmax":
        remedy = "Build it without: keras.Model(model.input, the tensor before the softmax)"
    else:
        remedy = "Remove it; skd_tf has no loss for several labels per image (multi-label)"
    raise input_error(
        f"The {who} ends in an activation",
        expected="raw logits, one class per image",
        received=f"activation={name}",
        remedy=remedy,
    )


def without_softmax(model: keras.Model) -> tuple[keras.Model, bool]:
    """Removes a final softmax: a layer, or the activation of the last one. Exact, where log p loses what p rounds away.

    Returns:
      The model that returns raw logits, and whether a softmax was found; without one, the model itself.
    """
    softmax = [layer for layer in last_layers(model) if _is_softmax(layer)]
    if not softmax:
        return model, False

    def replacement(layer):
        if layer not in softmax:
            return rebuilt(layer)
        if hasattr(layer, "kernel"):
            return rebuilt(layer, activation="linear")
        return keras.layers.Identity(name=layer.name)

    return replace_layers(model, replacement)[0], True


def with_new_head(model: keras.Model, num_classes: int, seed: int) -> tuple[keras.Model, str] | None:
    """Replaces the last Dense layer with a new one `num_classes` wide.

    Returns:
      The model and the layer's name; None if the model does not end in a Dense layer.
    """
    layers = last_layers(model)
    head = next((layer for layer in layers if isinstance(layer, keras.layers.Dense)), None)
    if head is None:
        return None

    def replacement(layer):
        if layer in layers and isinstance(layer, keras.layers.Reshape):  # it moves the logits alone
            sizes = [num_classes if size == head.units else size for size in layer.target_shape]
            return rebuilt(layer, target_shape=sizes)
        if layer is not head:
            return rebuilt(layer)
        # Initialised as torch.nn.Linear is, like all networks here.
        kernel = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=seed)
        return rebuilt(layer, units=num_classes, bias_initializer="zeros", kernel_initializer=kernel)

    return replace_layers(model, replacement, fresh=[head])[0], head.name


def _is_softmax(layer):
    return _activation_name(layer) == "softmax"


def last_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """The last layers of a graph, from the output back to the first one with weights, also in nested graphs."""
    layers: list[keras.layers.Layer] = []
    for operation in _operations_from_output(model):
        if not isinstance(operation, keras.layers.Layer):
            break
        layers.append(operation)
        if not isinstance(operation, _AFTER_HEAD) or operation.weights:
            break
    return layers
