"""Copies the tensors of a PyTorch checkpoint into a network of skd_tf, made of stock Keras layers."""

from collections.abc import Iterable, Sequence

import keras
import numpy as np

from skd_tf import networks
from skd_tf.errors import input_error
from skd_tf.models import deployable
from tools.convert_torch import layer_names

_KERNEL_AXES = {
    keras.layers.Conv2D: (2, 3, 1, 0),
    keras.layers.DepthwiseConv2D: (2, 3, 0, 1),
    keras.layers.Dense: (1, 0),
}
_SUFFIXES = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
_SUFFIXES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}


def convert(
    tensors: dict[str, np.ndarray], arch: str, *, mean: Sequence[float], std: Sequence[float], input_size: int
) -> keras.Model:
    """Builds the network `arch` with the weights of a checkpoint.

    Args:
      tensors: {name: array}, as `state_dict.read` returns it; kernels are `[out, in, height, width]`.
      arch: a key of `layer_names.FAMILIES`; also becomes the model's name.
      mean, std: one number per channel, for pixels in [0, 1].
      input_size: height and width of the images, in pixels.

    Returns:
      keras.Model of stock layers, float32: raw pixels `[batch, input_size, input_size, channels]` to logits
      `[batch, classes]`.

    Raises:
      InputError: tensors are missing, unknown or of another shape; the message names all of them.
    """
    family = layer_names.FAMILIES[arch]
    options = {"shortcut": "pad"} if layer_names.has_plain_shortcuts(family, tensors) else {}
    channels = _size(tensors, family, family.stem, axis=1, rank=4)
    classes = _size(tensors, family, "logits", axis=0, rank=2)
    shape = (input_size, input_size, channels)
    network = networks.build(arch, input_shape=shape, num_classes=classes, mean=mean, std=std, **options)
    model = deployable.stock_copy(network)
    fill(model, tensors)
    return model


def fill(model: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Sets every weight of a network from a checkpoint; `model.name` selects the naming scheme.

    Raises:
      InputError: as in `convert`; no weight has changed then.
    """
    expected = _variables(model, layer_names.FAMILIES[model.name], tensors)
    _check_tensors({name: _shape(parts) for name, parts in expected.items()}, tensors, model.name)
    for name, parts in expected.items():
        for array, (variable, axes) in zip(np.split(tensors[name], len(parts)), parts, strict=True):
            variable.assign(array.transpose(axes))


def _variables(model, family, names):
    """PyTorch name -> [(Keras variable, axes)]: the tensor is split along axis 0, then transposed by `axes`."""
    variables = {}
    for layer in sorted(model.layers, key=lambda layer: layer.name):  # keeps the groups of a convolution in order
        for variable in layer.weights:
            name = f"{layer_names.module_name(family, layer.name, names)}.{_SUFFIXES[variable.name]}"
            axes = _KERNEL_AXES[type(layer)] if variable.name == "kernel" else (0,)
            variables.setdefault(name, []).append((variable, axes))
    return variables


def _shape(parts):
    """The shape of the PyTorch tensor that `_variables` splits into these parts."""
    shapes = [[variable.shape[axes.index(axis)] for axis in range(len(axes))] for variable, axes in parts]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _check_tensors(shapes, tensors, arch):
    found = {name: tensor.shape for name, tensor in tensors.items() if not is_counter(name)}
    kinds = {
        "missing": [f"{name} {listed(shape)}" for name, shape in shapes.items() if name not in found],
        "unknown": [f"{name} {listed(shape)}" for name, shape in found.items() if name not in shapes],
        "of another shape": [
            f"{name} {listed(found[name])} not {listed(shape)}"
            for name, shape in shapes.items()
            if found.get(name, shape) != shape
        ],
    }
    faults = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise input_error(
            f"The tensors do not fit {arch}",
            expected=f"{len(shapes)} tensors, each of its shape",
            received="; ".join(faults),
            remedy="Check --arch",
        )


def _size(tensors, family, layer_name, *, axis, rank):
    name = f"{layer_names.module_name(family, layer_name, tensors)}.weight"
    if name not in tensors or tensors[name].ndim != rank:
        raise input_error(
            f"No {name} in the checkpoint",
            expected=f"a tensor of {rank} axes",
            received=listed(tensors[name].shape) if name in tensors else ", ".join(tensors),
            remedy="Check --arch",
        )
    return tensors[name].shape[axis]


def is_counter(name: str) -> bool:
    """Whether a tensor is the step counter of a BatchNorm, which does not affect predictions."""
    return name.endswith(".num_batches_tracked")


def listed(numbers: Iterable[float]) -> str:
    """Numbers as they appear on a command line: 0.5,0.25."""
    return ",".join(map(str, numbers))
