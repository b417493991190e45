"""VGG with BatchNorm for CIFAR: five stages, one linear layer."""

import keras

from skd_tf.networks.layers import batch_norm, relu


def vgg(make, images, *, convolutions):
    """VGG-8 and VGG-13 as in RepDistiller: `convolutions` 3x3 convolutions a stage, 64 to 512 channels.

    The convolutions have biases, which the published counts and weights include, although the BatchNorm that
    follows cancels a bias while training: its gradient is zero but for rounding.

    Args:
      make: LayerMaker.
      images: `[batch, height, width, channels]`, at least 8 pixels high and wide.
      convolutions: number a stage; 1 is VGG-8, 2 is VGG-13.

    Returns:
      Features `[batch, height / 8, width / 8, 512]`, one more halving from 64 pixels on.

    Reference: Simonyan and Zisserman 2014, arXiv:1409.1556; RepDistiller, models/vgg.py.
    """
    pools_after = (1, 2, 3, 4) if min(images.shape[1:3]) >= 64 else (1, 2, 3)
    outputs = images
    for stage, width in enumerate((64, 128, 256, 512, 512), start=1):
        for index in range(1, convolutions + 1):
            name = f"stage{stage}_{{}}{index}"
            outputs = make.conv(outputs, width, 3, use_bias=True, name=name.format("conv"))
            outputs = relu(batch_norm(outputs, name=name.format("bn")), name=name.format("relu"))
        if stage in pools_after:
            outputs = keras.layers.MaxPooling2D(2, name=f"stage{stage}_pool")(outputs)
    return outputs
