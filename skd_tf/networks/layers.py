"""What every network is made of: seeded initial weights, PyTorch's padding, one BatchNorm."""

import keras
import numpy as np

from skd_tf.networks.batch_norm import FusedBatchNormalization

BATCH_NORM = FusedBatchNormalization  # the class behind every normalisation of every network


class LayerMaker:
    """Applies layers whose initial weights are a pure function of (seed, how many layers were made before).

    No global random state is read: neither keras.utils.set_random_seed nor models built before matter.
    """

    def __init__(self, seed):
        self._seed = seed
        self._made = 0

    def conv(self, inputs, filters, kernel_size, *, strides=1, use_bias=False, name):
        """Convolution with PyTorch's padding=kernel_size // 2; He normal, fan-out.

        Keras' "same" pads less on top and left where a stride of 2 meets an even size, so the same weights
        would give other numbers.
        """
        padding = "same"
        if strides > 1 and kernel_size > 1:
            inputs, padding = zero_pad(inputs, kernel_size // 2, name=f"{name}_padding"), "valid"
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            kernel_initializer=self._variance_scaling(2.0, "fan_out", "untruncated_normal"),
            name=name,
        )(inputs)

    def grouped_pointwise_conv(self, inputs, filters, groups, *, name):
        """1x1 convolution within each of `groups` groups of channels, one layer `<name>_group<i>` a group.

        Conv2D(groups=) has no CPU kernel, so Keras compiles it with XLA: 271 ms a training step against 16 ms
        (240 to 60 channels, 64 images of 16x16, 2 cores). PyTorch's fan-out counts the filters of all groups,
        hence 2 / groups.
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

    def depthwise_conv(self, inputs, *, strides=1, name):
        """3x3 convolution of each channel by itself, padded as in `conv`.

        PyTorch counts its fan-out as 9 * channels (kernel `[channels, 1, 3, 3]`); of Keras' kernel
        `[3, 3, channels, 1]` that is the fan-in.
        """
        padding = "same"
        if strides > 1:
            inputs, padding = zero_pad(inputs, 1, name=f"{name}_padding"), "valid"
        return keras.layers.DepthwiseConv2D(
            3,
            strides=strides,
            padding=padding,
            use_bias=False,
            depthwise_initializer=self._variance_scaling(2.0, "fan_in", "untruncated_normal"),
            name=name,
        )(inputs)

    def dense(self, inputs, units, *, name):
        """Dense in the variables' dtype; kernel as torch.nn.Linear's, U(+-1 / sqrt(fan_in)), zero bias."""
        return keras.layers.Dense(
            units,
            kernel_initializer=self._variance_scaling(1 / 3, "fan_in", "uniform"),
            dtype=keras.config.dtype_policy().variable_dtype,
            name=name,
        )(inputs)

    def _variance_scaling(self, scale, mode, distribution):
        self._made += 1
        # SeedSequence is a published hash: neighbouring seeds and layers share no numbers.
        seed = np.random.SeedSequence((self._seed, self._made)).generate_state(1)[0]
        return keras.initializers.VarianceScaling(scale, mode, distribution, seed=int(seed))


def batch_norm(inputs, *, name):
    """BatchNorm over batch, height and width; momentum and epsilon are PyTorch's defaults in Keras' terms."""
    return BATCH_NORM(momentum=0.9, epsilon=1e-5, name=name)(inputs)


def relu(inputs, *, name):
    return keras.layers.ReLU(name=name)(inputs)


def zero_pad(inputs, width, *, name):
    """`width` rows and columns of zeros on each side of the image."""
    return keras.layers.ZeroPadding2D(width, name=name)(inputs)


def channels(inputs, start, stop, *, name):
    """inputs[..., start:stop], as a stock layer with a name."""
    # Cropping2D crops axes 2 and 3 of a channels_first tensor: here width, by nothing, and channels.
    crop = ((0, 0), (start, inputs.shape[-1] - stop))
    return keras.layers.Cropping2D(crop, data_format="channels_first", name=name)(inputs)


def pad_channels(inputs, count, *, name):
    """`count` channels of zeros, half before and half after those of `inputs`."""
    # ZeroPadding2D pads axes 2 and 3 of a channels_first tensor: here width, by nothing, and channels.
    padding = ((0, 0), (count // 2, count - count // 2))
    return keras.layers.ZeroPadding2D(padding, data_format="channels_first", name=name)(inputs)


def channel_shuffle(inputs, groups, *, name):
    """Channel g * (count / groups) + c becomes channel c * groups + g (arXiv:1707.01083, section 3.1)."""
    height, width, count = inputs.shape[1:]
    outputs = keras.layers.Reshape((height, width, groups, count // groups), name=f"{name}_split")(inputs)
    outputs = keras.layers.Permute((1, 2, 4, 3), name=f"{name}_transpose")(outputs)
    return keras.layers.Reshape((height, width, count), name=f"{name}_merge")(outputs)


def logits(make, features, num_classes):
    """The head of every network: average over the image, then a linear map to raw logits."""
    pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
    return make.dense(pooled, num_classes, name="logits")
