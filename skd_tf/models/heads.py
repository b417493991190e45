"""The end of a network: its softmax taken off, its head exchanged for one of another size."""

import keras

from skd_tf.models.graph import copy_state, exchange_layers, graph_of

_SOFTMAX = keras.activations.softmax
# What may stand between the head and the output: keeps the number of values, and has no weights.
_PASSED = (
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


def without_softmax(model):
    """(the model with raw logits out, whether a softmax was taken off): exact, where log p would lose what p rounds away.

    A final softmax is a layer, or the activation of the last one. Where there is none that can be seen, the model itself.
    """
    softmax = [layer for layer in end_of(model) if _is_softmax(layer)]
    if not softmax:
        return model, False

    def exchange(layer):
        config = layer.get_config()
        if layer not in softmax:
            return type(layer).from_config(config)
        if hasattr(layer, "kernel"):
            return type(layer).from_config(config | {"activation": "linear"})
        return keras.layers.Identity(name=layer.name)

    return _exchanged(model, exchange), True


def with_head(model, num_classes, seed):
    """(the model with another last Dense layer `num_classes` wide, that layer's name), or None where it ends otherwise."""
    head = next((layer for layer in end_of(model) if isinstance(layer, keras.layers.Dense)), None)
    if head is None:
        return None

    def exchange(layer):
        config = layer.get_config()
        if layer is head:  # as torch.nn.Linear's, as in all networks here
            config |= {"units": num_classes, "bias_initializer": "zeros"}
            config["kernel_initializer"] = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=seed)
        return type(layer).from_config(config)

    return _exchanged(model, exchange, but=head), head.name


def _exchanged(model, exchange, but=None):
    copy, copies = exchange_layers(model, exchange)
    for layer, replacement in copies.items():
        if layer is not but and getattr(layer, "weights", None):
            copy_state(layer, replacement)
    return copy


def _is_softmax(layer):
    return isinstance(layer, keras.layers.Softmax) or getattr(layer, "activation", None) is _SOFTMAX


def end_of(model):
    """The last layers of a graph, from the output back to the first with weights; of graphs inside as well."""
    layers, graph = [], graph_of(model)
    tensor = graph.outputs[0] if graph is not None and len(graph.outputs) == 1 else None
    while tensor is not None:
        operation, node, _ = tensor._keras_history
        inner = graph_of(operation)
        if inner is not None:
            tensor = inner.outputs[0] if len(inner.outputs) == 1 else None
            continue
        if not isinstance(operation, keras.layers.Layer):
            break
        layers.append(operation)
        inputs = operation._inbound_nodes[node].input_tensors
        passed = isinstance(operation, _PASSED) and not operation.weights and len(inputs) == 1
        tensor = inputs[0] if passed else None
    return layers
