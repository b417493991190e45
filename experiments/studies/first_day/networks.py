"""Networks of the study that the package does not have."""

import keras

_WIDTHS = (8, 16, 32)


def three_layers(input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """The network that people write first: three 3x3 convolutions with stride 2, BatchNorm and ReLU.

    6,286 trained parameters for six classes.
    """
    image = keras.Input(input_shape)
    features = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    for width in _WIDTHS:
        features = keras.layers.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(features)
        features = keras.layers.ReLU()(keras.layers.BatchNormalization()(features))
    features = keras.layers.GlobalAveragePooling2D()(features)
    return keras.Model(image, keras.layers.Dense(num_classes)(features), name="three_layers")
