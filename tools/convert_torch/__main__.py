"""A teacher from a PyTorch checkpoint: state dict in, `.keras` file of stock layers out, normalisation inside.

    python -m tools.convert_torch --arch=resnet56 --in=resnet56.pth --out=teacher.keras

Reads what akamaster's CIFAR ResNets, RepDistiller, mdistiller and torchvision save. The tensors tell the number of classes,
the channels of the images and, in CIFAR ResNets, the kind of shortcut: without tensors in it, it is option A's.

Unless given, --mean, --std and --input_size are those of the training code that the checkpoint looks to be from:

    CIFAR ResNets without tensors in their shortcuts  akamaster                  ImageNet's mean and std   32
    the other networks for CIFAR                      RepDistiller, mdistiller   CIFAR-100's mean and std  32
    resnet18, 34, 50, 101, 152                        torchvision                ImageNet's mean and std   224

A network trained on pixels in [0, 1] without more has --mean=0,0,0 --std=1,1,1.
"""

import pathlib

import numpy as np
from absl import flags

from skd_tf.config import app
from skd_tf.errors import InputError
from tools.convert_torch import layer_names, state_dict


def define(flag_values):
    default = "unless given, that of the checkpoint's source (akamaster, RepDistiller, torchvision), which is printed"
    values = f"of pixels in [0, 1], such as 0.485,0.456,0.406; {default}"
    flags.DEFINE_string("arch", None, f"the network: {', '.join(layer_names.FAMILIES)}", flag_values=flag_values)
    flags.DEFINE_string("in", None, "state dict: a file of torch.save, or a .npz", flag_values=flag_values)
    flags.DEFINE_string("out", None, ".keras file to write", flag_values=flag_values)
    flags.DEFINE_string("mean", None, f"mean a channel {values}", flag_values=flag_values)
    flags.DEFINE_string("std", None, f"standard deviation a channel {values}", flag_values=flag_values)
    flags.DEFINE_integer(
        "input_size",
        None,
        f"height and width of the images, in pixels; {default}",
        lower_bound=1,
        flag_values=flag_values,
    )


def main(flag_values):
    from skd_tf.runtime.console import say, warn

    arch, path, output = flag_values.arch, pathlib.Path(flag_values["in"].value), pathlib.Path(flag_values.out)
    _check(arch, output)
    mean, std = _normalisation(flag_values.mean, flag_values.std)
    tensors = state_dict.read(path)

    source = layer_names.source_of(layer_names.FAMILIES[arch], tensors)
    size = flag_values.input_size or source.input_size
    model = convert(tensors, arch, mean=mean or source.mean, std=std or source.std, input_size=size)
    model.save(output)

    classes, given = model.output_shape[-1], mean is not None
    if not given and classes != source.num_classes:
        warn(
            f"the mean and std of {source.name} are for {source.num_classes} classes, this network has {classes}: "
            "give --mean and --std if it was trained on other images."
        )
    counters = sum(map(_is_counter, tensors))
    plain = layer_names.has_plain_shortcuts(layer_names.FAMILIES[arch], tensors)
    say(f"{arch}{', shortcuts without weights' if plain else ''}: images {'x'.join(map(str, model.input_shape[1:]))}")
    say(f"  {classes} classes, {len(tensors) - counters} tensors used, {counters} num_batches_tracked ignored")
    say(f"  mean {_listed(mean or source.mean)}, std {_listed(std or source.std)}, {'given' if given else source.name}")
    say(f"Written: {output}")


def convert(tensors, arch, *, mean, std, input_size):
    """The network `arch` with a checkpoint's weights.

    Args:
      tensors: {name: array} as `torch_file.read` gives it; kernels `[out, in, height, width]`.
      arch: a key of `torch_names.FAMILIES`, which is also the model's name.
      mean, std: one number a channel, of pixels in [0, 1].
      input_size: height and width of the images, in pixels.

    Returns:
      keras.Model of stock layers, float32: raw pixels `[batch, input_size, input_size, channels]` to logits
      `[batch, classes]`.

    Raises:
      InputError: tensors that the network lacks, that are missing or of another shape; all of them are named.
    """
    from skd_tf import networks
    from skd_tf.models import deployable

    family = layer_names.FAMILIES[arch]
    options = {"shortcut": "pad"} if layer_names.has_plain_shortcuts(family, tensors) else {}
    channels = _size(tensors, family, family.stem, axis=1, rank=4)
    classes = _size(tensors, family, "logits", axis=0, rank=2)
    shape = (input_size, input_size, channels)
    network = networks.build(arch, input_shape=shape, num_classes=classes, mean=mean, std=std, **options)
    model = deployable.stock_copy(network)
    fill(model, tensors)
    return model


