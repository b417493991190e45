"""Functional and Sequential models as graphs of layers: layers exchanged, weights copied."""

import keras


def exchange_layers(model, exchange):
    """A copy of a graph of layers with `exchange(layer)` in the place of each layer and operation, graphs inside included.

    Returns:
      The copy, and {layer: what stands in its place}. No weight is copied.
    """
    copies = {}  # what several graphs share stays shared

    def copy_of(layer):
        if layer not in copies:
            copies[layer] = exchange(layer) if graph_of(layer) is None else clone(layer)
        return copies[layer]

    def clone(graph):
        options = {} if isinstance(graph, keras.Sequential) else {"call_function": call}
        return keras.models.clone_model(graph, clone_function=copy_of, **options)

    def call(layer, *arguments, **options):
        if isinstance(layer, keras.layers.Identity):  # takes none of what a BatchNorm was called with
            options = {name: value for name, value in options.items() if name not in ("mask", "training")}
        return layer(*arguments, **options)

    return copy_of(model), {layer: copy for layer, copy in copies.items() if graph_of(layer) is None}


def copy_state(layer, copy):
    """Copies a layer's weights, and what it derives from them at loading, as an adapted Normalization does."""
    if not isinstance(layer, keras.layers.Layer):
        return  # a bare operation
    for one, other in zip(layer._flatten_layers(), copy._flatten_layers(), strict=True):
        store = {}
        one.save_own_variables(store)
        other.load_own_variables(store)


def graph_of(model):
    """The Functional graph that a model is; None for a layer, and for a model with a `call` of its own."""
    functional = keras.src.models.functional.Functional
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    return model if isinstance(model, functional) and type(model).call is functional.call else None
