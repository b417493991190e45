"""NETWORKS: name -> builder and its arguments. `build` makes a network from an entry."""

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras

from skd_tf.errors import input_error
from skd_tf.networks import efficientnet_lite, mobilenet, resnet, shufflenet, small_cnn, vgg, wide_resnet
from skd_tf.networks.layers import LayerMaker, logits
from skd_tf.runtime import keras_state

_CIFAR_WIDTHS = (16, 16, 32, 64)
_CIFAR_X4_WIDTHS = (32, 64, 128, 256)


class Network(NamedTuple):
    """An entry of NETWORKS.

    Attributes:
      builder: `(make, images, **arguments)` -> features `[batch, height, width, channels]`. A keyword-only parameter
        that is not in `arguments` is an option of `build`.
      arguments: keyword arguments of the builder.
      min_size: smallest height and width of the images, in pixels.
    """

    builder: Callable[..., Any]
    arguments: dict[str, Any]
    min_size: int = 1


NETWORKS = {
    "cnn_2": Network(small_cnn.small_cnn, {"width": 2}),
    "cnn_4": Network(small_cnn.small_cnn, {"width": 4}),
    "cnn_8": Network(small_cnn.small_cnn, {"width": 8}),
    "cnn_16": Network(small_cnn.small_cnn, {"width": 16}),
    "cnn_8_16_32": Network(small_cnn.small_cnn, {"width": 8, "stages": 3}),
    "resnet8": Network(resnet.cifar_resnet, {"depth": 8, "widths": _CIFAR_WIDTHS}),
    "resnet14": Network(resnet.cifar_resnet, {"depth": 14, "widths": _CIFAR_WIDTHS}),
    "resnet20": Network(resnet.cifar_resnet, {"depth": 20, "widths": _CIFAR_WIDTHS}),
    "resnet32": Network(resnet.cifar_resnet, {"depth": 32, "widths": _CIFAR_WIDTHS}),
    "resnet44": Network(resnet.cifar_resnet, {"depth": 44, "widths": _CIFAR_WIDTHS}),
    "resnet56": Network(resnet.cifar_resnet, {"depth": 56, "widths": _CIFAR_WIDTHS}),
    "resnet110": Network(resnet.cifar_resnet, {"depth": 110, "widths": _CIFAR_WIDTHS}),
    "resnet8x4": Network(resnet.cifar_resnet, {"depth": 8, "widths": _CIFAR_X4_WIDTHS}),
    "resnet32x4": Network(resnet.cifar_resnet, {"depth": 32, "widths": _CIFAR_X4_WIDTHS}),
    "wrn_16_1": Network(wide_resnet.wide_resnet, {"depth": 16, "widen": 1}),
    "wrn_16_2": Network(wide_resnet.wide_resnet, {"depth": 16, "widen": 2}),
    "wrn_40_1": Network(wide_resnet.wide_resnet, {"depth": 40, "widen": 1}),
    "wrn_40_2": Network(wide_resnet.wide_resnet, {"depth": 40, "widen": 2}),
    "vgg8": Network(vgg.vgg, {"convolutions": 1}, min_size=8),
    "vgg13": Network(vgg.vgg, {"convolutions": 2}, min_size=8),
    "mobilenet_v2": Network(mobilenet.mobilenet_v2, {"width": 0.5}),
    "shufflenet_v1": Network(shufflenet.shufflenet_v1, {}),
    "shufflenet_v2": Network(shufflenet.shufflenet_v2, {}),
    "cifar_resnet50": Network(resnet.bottleneck_resnet, {"blocks": (3, 4, 6, 3), "stem": resnet.cifar_stem}),
    "resnet18": Network(resnet.basic_resnet, {"blocks": (2, 2, 2, 2), "stem": resnet.imagenet_stem}),
    "resnet34": Network(resnet.basic_resnet, {"blocks": (3, 4, 6, 3), "stem": resnet.imagenet_stem}),
    "resnet50": Network(resnet.bottleneck_resnet, {"blocks": (3, 4, 6, 3), "stem": resnet.imagenet_stem}),
    "resnet101": Network(resnet.bottleneck_resnet, {"blocks": (3, 4, 23, 3), "stem": resnet.imagenet_stem}),
    "resnet152": Network(resnet.bottleneck_resnet, {"blocks": (3, 8, 36, 3), "stem": resnet.imagenet_stem}),
    "efficientnet_lite0": Network(efficientnet_lite.efficientnet_lite, {"depth": 1.0}),
    "efficientnet_lite1": Network(efficientnet_lite.efficientnet_lite, {"depth": 1.1}),
}


