"""Students of some hundred to some thousand parameters, for images of few pixels."""

from skd_tf.networks.layers import batch_norm, relu


def small_cnn(make, images, *, width):
    """Two 3x3 convolutions with BatchNorm and ReLU, the second with stride 2 and twice the channels.

    Args:
      make: LayerMaker.
      images: `[batch, height, width, channels]`.
      width: channels of the first convolution.

    Returns:
      Features `[batch, height / 2, width / 2, 2 * width]`.
    """
    outputs = make.conv(images, width, 3, name="stage1_conv")
    outputs = relu(batch_norm(outputs, name="stage1_bn"), name="stage1_relu")
    outputs = make.conv(outputs, 2 * width, 3, strides=2, name="stage2_conv")
    return relu(batch_norm(outputs, name="stage2_bn"), name="stage2_relu")