def fill(model, tensors):
    """Sets all weights of a network to a checkpoint's; the model's name says which names these have.

    Raises:
      InputError: as in `convert`; no weight has changed then.
    """
    expected = _variables(model, layer_names.FAMILIES[model.name], tensors)
    _check_tensors(expected, tensors, model.name)
    for name, parts in expected.items():
        for array, (variable, axes) in zip(np.split(tensors[name], len(parts)), parts, strict=True):
            variable.assign(array.transpose(axes))


def _variables(model, family, names):
    """PyTorch's name -> [(Keras variable, axes)], whose values, axes undone, lie one after another along axis 0."""
    import keras

    kernel_axes = {
        keras.layers.Conv2D: (2, 3, 1, 0),
        keras.layers.DepthwiseConv2D: (2, 3, 0, 1),
        keras.layers.Dense: (1, 0),
    }
    suffixes = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
    suffixes |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    variables = {}
    for layer in sorted(model.layers, key=lambda layer: layer.name):  # the groups of a convolution in their order
        for variable in layer.weights:
            name = f"{layer_names.module_name(family, layer.name, names)}.{suffixes[variable.name]}"
            axes = kernel_axes[type(layer)] if variable.name == "kernel" else (0,)
            variables.setdefault(name, []).append((variable, axes))
    return variables


def _shape(parts):
    """The shape in PyTorch of what `_variables` lists under one name."""
    shapes = [[variable.shape[axes.index(axis)] for axis in range(len(axes))] for variable, axes in parts]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _check_tensors(expected, tensors, arch):
    shapes = {name: _shape(parts) for name, parts in expected.items()}
    kinds = {
        "missing": [f"{name} {_listed(shape)}" for name, shape in shapes.items() if name not in tensors],
        "unknown": [
            f"{name} {_listed(tensor.shape)}"
            for name, tensor in tensors.items()
            if name not in shapes and not _is_counter(name)
        ],
        "of another shape": [
            f"{name} {_listed(tensors[name].shape)} not {_listed(shape)}"
            for name, shape in shapes.items()
            if name in tensors and tensors[name].shape != shape
        ],
    }
    found = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in kinds.items() if names]
    if found:
        raise InputError(
            f"The tensors are not those of {arch}. Expected {len(shapes)} tensors, each of its shape. "
            f"Received {'; '.join(found)}. Check --arch."
        )


def _size(tensors, family, layer_name, *, axis, rank):
    name = f"{layer_names.module_name(family, layer_name, tensors)}.weight"
    if name not in tensors or tensors[name].ndim != rank:
        received = _listed(tensors[name].shape) if name in tensors else f"{', '.join(tensors)}"
        raise InputError(
            f"No {name} in the checkpoint. Expected one of {rank} axes. Received {received}. Check --arch."
        )
    return tensors[name].shape[axis]


def _check(arch, output):
    if arch not in layer_names.FAMILIES:
        raise InputError(
            f"Unknown network. Expected one of {', '.join(layer_names.FAMILIES)}. Received --arch={arch}. "
            "Choose a listed one."
        )
    if output.suffix != ".keras" or not output.parent.is_dir():
        raise InputError(
            f"No place for the output. Expected a .keras file in an existing folder. Received --out={output}. Change --out."
        )


def _normalisation(*texts):
    """The numbers of --mean and --std, or two Nones."""
    if texts == (None, None):
        return None, None
    try:
        mean, std = ([float(part) for part in text.split(",")] for text in texts)
        valid = all(0 <= m <= 1 for m in mean) and all(0 < s <= 1 for s in std)
    except (AttributeError, ValueError):
        valid = False
    if not valid:
        raise InputError(
            "Wrong normalisation. Expected --mean and --std as numbers in [0, 1], one a channel, such as 0.485,0.456,0.406. "
            f"Received --mean={texts[0]}, --std={texts[1]}. Divide by 255 what is in pixel values."
        )
    return mean, std


def _is_counter(name):
    """BatchNorm's count of its training steps, which no prediction depends on."""
    return name.endswith(".num_batches_tracked")


def _listed(numbers):
    return ",".join(map(str, numbers))


def cli_main():
    app.run(
        main,
        description="Turns a PyTorch state dict into a teacher: a .keras file of stock layers, normalisation inside.",
        define=define,
        required=("arch", "in", "out"),
    )


if __name__ == "__main__":
    cli_main()
