"""The weights of a Keras network with the tensor names and shapes of PyTorch, spelled out module by module."""

import keras
import numpy as np

_PARTS = [f"{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3, 4, 5)]


def resnet_modules(blocks, shortcut, head):
    ends = {"stem_conv": "conv1", "stem_bn": "bn1", "head_conv": "conv2", "head_bn": "bn2", "logits": head}
    yield from ends.items()
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            here, there = f"stage{stage}_block{block + 1}", f"layer{stage}.{block}"
            yield from ((f"{here}_{part}", f"{there}.{part}") for part in _PARTS)
            yield f"{here}_shortcut_conv", f"{there}.{shortcut}.0"
            yield f"{here}_shortcut_bn", f"{there}.{shortcut}.1"


def wide_resnet_modules(blocks):
    yield from (("stem_conv", "conv1"), ("head_bn", "bn1"), ("logits", "fc"))
    for stage in (1, 2, 3):
        for block in range(blocks):
            here, there = f"stage{stage}_block{block + 1}", f"block{stage}.layer.{block}"
            yield from ((f"{here}_{part}", f"{there}.{part}") for part in _PARTS)
            yield f"{here}_shortcut_conv", f"{there}.convShortcut"


def vgg_modules():
    yield "logits", "classifier"
    for block in range(5):
        for index, (conv, bn) in enumerate(((0, 1), (3, 4)), start=1):
            yield f"stage{block + 1}_conv{index}", f"block{block}.{conv}"
            yield f"stage{block + 1}_bn{index}", f"block{block}.{bn}"


def mobilenet_modules():
    yield from (("stem_conv", "conv1.0"), ("stem_bn", "conv1.1"), ("head_conv", "conv2.0"), ("head_bn", "conv2.1"))
    yield "logits", "classifier.0"
    for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)):
        for block in range(count):
            here, there = f"stage{stage + 1}_block{block + 1}", f"blocks.{stage}.{block}.conv"
            for part, number in (("expand", 0), ("depthwise", 3), ("project", 6)):
                yield f"{here}_{part}_conv", f"{there}.{number}"
                yield f"{here}_{part}_bn", f"{there}.{number + 1}"


def efficientnet_lite_modules(blocks):
    yield from (("stem_conv", "_conv_stem"), ("stem_bn", "_bn0"), ("head_conv", "_conv_head"), ("head_bn", "_bn1"))
    yield "logits", "_fc"
    index = 0
    for stage, count in enumerate(blocks, start=1):
        for block in range(1, count + 1):
            here, there = f"stage{stage}_block{block}", f"_blocks.{index}."
            for number, part in enumerate(("expand", "depthwise", "project")):
                yield f"{here}_{part}_conv", f"{there}_{part}_conv"
                yield f"{here}_{part}_bn", f"{there}_bn{number}"
            index += 1


def state_of(model, modules):
    """The state dict that PyTorch has for a Keras model; `modules` yields (our layer name, PyTorch module name)."""
    layers, state = {layer.name: layer for layer in model.layers}, {}
    for name, module in modules:
        groups = [layers[f"{name}_group{number}"] for number in (1, 2, 3) if f"{name}_group{number}" in layers]
        if groups:
            kernels = [layer.kernel.numpy().transpose(3, 2, 0, 1) for layer in groups]
            state[f"{module}.weight"] = np.concatenate(kernels)
        elif isinstance(layer := layers.get(name), keras.layers.BatchNormalization):
            state[f"{module}.weight"], state[f"{module}.bias"] = layer.gamma.numpy(), layer.beta.numpy()
            state[f"{module}.running_mean"] = layer.moving_mean.numpy()
            state[f"{module}.running_var"] = layer.moving_variance.numpy()
            state[f"{module}.num_batches_tracked"] = np.array(7)
        elif layer:
            axes = {"Conv2D": (3, 2, 0, 1), "DepthwiseConv2D": (2, 3, 0, 1), "Dense": (1, 0)}[type(layer).__name__]
            state[f"{module}.weight"] = layer.kernel.numpy().transpose(axes)
            if layer.use_bias:
                state[f"{module}.bias"] = layer.bias.numpy()
    return state
