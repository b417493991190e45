"""ShuffleNet V1 and V2 for CIFAR: pointwise convolutions within groups, and channel shuffles between the groups."""

import keras

from skd_tf.networks.layers import LayerMaker, Tensor, batch_norm, bn_relu, channel_shuffle, channels, relu, zero_pad


def shufflenet_v1(make: LayerMaker, images: Tensor) -> Tensor:
    """ShuffleNet V1 with three groups as in RepDistiller: a 1x1 stem, then 240, 480 and 960 channels.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`.

    Returns:
      Features `[batch, height / 8, width / 8, 960]`.

    Reference: Zhang et al. 2017, arXiv:1707.01083; RepDistiller, models/ShuffleNetv1.py.
    """
    outputs = make.conv_bn(images, 24, 1, name="stem")
    for stage, (width, blocks) in enumerate(((240, 4), (480, 8), (960, 4)), start=1):
        for index in range(1, blocks + 1):
            # The 24 channels of the stem are too few for groups.
            first_groups = 1 if (stage, index) == (1, 1) else 3
            name = f"stage{stage}_block{index}"
            outputs = _group_block(make, outputs, width, first_groups, 2 if index == 1 else 1, name=name)
    return outputs


def shufflenet_v2(make: LayerMaker, images: Tensor) -> Tensor:
    """ShuffleNet V2 at width 1 as in RepDistiller: a 1x1 stem, then 116, 232 and 464 channels, 1024 features.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`.

    Returns:
      Features `[batch, height / 8, width / 8, 1024]`.

    Reference: Ma et al. 2018, arXiv:1807.11164; RepDistiller, models/ShuffleNetv2.py.
    """
    outputs = make.conv_bn(images, 24, 1, name="stem")
    for stage, (width, blocks) in enumerate(((116, 4), (232, 8), (464, 4)), start=1):
        outputs = _down_block(make, outputs, width, name=f"stage{stage}_block1")
        for index in range(2, blocks + 1):
            outputs = _split_block(make, outputs, name=f"stage{stage}_block{index}")
    return make.conv_bn(outputs, 1024, 1, name="head")


def _group_block(make, inputs, width, first_groups, strides, *, name):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; added to the input or, at stride 2, beside its average."""
    filters = width - inputs.shape[-1] if strides > 1 else width
    outputs = make.grouped_pointwise_conv(inputs, filters // 4, first_groups, name=f"{name}_conv1")
    outputs = bn_relu(outputs, name=f"{name}_bn1")
    if first_groups > 1:
        outputs = channel_shuffle(outputs, first_groups, name=f"{name}_shuffle")
    outputs = make.depthwise_conv(outputs, strides=strides, name=f"{name}_conv2")
    outputs = bn_relu(outputs, name=f"{name}_bn2")
    outputs = make.grouped_pointwise_conv(outputs, filters, 3, name=f"{name}_conv3")
    outputs = batch_norm(outputs, name=f"{name}_bn3")
    if strides == 1:
        return relu(keras.layers.Add(name=f"{name}_add")([outputs, inputs]), name=f"{name}_relu")
    # PyTorch's average counts the zeros at the border.
    shortcut = zero_pad(inputs, 1, name=f"{name}_shortcut_padding")
    shortcut = keras.layers.AveragePooling2D(3, strides=2, name=f"{name}_shortcut_pool")(shortcut)
    return relu(keras.layers.Concatenate(name=f"{name}_concat")([outputs, shortcut]), name=f"{name}_relu")


def _down_block(make, inputs, width, *, name):
    """Two branches at stride 2, each with half of `width` channels, concatenated and shuffled."""
    left = make.depthwise_conv(inputs, strides=2, name=f"{name}_conv1")
    left = batch_norm(left, name=f"{name}_bn1")
    left = make.conv_bn(left, width // 2, 1, name=name, number=2)
    right = make.conv_bn(inputs, width // 2, 1, name=name, number=3)
    right = make.depthwise_conv(right, strides=2, name=f"{name}_conv4")
    right = batch_norm(right, name=f"{name}_bn4")
    right = make.conv_bn(right, width // 2, 1, name=name, number=5)
    outputs = keras.layers.Concatenate(name=f"{name}_concat")([left, right])
    return channel_shuffle(outputs, 2, name=f"{name}_shuffle")


def _split_block(make, inputs, *, name):
    """1x1, depthwise 3x3 and 1x1 on the second half of the channels; the first half unchanged; shuffled."""
    width = inputs.shape[-1]
    kept = channels(inputs, 0, width // 2, name=f"{name}_kept")
    outputs = channels(inputs, width // 2, width, name=f"{name}_changed")
    outputs = make.conv_bn(outputs, width // 2, 1, name=name, number=1)
    outputs = make.depthwise_conv(outputs, name=f"{name}_conv2")
    outputs = batch_norm(outputs, name=f"{name}_bn2")
    outputs = make.conv_bn(outputs, width // 2, 1, name=name, number=3)
    outputs = keras.layers.Concatenate(name=f"{name}_concat")([kept, outputs])
    return channel_shuffle(outputs, 2, name=f"{name}_shuffle")
