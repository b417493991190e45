"""VGG with BatchNorm for CIFAR: five stages and one linear layer."""

import keras

from skd_tf.networks.layers import LayerMaker, Tensor


def vgg(make: LayerMaker, images: Tensor, *, convolutions: int) -> Tensor:
    """VGG-8 and VGG-13 as in RepDistiller: `convolutions` 3x3 convolutions per stage, 64 to 512 channels.

    The convolutions have biases because the published counts and weights include them. The BatchNorm that follows
    cancels a bias during training, so its gradient is zero up to rounding.

    Args:
      make: makes the layers and their initial weights.
      images: `[batch, height, width, channels]`, at least 8 pixels high and wide.
      convolutions: number per stage; 1 is VGG-8, 2 is VGG-13.

    Returns:
      Features `[batch, height / 8, width / 8, 512]`; height / 16 and width / 16 from 64 pixels on.

    Reference: Simonyan and Zisserman 2014, arXiv:1409.1556; RepDistiller, models/vgg.py.
    """
    pools_after = (1, 2, 3, 4) if min(images.shape[1:3]) >= 64 else (1, 2, 3)
    outputs = images
    for stage, width in enumerate((64, 128, 256, 512, 512), start=1):
        for index in range(1, convolutions + 1):
            outputs = make.conv_bn(outputs, width, 3, use_bias=True, name=f"stage{stage}", number=index)
        if stage in pools_after:
            outputs = keras.layers.MaxPooling2D(2, name=f"stage{stage}_pool")(outputs)
    return outputs
