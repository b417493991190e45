"""Students with a few hundred to a few thousand parameters, for small images."""

from skd_tf.networks.layers import LayerMaker, Tensor


def small_cnn(make: LayerMaker, images: Tensor, *, width: int, stages: int = 2) -> Tensor:
    """3x3 convolutions with BatchNorm and ReLU; each but the first has stride 2 and twice the channels of the one before.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`.
      width: channels of the first convolution.
      stages: number of convolutions.

    Returns:
      Features `[batch, height / s, width / s, s * width]` with s = 2^(stages - 1).
    """
    outputs = make.conv_bn(images, width, 3, name="stage1")
    for stage in range(1, stages):
        outputs = make.conv_bn(outputs, width * 2**stage, 3, strides=2, name=f"stage{stage + 1}")
    return outputs
