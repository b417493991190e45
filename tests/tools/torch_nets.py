"""Public networks in PyTorch with the tensor names and formulas of their sources: a reference for tools/convert_torch.

They follow akamaster's resnet.py, torchvision's models/resnet.py, RepDistiller's models/*.py and, for EfficientNet-Lite,
efficientnet_lite_pytorch's model.py. Each is a function of
a `Net`, which creates a tensor where it is first used.
"""

import math

import torch
import torch.nn.functional as F


class Net:
    """A state dict that creates the tensors of convolutions, BatchNorms and linear layers on first use."""

    def __init__(self, seed=0):
        self.state = {}
        self._generator = torch.Generator().manual_seed(seed)

    def conv(self, x, name, width, size, stride=1, groups=1, bias=False, padding=None):
        fan_in = x.shape[1] // groups
        weight = self._get(f"{name}.weight", (width, fan_in, size, size), 0, (fan_in * size * size) ** -0.5)
        bias = self._get(f"{name}.bias", (width,), 0, 0.1) if bias else None
        return F.conv2d(x, weight, bias, stride, size // 2 if padding is None else padding, groups=groups)

    def bn(self, x, name, eps=1e-5):
        centres = {"weight": 1, "bias": 0, "running_mean": 0}
        scale, shift, mean = (self._get(f"{name}.{part}", x.shape[1:2], c, 0.1) for part, c in centres.items())
        variance = self._get(f"{name}.running_var", x.shape[1:2], 0.5, 0.1).abs_()
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)
        return F.batch_norm(x, mean, variance, scale, shift, eps=eps)

    def conv_bn(self, x, conv, bn, *args, **kwargs):
        return self.bn(self.conv(x, conv, *args, **kwargs), bn)

    def head(self, x, name, classes):
        pooled = x.mean((2, 3))
        weight = self._get(f"{name}.weight", (classes, pooled.shape[1]), 0, 0.1)
        return F.linear(pooled, weight, self._get(f"{name}.bias", (classes,), 0, 0.1))

    def _get(self, name, shape, centre, spread):
        if name not in self.state:
            self.state[name] = centre + spread * torch.randn(tuple(shape), generator=self._generator)
        return self.state[name]


def resnet(net, x, classes, *, blocks, widths, shortcut, head, bottleneck=False, imagenet=False):
    """`shortcut` is the name of the module, None for option A."""
    x = F.relu(net.conv_bn(x, "conv1", "bn1", widths[0], *((7, 2) if imagenet else (3, 1))))
    if imagenet:
        x = F.max_pool2d(x, 3, 2, 1)
    for stage, (width, count) in enumerate(zip(widths[1:], blocks, strict=True), start=1):
        for block in range(count):
            stride, name = 2 if stage > 1 and block == 0 else 1, f"layer{stage}.{block}"
            basic = [(width, 3, stride), (width, 3, 1)]
            layers = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)] if bottleneck else basic
            out = x
            for number, layer in enumerate(layers, start=1):
                out = net.conv_bn(F.relu(out), f"{name}.conv{number}", f"{name}.bn{number}", *layer)
            if out.shape != x.shape and shortcut:
                x = net.conv_bn(x, f"{name}.{shortcut}.0", f"{name}.{shortcut}.1", out.shape[1], 1, stride)
            elif out.shape != x.shape:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, width // 4, width // 4))
            x = F.relu(out + x)
    return net.head(x, head, classes)


def wide_resnet(net, x, classes, *, blocks, widen):
    x = net.conv(x, "conv1", 16, 3)
    for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
        for block in range(blocks):
            stride, name = 2 if stage > 1 and block == 0 else 1, f"block{stage}.layer.{block}"
            active = F.relu(net.bn(x, f"{name}.bn1"))
            out = F.relu(net.conv_bn(active, f"{name}.conv1", f"{name}.bn2", width, 3, stride))
            same = x.shape[1] == width
            x = x if same else net.conv(active, f"{name}.convShortcut", width, 1, stride)
            x = net.conv(out, f"{name}.conv2", width, 3) + x
    return net.head(F.relu(net.bn(x, "bn1")), "fc", classes)


def vgg(net, x, classes, *, convolutions):
    for block, width in enumerate((64, 128, 256, 512, 512)):
        for index in range(convolutions):
            name = f"block{block}.{{}}".format
            x = F.relu(net.conv_bn(x, name(3 * index), name(3 * index + 1), width, 3, bias=True))
        x = F.max_pool2d(x, 2) if block < 3 else x
    return net.head(x, "classifier", classes)