def build(
    name: str,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    **options: Any,
) -> keras.Model:
    """The network `name` as a Functional Keras model: raw pixels in, raw logits out.

        logits = network((images / 255 - mean) / std)        or network(images), without mean and std

    Args:
      name: a key of NETWORKS; also the name of the model.
      input_shape: `(height, width, channels)` of the images; pixels are in [0, 255].
      num_classes: number of logits, at least 2.
      mean: mean of each channel, for pixels scaled to [0, 1]; give both mean and std, or neither.
      std: standard deviation of each channel, in the same units.
      seed: integer in [0, 2**32); the initial weights depend on nothing else.
      **options: `shortcut="pad"` gives CIFAR ResNets shortcuts without parameters. Other networks have no options.

    Returns:
      A model from float32 `[batch, height, width, channels]` to logits `[batch, num_classes]`. Under a mixed global
      dtype policy of Keras, the logits keep the variables' dtype, float32. `skd_tf.models.precision` sets the precision
      of every layer, including this one.

    Raises:
      InputError: a name, shape, number, normalisation or option that the network does not support; or Keras' global
        settings are not its defaults.

    Examples:
      >>> from skd_tf import networks
      >>> network = networks.build("resnet8", input_shape=(32, 32, 3), num_classes=100, seed=0)
      >>> network.name, network.output_shape, network.count_params()
      ('resnet8', (None, 100), 84564)
    """
    keras_state.require()
    network = _known_network(name)
    input_shape = _image_shape(name, network, input_shape)
    num_classes = _integer("num_classes", num_classes, 2, math.inf, "an integer of at least 2")
    seed = _integer("seed", seed, 0, 2**32 - 1, "an integer from 0 to 2**32 - 1")
    normalisation = _normalisation(mean, std, channels=input_shape[-1])
    _check_options(name, network, options)

    make = LayerMaker(seed)
    images = keras.Input(input_shape, dtype="float32", name="images")
    inputs = images
    if normalisation:
        # Always float32: bfloat16 cannot represent all 256 pixel values.
        inputs = keras.layers.Rescaling(**normalisation, dtype="float32", name="normalisation")(images)
    features = network.builder(make, inputs, **network.arguments, **options)
    return keras.Model(images, logits(make, features, num_classes), name=name)


def _known_network(name):
    if name not in NETWORKS:
        raise input_error(
            "Unknown network",
            expected=f"one of {', '.join(NETWORKS)}",
            received=f"name={name!r}",
            remedy="Choose one of these",
        )
    return NETWORKS[name]


def _image_shape(name, network, input_shape):
    try:
        shape = tuple(operator.index(size) for size in input_shape)
    except TypeError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise input_error(
            "The image shape is not valid",
            expected="three positive integers (height, width, channels)",
            received=f"input_shape={input_shape!r}",
            remedy="Leave out the batch axis",
        )
    if min(shape[:2]) < network.min_size:
        raise input_error(
            f"The images are too small for {name}",
            expected=f"height and width of at least {network.min_size} pixels",
            received=f"input_shape={shape}",
            remedy="Resize the images, or choose another network such as resnet8",
        )
    return shape


def _integer(parameter, value, smallest, largest, expected):
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not smallest <= number <= largest:
        raise input_error(
            f"{parameter} is not valid",
            expected=expected,
            received=f"{parameter}={value!r}",
            remedy=f"Change {parameter}",
        )
    return number


def _normalisation(mean, std, *, channels):
    """The arguments of keras.layers.Rescaling, x * scale + offset = (x / 255 - mean) / std."""
    if mean is None and std is None:
        return None
    for parameter, values in (("mean", mean), ("std", std)):
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            numbers = []
        positive = parameter == "mean" or all(number > 0 for number in numbers)
        if len(numbers) != channels or not all(map(math.isfinite, numbers)) or not positive:
            raise input_error(
                "The normalisation is not valid",
                expected=f"{channels} finite numbers, one per channel, positive for std",
                received=f"{parameter}={values!r}",
                remedy="Give mean and std for pixels in [0, 1], or neither",
            )
    pairs = [(float(m), float(s)) for m, s in zip(mean, std, strict=True)]
    return {"scale": [1 / (255 * s) for _, s in pairs], "offset": [-m / s for m, s in pairs]}


def _check_options(name, network, options):
    parameters = inspect.signature(network.builder).parameters.values()
    valid = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in network.arguments]
    expected = f"one of {', '.join(valid)}" if valid else "none"
    for option, value in options.items():
        if option not in valid:
            raise input_error(
                f"{name} has no such option", expected=expected, received=f"{option}={value!r}", remedy="Remove it"
            )
