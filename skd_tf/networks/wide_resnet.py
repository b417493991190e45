"""Wide residual networks for CIFAR: three stages of pre-activation blocks."""

import keras

from skd_tf.networks.layers import LayerMaker, Tensor, bn_relu


def wide_resnet(make: LayerMaker, images: Tensor, *, depth: int, widen: int) -> Tensor:
    """WRN-depth-widen without dropout: three stages of (depth - 4) / 6 blocks; 16, 32, 64 times `widen` channels.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`.
      depth: number of layers with weights, 6n + 4.
      widen: factor on the channels of the stages; the stem has 16.

    Returns:
      Features `[batch, height / 4, width / 4, 64 * widen]`, after the last BatchNorm and ReLU.

    Reference: Zagoruyko and Komodakis 2016, arXiv:1605.07146; as in RepDistiller.
    """
    outputs = make.conv(images, 16, 3, name="stem_conv")
    for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
        for index in range(1, (depth - 4) // 6 + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            outputs = _block(make, outputs, width, strides, name=f"stage{stage}_block{index}")
    return bn_relu(outputs, name="head_bn")


def _block(make, inputs, width, strides, *, name):
    """x + conv3x3(relu(bn(conv3x3(relu(bn(x)))))); if the channels change, x becomes conv1x1(relu(bn(x)))."""
    activated = bn_relu(inputs, name=f"{name}_bn1")
    outputs = make.conv(activated, width, 3, strides=strides, name=f"{name}_conv1")
    outputs = bn_relu(outputs, name=f"{name}_bn2")
    outputs = make.conv(outputs, width, 3, name=f"{name}_conv2")
    if inputs.shape[-1] != width:
        inputs = make.conv(activated, width, 1, strides=strides, name=f"{name}_shortcut_conv")
    return keras.layers.Add(name=f"{name}_add")([outputs, inputs])
