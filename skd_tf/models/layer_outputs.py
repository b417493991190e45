"""What layers inside a model return: their shapes before it is called, and their values while it is."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from skd_tf.errors import did_you_mean, input_error
from skd_tf.models.frozen_layers import layer_names, layers_meant
from skd_tf.models.graph import calls_in

_here = threading.local()  # each replica is traced in its own thread
_patched: dict[Any, int] = {}  # {layer: how many contexts record it}
_patching = threading.Lock()


def network_of(model: Any) -> Any:
    """The network itself, inside a `ModelAdapter`."""
    return getattr(model, "network", model)


def output_shapes(model: Any) -> dict[str, tuple[int | None, ...]]:
    """{name: shape of its output} of the layers that a Functional or Sequential model calls once and that return a tensor.

    Args:
      model: any model; others have no such layers. The names are those of `frozen_layers.layer_names`.
    """
    network, outputs = network_of(model), dict[Any, list[Any]]()
    calls = calls_in(network)
    for call in calls:
        outputs.setdefault(call.operation, []).extend(call.output_tensors)
    names = layer_names(network, weightless=True) if calls else {}
    return {
        name: tuple(outputs[layer][0].shape)
        for name, layer in names.items()
        if len(outputs.get(layer, ())) == 1 and not isinstance(layer, keras.layers.InputLayer)
    }


def layer_called(model: Any, name: str, who: str) -> tuple[Any, tuple[int | None, ...], str]:
    """(layer, shape of its output, its name in `output_shapes`) of a name there, or of one of Keras' own.

    Args:
      model: any model.
      name: of a layer.
      who: names the model in the message.

    Raises:
      InputError: there is no such layer, or the name is ambiguous.
    """
    shapes, network = output_shapes(model), network_of(model)
    by_id = {id(layer): listed for listed, layer in layer_names(network, weightless=True).items()} if shapes else {}
    what = f"feature_pairs with the {who}'s layer {name}"
    for layer in layers_meant(network, name.__eq__, what, weightless=True) if shapes else ():
        if by_id[id(layer)] in shapes:
            return layer, shapes[by_id[id(layer)]], by_id[id(layer)]
    raise input_error(
        f"The {who} has no layer of this name that is called once and returns one tensor",
        expected=f"one of {', '.join([*shapes][:8])}, ..." if shapes else "a Functional or Sequential model",
        received=what,
        remedy=_remedy(name, shapes, network),
    )


def _remedy(name, shapes, network):
    if shapes:
        return did_you_mean(name, shapes, "See model.summary(), or --list_layers, for all names")
    subclassed = isinstance(network, keras.Model)
    return "Make it with keras.Model(inputs, outputs)" if subclassed else "Use its .keras file"


@contextlib.contextmanager
def recorded(layers: Sequence[Any]) -> Iterator[list[Any]]:
    """Inside this context, what the layers return is recorded while a model that contains them is called.

    Yields:
      A list with one entry per layer, filled when it has been called.
    """
    found: list[Any] = [None] * len(layers)
    places = {layer: [i for i, other in enumerate(layers) if other is layer] for layer in layers}

    def record(layer, outputs):
        for place in places.get(layer, ()):
            if found[place] is not None:
                raise input_error(
                    "A layer whose output is compared is called several times",
                    expected="one call per image",
                    received=f"feature_pairs with the layer {layer.name}",
                    remedy="Choose another layer",
                )
            found[place] = outputs

    before = getattr(_here, "records", ())
    with _patching:
        for layer in places:
            if layer not in _patched:
                _patch(layer)
            _patched[layer] = _patched.get(layer, 0) + 1
    _here.records = (*before, record)
    try:
        yield found
    finally:
        _here.records = before
        with _patching:
            for layer in places:
                _patched[layer] -= 1
                if not _patched[layer]:
                    del _patched[layer], vars(layer)["call"]


def _patch(layer):
    call = layer.call

    def recording(*arguments, **options):
        outputs = call(*arguments, **options)
        for record in getattr(_here, "records", ()):
            record(layer, outputs)
        return outputs

    vars(layer)["call"] = recording  # on this layer alone, and unseen by Keras' tracking of attributes
