"""Functional and Sequential models as graphs of layers: replace layers and copy their weights."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import keras

from skd_tf.runtime import compat


def replace_layers(
    model: keras.Model,
    replacement: Callable[[Any], Any],
    fresh: Collection[Any] = (),
    *,
    training: bool | None = None,
    whole: Callable[[Any], bool] = lambda graph: False,
) -> tuple[keras.Model, dict[Any, Any]]:
    """Copies a graph with `replacement(layer)` in place of each layer and operation, also in nested graphs.

    Args:
      model: Functional or Sequential; it is left unchanged.
      replacement: called once per layer or operation; returns its replacement.
      fresh: layers whose weights are not copied to their replacements.
      training: the mode of each call in the copy whose caller does not choose one; None keeps those of the model.
      whole: of a graph, whether `replacement` is called once for it, and not for the layers inside.

    Returns:
      The copy, and {layer: its replacement}.
    """
    copies: dict[Any, Any] = {}  # a layer that several graphs share stays shared

    def copy_of(layer):
        if layer not in copies:
            is_layer = graph_of(layer) is None or whole(layer)
            copies[layer] = replacement(layer) if is_layer else clone(layer)
        return copies[layer]

    def clone(graph):
        options = {} if isinstance(graph, keras.Sequential) else {"call_function": call}
        return keras.models.clone_model(graph, clone_function=copy_of, **options)

    def call(layer, *arguments, **options):
        if isinstance(layer, keras.layers.Identity):  # in place of a BatchNorm, whose arguments it does not take
            options = {name: value for name, value in options.items() if name not in ("mask", "training")}
        elif training is not None and takes_training(layer):
            options = options | {"training": training}
        return layer(*arguments, **options)

    copy = copy_of(model)
    copies = {layer: new for layer, new in copies.items() if graph_of(layer) is None or whole(layer)}
    for layer, new in copies.items():
        if layer not in fresh:
            _copy_state(layer, new)
    return copy, copies


def rebuilt(layer: Any, kind: Any = None, **changes: Any) -> Any:
    """A new layer or operation with the settings of another.

    Args:
      layer: whose settings are taken.
      kind: class of the new layer; by default the same.
      **changes: settings that replace those of the layer.
    """
    kind, config = kind or type(layer), layer.get_config() | changes
    try:
        return kind.from_config(config)
    except TypeError:
        # Layers of KerasHub also describe what they compute from their settings, and do not take it.
        taken = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
        if taken.issuperset(config):
            raise
        return kind.from_config({name: value for name, value in config.items() if name in taken})


def _copy_state(layer, copy):
    """Copies a layer's weights, and what it derives from them at loading, as an adapted Normalization does."""
    if not isinstance(layer, keras.layers.Layer):
        return  # a bare operation
    if graph_of(layer) is not None:  # its layers may come in another order
        theirs = {variable.path: variable for variable in layer.variables}
        for variable in copy.variables:
            variable.assign(theirs.pop(variable.path))
        assert not theirs, theirs.keys()
        return
    # An activation that is a layer may be left out of the copy.
    parts = ([part for part in compat.layers_of(which) if part.variables] for which in (layer, copy))
    for one, other in zip(*parts, strict=True):
        store = {}
        one.save_own_variables(store)
        other.load_own_variables(store)


def calls_in(model: Any) -> list[Any]:
    """The calls of layers and operations in a graph and in the graphs nested in it, as of `compat.graph_nodes`."""
    graphs, calls = [graph for graph in [graph_of(model)] if graph], []
    for graph in graphs:  # grows by the nested graphs
        for call in compat.graph_nodes(graph):
            calls.append(call)
            inner = graph_of(call.operation)
            if inner and inner not in graphs:
                graphs.append(inner)
    return calls


def graph_of(model: Any) -> Any:
    """The Functional graph of a model; None for a layer, and for a model with its own `call`."""
    functional: Any = compat.functional_class()
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return compat.sequential_graph(model)
    return model if isinstance(model, functional) and type(model).call is functional.call else None


def takes_training(layer: Any) -> bool:
    """Whether a layer's or operation's call has an argument `training`."""
    return "training" in inspect.signature(layer.call).parameters
