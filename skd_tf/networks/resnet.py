"""Residual networks with post-activation blocks: CIFAR's, ImageNet's, and ImageNet's with a CIFAR stem.

Layer names correspond to torchvision's: `layer2.0.conv1` is `stage2_block1_conv1`, `layer2.0.downsample.0` is
`stage2_block1_shortcut_conv`, and `layer2.0.downsample.1` is `stage2_block1_shortcut_bn`.
"""

from collections.abc import Callable, Sequence

import keras

from skd_tf.errors import input_error
from skd_tf.networks.layers import LayerMaker, Tensor, pad_channels, relu, zero_pad

_WIDTHS = (64, 128, 256, 512)  # of the four stages of the ImageNet networks


def cifar_resnet(
    make: LayerMaker, images: Tensor, *, depth: int, widths: Sequence[int], shortcut: str = "projection"
) -> Tensor:
    """He et al.'s network for CIFAR: three stages, each of (depth - 2) / 6 basic blocks.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`.
      depth: number of layers with weights on the longest path, 6n + 2.
      widths: channels of the stem and of the three stages.
      shortcut: "projection" (1x1 convolution and BatchNorm where the shape changes, as in RepDistiller and mdistiller)
        or "pad" (option A of the paper, as in akamaster's code: a stride-2 slice and zero channels, no parameters).

    Returns:
      Features `[batch, height / 4, width / 4, widths[3]]`.

    Reference: He et al. 2016, arXiv:1512.03385, section 4.2.
    """
    if shortcut not in _SHORTCUTS:
        raise input_error(
            "Unknown kind of shortcut",
            expected=f"one of {', '.join(_SHORTCUTS)}",
            received=f"shortcut={shortcut!r}",
            remedy="Choose one of these",
        )
    outputs = cifar_stem(make, images, widths[0])
    return _stages(make, outputs, _basic_block, widths[1:], [(depth - 2) // 6] * 3, _SHORTCUTS[shortcut])


def basic_resnet(make: LayerMaker, images: Tensor, *, blocks: Sequence[int], stem: Callable) -> Tensor:
    """ResNet-18 and -34: four stages of basic blocks, 64 to 512 channels (arXiv:1512.03385, table 1)."""
    return _stages(make, stem(make, images, 64), _basic_block, _WIDTHS, blocks, _projection_shortcut)


def bottleneck_resnet(make: LayerMaker, images: Tensor, *, blocks: Sequence[int], stem: Callable) -> Tensor:
    """ResNet-50, -101, -152: four stages of bottleneck blocks, 256 to 2048 channels, strides on the 3x3."""
    return _stages(make, stem(make, images, 64), _bottleneck_block, _WIDTHS, blocks, _projection_shortcut)


def cifar_stem(make: LayerMaker, images: Tensor, width: int) -> Tensor:
    return make.conv_bn(images, width, 3, name="stem")


def imagenet_stem(make: LayerMaker, images: Tensor, width: int) -> Tensor:
    outputs = make.conv_bn(images, width, 7, strides=2, name="stem")
    # PyTorch pads with -inf. After a ReLU, zeros give the same maximum.
    outputs = zero_pad(outputs, 1, name="stem_pool_padding")
    return keras.layers.MaxPooling2D(3, strides=2, name="stem_pool")(outputs)


def _basic_block(make, inputs, width, strides, shortcut, *, name):
    """relu(bn(conv3x3(relu(bn(conv3x3(x))))) + shortcut(x)), with the stride on the first convolution."""
    outputs = make.conv_bn(inputs, width, 3, strides=strides, name=name, number=1)
    outputs = make.conv_bn(outputs, width, 3, activate=False, name=name, number=2)
    return _join(make, inputs, outputs, strides, shortcut, name=name)


def _bottleneck_block(make, inputs, width, strides, shortcut, *, name):
    """1x1 to `width` channels, 3x3 with the stride, 1x1 to 4 * `width` channels; plus the shortcut."""
    outputs = make.conv_bn(inputs, width, 1, name=name, number=1)
    outputs = make.conv_bn(outputs, width, 3, strides=strides, name=name, number=2)
    outputs = make.conv_bn(outputs, 4 * width, 1, activate=False, name=name, number=3)
    return _join(make, inputs, outputs, strides, shortcut, name=name)


def _projection_shortcut(make, inputs, width, strides, *, name):
    return make.conv_bn(inputs, width, 1, strides=strides, activate=False, name=name)


def _pad_shortcut(make, inputs, width, strides, *, name):
    """inputs[:, ::strides, ::strides] with channels of zeros, half before and half after."""
    outputs = inputs
    if strides > 1:
        outputs = keras.layers.AveragePooling2D(1, strides=strides, name=f"{name}_slice")(outputs)
    return pad_channels(outputs, width - inputs.shape[-1], name=f"{name}_channels")


_SHORTCUTS = {"projection": _projection_shortcut, "pad": _pad_shortcut}


def _join(make, inputs, outputs, strides, shortcut, *, name):
    if strides > 1 or inputs.shape[-1] != outputs.shape[-1]:
        inputs = shortcut(make, inputs, outputs.shape[-1], strides, name=f"{name}_shortcut")
    return relu(keras.layers.Add(name=f"{name}_add")([outputs, inputs]), name=f"{name}_relu")


def _stages(make, outputs, block, widths, blocks, shortcut):
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for index in range(1, count + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            outputs = block(make, outputs, width, strides, shortcut, name=f"stage{stage}_block{index}")
    return outputs
