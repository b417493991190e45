"""Students with a few hundred to a few thousand parameters, for small images."""

from skd_tf.networks.layers import LayerMaker, Tensor


def small_cnn(make: LayerMaker, images: Tensor, *, width: int) -> Tensor:
    """Two 3x3 convolutions with BatchNorm and ReLU; the second has stride 2 and twice the channels.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`.
      width: channels of the first convolution.

    Returns:
      Features `[batch, height / 2, width / 2, 2 * width]`.
    """
    outputs = make.conv_bn(images, width, 3, name="stage1")
    return make.conv_bn(outputs, 2 * width, 3, strides=2, name="stage2")
