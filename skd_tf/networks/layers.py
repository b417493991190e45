"""What all networks use: layers with seeded initial weights and PyTorch's padding, and one BatchNorm class."""

from typing import TypeAlias

import keras
import numpy as np

from skd_tf.networks.batch_norm import FusedBatchNormalization

Tensor: TypeAlias = keras.KerasTensor
BATCH_NORM = FusedBatchNormalization  # the class of every BatchNorm layer in every network


class LayerMaker:
    """Applies layers whose initial weights depend only on the seed and on how many layers it made before.

    It reads no global random state: neither keras.utils.set_random_seed nor earlier models have an effect.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._made = 0

    def conv_bn(self, inputs, filters, kernel_size, *, activate=True, name, number="", **options) -> Tensor:
        """`conv`, BatchNorm and, if `activate`, ReLU: layers `<name>_conv<number>`, `_bn<number>`, `_relu<number>`."""
        outputs = self.conv(inputs, filters, kernel_size, name=f"{name}_conv{number}", **options)
        return (bn_relu if activate else batch_norm)(outputs, name=f"{name}_bn{number}")

    def conv(
        self,
        inputs: Tensor,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        padding: str = "torch",
        use_bias: bool = False,
        name: str,
    ) -> Tensor:
        """Convolution with PyTorch's padding=kernel_size // 2 and initial weights (He normal, fan-out).

        Keras' "same" would pad less at the top and left for a stride of 2 and an even size, so the same weights would
        give different numbers. Pass `padding="same"` for a network that was trained in TensorFlow.
        """
        inputs, padding = _padded(inputs, kernel_size, strides, padding, name)
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            kernel_initializer=self._variance_scaling(2.0, "fan_out", "untruncated_normal"),
            name=name,
        )(inputs)

    def grouped_pointwise_conv(self, inputs: Tensor, filters: int, groups: int, *, name: str) -> Tensor:
        """1x1 convolution within each of `groups` groups of channels, as one layer `<name>_group<i>` per group.

        Conv2D(groups=) has no CPU kernel, so Keras compiles it with XLA: 271 ms per training step instead of 16 ms (240
        to 60 channels, 64 images of 16x16, 2 cores). PyTorch's fan-out counts the filters of all groups, so the scale
        is 2 / groups.
        """
        if groups == 1:
            return self.conv(inputs, filters, 1, name=name)
        width = inputs.shape[-1] // groups
        outputs = []
        for group in range(groups):
            part = f"{name}_group{group + 1}"
            convolve = keras.layers.Conv2D(
                filters // groups,
                1,
                use_bias=False,
                kernel_initializer=self._variance_scaling(2.0 / groups, "fan_out", "untruncated_normal"),
                name=part,
            )
            part_inputs = channels(inputs, group * width, (group + 1) * width, name=f"{part}_inputs")
            outputs.append(convolve(part_inputs))
        return keras.layers.Concatenate(name=f"{name}_concat")(outputs)

    def depthwise_conv(
        self, inputs: Tensor, kernel_size: int = 3, *, strides: int = 1, padding: str = "torch", name: str
    ) -> Tensor:
        """Convolution of each channel separately, padded as in `conv`.

        PyTorch's fan-out is k * k * channels (kernel `[channels, 1, k, k]`), which is the fan-in of Keras' kernel
        `[k, k, channels, 1]`.
        """
        inputs, padding = _padded(inputs, kernel_size, strides, padding, name)
        return keras.layers.DepthwiseConv2D(
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=False,
            depthwise_initializer=self._variance_scaling(2.0, "fan_in", "untruncated_normal"),
            name=name,
        )(inputs)

    def dense(self, inputs: Tensor, units: int, *, name: str) -> Tensor:
        """Dense layer in the variables' dtype; kernel U(+-1 / sqrt(fan_in)) as in torch.nn.Linear, zero bias."""
        return keras.layers.Dense(
            units,
            kernel_initializer=self._variance_scaling(1 / 3, "fan_in", "uniform"),
            dtype=keras.config.dtype_policy().variable_dtype,
            name=name,
        )(inputs)

    def _variance_scaling(self, scale, mode, distribution):
        self._made += 1
        # SeedSequence is a published hash: neighbouring seeds and layers get unrelated numbers.
        seed = np.random.SeedSequence((self._seed, self._made)).generate_state(1)[0]
        return keras.initializers.VarianceScaling(scale, mode, distribution, seed=int(seed))


def _padded(inputs, kernel_size, strides, padding, name):
    """The inputs, and Keras' `padding`, that together pad as PyTorch's kernel_size // 2 or as TensorFlow's "same"."""
    if padding == "same" or strides == 1 or kernel_size == 1:
        return inputs, "same"
    return zero_pad(inputs, kernel_size // 2, name=f"{name}_padding"), "valid"


def batch_norm(inputs: Tensor, *, epsilon: float = 1e-5, name: str) -> Tensor:
    """BatchNorm over batch, height and width, with PyTorch's default momentum and epsilon in Keras' terms."""
    return BATCH_NORM(momentum=0.9, epsilon=epsilon, name=name)(inputs)


def relu(inputs: Tensor, *, max_value: float | None = None, name: str) -> Tensor:
    return keras.layers.ReLU(max_value, name=name)(inputs)


def bn_relu(inputs: Tensor, *, name: str) -> Tensor:
    """BatchNorm and ReLU; the ReLU's name is `name` with "relu" for "bn"."""
    return relu(batch_norm(inputs, name=name), name=name.replace("bn", "relu"))


def zero_pad(inputs: Tensor, width: int, *, name: str) -> Tensor:
    """`width` rows and columns of zeros on each side of the image."""
    return keras.layers.ZeroPadding2D(width, name=name)(inputs)


def channels(inputs: Tensor, start: int, stop: int, *, name: str) -> Tensor:
    """inputs[..., start:stop] as a stock, named layer."""
    # Cropping2D crops axes 2 and 3 of a channels_first tensor: here the width (by nothing) and the channels.
    crop = ((0, 0), (start, inputs.shape[-1] - stop))
    return keras.layers.Cropping2D(crop, data_format="channels_first", name=name)(inputs)


def pad_channels(inputs: Tensor, count: int, *, name: str) -> Tensor:
    """Adds `count` channels of zeros, half before and half after those of `inputs`."""
    # ZeroPadding2D pads axes 2 and 3 of a channels_first tensor: here the width (by nothing) and the channels.
    padding = ((0, 0), (count // 2, count - count // 2))
    return keras.layers.ZeroPadding2D(padding, data_format="channels_first", name=name)(inputs)


def channel_shuffle(inputs: Tensor, groups: int, *, name: str) -> Tensor:
    """Channel g * (count / groups) + c becomes channel c * groups + g (arXiv:1707.01083, section 3.1)."""
    height, width, count = inputs.shape[1:]
    outputs = keras.layers.Reshape((height, width, groups, count // groups), name=f"{name}_split")(inputs)
    outputs = keras.layers.Permute((1, 2, 4, 3), name=f"{name}_transpose")(outputs)
    return keras.layers.Reshape((height, width, count), name=f"{name}_merge")(outputs)


def logits(make: LayerMaker, features: Tensor, num_classes: int) -> Tensor:
    """The head of every network: the average over the image, then a linear map to raw logits."""
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    return make.dense(pooled, num_classes, name="logits")
