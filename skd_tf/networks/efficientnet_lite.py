"""EfficientNet-Lite0 and -Lite1 for ImageNet: inverted residual blocks with ReLU6, for phones and int8."""

import math

import keras

from skd_tf.networks.layers import LayerMaker, Tensor, batch_norm, relu

# Expansion, kernel size, channels, blocks at depth 1, stride of the first block.
_STAGES = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


def efficientnet_lite(make: LayerMaker, images: Tensor, *, depth: float) -> Tensor:
    """EfficientNet-Lite as in the authors' TensorFlow code, which pads as TensorFlow's "same".

    The authors' dropout and stochastic depth are left out. BatchNorm's momentum is 0.9. With the authors' 0.99, the
    statistics after 100 steps of fine-tuning would still be ImageNet's by a third.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`.
      depth: factor on the blocks of all stages but the first and the last, rounded up; 1.0 is Lite0, 1.1 is Lite1.

    Returns:
      Features `[batch, ceil(height / 32), ceil(width / 32), 1280]`.

    Reference: Tan and Le 2019, arXiv:1905.11946; github.com/tensorflow/tpu, models/official/efficientnet/lite.
    """
    outputs = make.conv(images, 32, 3, strides=2, padding="same", name="stem_conv")
    outputs = _bn_relu6(outputs, name="stem_bn")
    for stage, (expansion, kernel_size, filters, blocks, stage_strides) in enumerate(_STAGES, start=1):
        count = blocks if stage in (1, len(_STAGES)) else math.ceil(blocks * depth)
        for index in range(1, count + 1):
            strides = stage_strides if index == 1 else 1
            name = f"stage{stage}_block{index}"
            outputs = _block(make, outputs, filters, expansion, kernel_size, strides, name=name)
    return _bn_relu6(make.conv(outputs, 1280, 1, name="head_conv"), name="head_bn")


def _block(make, inputs, filters, expansion, kernel_size, strides, *, name):
    """1x1 to `expansion` times the channels, depthwise, linear 1x1 to `filters`; plus the input if the shapes match."""
    outputs = inputs
    if expansion > 1:
        outputs = make.conv(outputs, expansion * inputs.shape[-1], 1, name=f"{name}_expand_conv")
        outputs = _bn_relu6(outputs, name=f"{name}_expand_bn")
    options = {"strides": strides, "padding": "same", "name": f"{name}_depthwise_conv"}
    outputs = make.depthwise_conv(outputs, kernel_size, **options)
    outputs = _bn_relu6(outputs, name=f"{name}_depthwise_bn")
    outputs = make.conv(outputs, filters, 1, name=f"{name}_project_conv")
    outputs = batch_norm(outputs, epsilon=1e-3, name=f"{name}_project_bn")
    if strides > 1 or inputs.shape[-1] != filters:
        return outputs
    return keras.layers.Add(name=f"{name}_add")([outputs, inputs])


def _bn_relu6(inputs, *, name):
    outputs = batch_norm(inputs, epsilon=1e-3, name=name)
    return relu(outputs, max_value=6.0, name=name.replace("bn", "relu"))
