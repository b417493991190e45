"""Wide residual networks for CIFAR: pre-activation blocks, three stages."""

import keras

from skd_tf.networks.layers import batch_norm, relu


def wide_resnet(make, images, *, depth, widen):
    """WRN-depth-widen, no dropout: three stages of (depth - 4) / 6 blocks; 16, 32, 64 times `widen` channels.

    Args:
      make: LayerMaker.
      images: `[batch, height, width, channels]`.
      depth: number of weighted layers, 6n + 4.
      widen: factor on the stages' channels; the stem has 16.

    Returns:
      Features `[batch, height / 4, width / 4, 64 * widen]`, after the last BatchNorm and ReLU.

    Reference: Zagoruyko and Komodakis 2016, arXiv:1605.07146; as in RepDistiller.
    """
    outputs = make.conv(images, 16, 3, name="stem_conv")
    for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
        for index in range(1, (depth - 4) // 6 + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            outputs = _block(make, outputs, width, strides, name=f"stage{stage}_block{index}")
    return relu(batch_norm(outputs, name="head_bn"), name="head_relu")


def _block(make, inputs, width, strides, *, name):
    """x + conv3x3(relu(bn(conv3x3(relu(bn(x)))))); x is conv1x1(relu(bn(x))) where the channels change."""
    activated = relu(batch_norm(inputs, name=f"{name}_bn1"), name=f"{name}_relu1")
    outputs = make.conv(activated, width, 3, strides=strides, name=f"{name}_conv1")
    outputs = relu(batch_norm(outputs, name=f"{name}_bn2"), name=f"{name}_relu2")
    outputs = make.conv(outputs, width, 3, name=f"{name}_conv2")
    if inputs.shape[-1] != width:
        inputs = make.conv(activated, width, 1, strides=strides, name=f"{name}_shortcut_conv")
    return keras.layers.Add(name=f"{name}_add")([outputs, inputs])
