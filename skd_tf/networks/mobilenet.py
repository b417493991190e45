"""MobileNetV2 for CIFAR: inverted residual blocks with linear bottlenecks."""

import keras

from skd_tf.networks.layers import batch_norm, relu

# Expansion, channels at full width, blocks, stride of the first block.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(make, images, *, width):
    """MobileNetV2 as in RepDistiller: stride 1 in the second stage, ReLU, 1280 features at any width.

    Args:
      make: LayerMaker.
      images: `[batch, height, width, channels]`.
      width: factor on the channels of stem and stages; 0.5 in the field's CIFAR tables.

    Returns:
      Features `[batch, height / 16, width / 16, 1280]`.

    Reference: Sandler et al. 2018, arXiv:1801.04381; RepDistiller, models/mobilenetv2.py.
    """
    outputs = make.conv(images, int(32 * width), 3, strides=2, name="stem_conv")
    outputs = relu(batch_norm(outputs, name="stem_bn"), name="stem_relu")
    for stage, (expansion, filters, blocks, stage_strides) in enumerate(_STAGES, start=1):
        for index in range(1, blocks + 1):
            strides = stage_strides if index == 1 else 1
            name = f"stage{stage}_block{index}"
            outputs = _block(make, outputs, int(filters * width), expansion, strides, name=name)
    outputs = make.conv(outputs, 1280, 1, name="head_conv")
    return relu(batch_norm(outputs, name="head_bn"), name="head_relu")


def _block(make, inputs, filters, expansion, strides, *, name):
    """1x1 to `expansion` times as many, depthwise 3x3, linear 1x1 to `filters`, plus the input if it fits."""
    outputs = make.conv(inputs, expansion * inputs.shape[-1], 1, name=f"{name}_expand_conv")
    outputs = relu(batch_norm(outputs, name=f"{name}_expand_bn"), name=f"{name}_expand_relu")
    outputs = make.depthwise_conv(outputs, strides=strides, name=f"{name}_depthwise_conv")
    outputs = relu(batch_norm(outputs, name=f"{name}_depthwise_bn"), name=f"{name}_depthwise_relu")
    outputs = make.conv(outputs, filters, 1, name=f"{name}_project_conv")
    outputs = batch_norm(outputs, name=f"{name}_project_bn")
    if strides > 1 or inputs.shape[-1] != filters:
        return outputs
    return keras.layers.Add(name=f"{name}_add")([inputs, outputs])
