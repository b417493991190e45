"""MobileNetV2 for CIFAR: inverted residual blocks with linear bottlenecks."""

import keras

from skd_tf.networks.layers import LayerMaker, Tensor, bn_relu

# Expansion, channels at full width, blocks, stride of the first block.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(make: LayerMaker, images: Tensor, *, width: float) -> Tensor:
    """MobileNetV2 as in RepDistiller: stride 1 in the second stage, ReLU, 1280 features at every width.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`.
      width: factor on the channels of stem and stages; 0.5 in published CIFAR tables.

    Returns:
      Features `[batch, height / 16, width / 16, 1280]`.

    Reference: Sandler et al. 2018, arXiv:1801.04381; RepDistiller, models/mobilenetv2.py.
    """
    outputs = make.conv_bn(images, int(32 * width), 3, strides=2, name="stem")
    for stage, (expansion, filters, blocks, stage_strides) in enumerate(_STAGES, start=1):
        for index in range(1, blocks + 1):
            strides = stage_strides if index == 1 else 1
            name = f"stage{stage}_block{index}"
            outputs = _block(make, outputs, int(filters * width), expansion, strides, name=name)
    return make.conv_bn(outputs, 1280, 1, name="head")


def _block(make, inputs, filters, expansion, strides, *, name):
    """1x1 to `expansion` times the channels, depthwise 3x3, linear 1x1 to `filters`; plus the input if shapes match."""
    outputs = make.conv_bn(inputs, expansion * inputs.shape[-1], 1, name=f"{name}_expand")
    outputs = make.depthwise_conv(outputs, strides=strides, name=f"{name}_depthwise_conv")
    outputs = bn_relu(outputs, name=f"{name}_depthwise_bn")
    outputs = make.conv_bn(outputs, filters, 1, activate=False, name=f"{name}_project")
    if strides > 1 or inputs.shape[-1] != filters:
        return outputs
    return keras.layers.Add(name=f"{name}_add")([inputs, outputs])