def mobilenet_v2(net, x, classes, *, half=0.5):
    x = F.relu(net.conv_bn(x, "conv1.0", "conv1.1", int(32 * half), 3, 2))
    stages = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for stage, (expansion, width, blocks, stage_stride) in enumerate(stages):
        for block in range(blocks):
            name, stride = f"blocks.{stage}.{block}.conv.{{}}".format, stage_stride if block == 0 else 1
            wide = expansion * x.shape[1]
            out = F.relu(net.conv_bn(x, name(0), name(1), wide, 1))
            out = F.relu(net.conv_bn(out, name(3), name(4), wide, 3, stride, groups=wide))
            out = net.conv_bn(out, name(6), name(7), int(width * half), 1)
            x = x + out if out.shape == x.shape else out
    return net.head(F.relu(net.conv_bn(x, "conv2.0", "conv2.1", 1280, 1)), "classifier.0", classes)


def efficientnet_lite(net, x, classes, *, depth):
    def unit(x, conv, bn, width, size, stride=1, groups=1):
        missing = [max((math.ceil(n / stride) - 1) * stride + size - n, 0) for n in (x.shape[3], x.shape[2])]
        x = F.pad(x, [side for count in missing for side in (count // 2, count - count // 2)])
        return net.bn(net.conv(x, conv, width, size, stride, groups, padding=0), bn, eps=1e-3)

    x = F.relu6(unit(x, "_conv_stem", "_bn0", 32, 3, 2))
    stages = [(1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2)]
    stages += [(6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)]
    index = 0
    for expansion, size, width, blocks, stage_stride in stages:
        for block in range(math.ceil(blocks * depth) if blocks > 1 else blocks):  # once is the first or the last stage
            name, stride, out = f"_blocks.{index}", stage_stride if block == 0 else 1, x
            wide, index = expansion * x.shape[1], index + 1
            if expansion > 1:
                out = F.relu6(unit(out, f"{name}._expand_conv", f"{name}._bn0", wide, 1))
            out = F.relu6(unit(out, f"{name}._depthwise_conv", f"{name}._bn1", wide, size, stride, groups=wide))
            out = unit(out, f"{name}._project_conv", f"{name}._bn2", width, 1)
            x = x + out if out.shape == x.shape else out
    return net.head(F.relu6(unit(x, "_conv_head", "_bn1", 1280, 1)), "_fc", classes)


def shufflenet_v1(net, x, classes):
    x = F.relu(net.conv_bn(x, "conv1", "bn1", 24, 1))
    for stage, (total, blocks) in enumerate(((240, 4), (480, 8), (960, 4)), start=1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if block == 0 else 1
            width, groups = total - x.shape[1] if block == 0 else total, 1 if x.shape[1] == 24 else 3
            out = F.relu(net.conv_bn(x, f"{name}.conv1", f"{name}.bn1", width // 4, 1, groups=groups))
            out = F.channel_shuffle(out, groups)
            out = F.relu(net.conv_bn(out, f"{name}.conv2", f"{name}.bn2", width // 4, 3, stride, groups=width // 4))
            out = net.conv_bn(out, f"{name}.conv3", f"{name}.bn3", width, 1, groups=3)
            x = F.relu(torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1) if stride == 2 else out + x)
    return net.head(x, "linear", classes)


def shufflenet_v2(net, x, classes):
    x = F.relu(net.conv_bn(x, "conv1", "bn1", 24, 1))
    for stage, (total, blocks) in enumerate(((116, 3), (232, 7), (464, 3)), start=1):
        width, before = total // 2, x.shape[1]
        layer = [(f"layer{stage}.0.conv{n}", f"layer{stage}.0.bn{n}") for n in range(6)]
        left = F.relu(net.conv_bn(net.conv_bn(x, *layer[1], before, 3, 2, groups=before), *layer[2], width, 1))
        right = F.relu(net.conv_bn(x, *layer[3], width, 1))
        right = F.relu(net.conv_bn(net.conv_bn(right, *layer[4], width, 3, 2, groups=width), *layer[5], width, 1))
        x = F.channel_shuffle(torch.cat([left, right], 1), 2)
        for block in range(1, blocks + 1):
            layer = [(f"layer{stage}.{block}.conv{n}", f"layer{stage}.{block}.bn{n}") for n in range(4)]
            out = F.relu(net.conv_bn(x[:, width:], *layer[1], width, 1))
            out = net.conv_bn(out, *layer[2], width, 3, groups=width)
            out = F.relu(net.conv_bn(out, *layer[3], width, 1))
            x = F.channel_shuffle(torch.cat([x[:, :width], out], 1), 2)
    return net.head(F.relu(net.conv_bn(x, "conv2", "bn2", 1024, 1)), "linear", classes)
