"""What the PyTorch networks of the field call their tensors, and what their training code feeds them."""

import re
from typing import NamedTuple


class Source(NamedTuple):
    """Where checkpoints come from: the images that the networks were trained on, pixels scaled to [0, 1]."""

    name: str
    mean: tuple
    std: tuple
    input_size: int
    num_classes: int


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# CIFAR-10 normalised with ImageNet's numbers: github.com/akamaster/pytorch_resnet_cifar10, trainer.py.
AKAMASTER = Source("akamaster", **_IMAGENET, input_size=32, num_classes=10)
# CIFAR-100: github.com/HobbitLong/RepDistiller and github.com/megvii-research/mdistiller, dataset/cifar100.py.
REPDISTILLER = Source("RepDistiller and mdistiller", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32, 100)
TORCHVISION = Source("torchvision", **_IMAGENET, input_size=224, num_classes=1000)


class Family(NamedTuple):
    """Networks with one way of naming: the end of a layer's name here -> names of its module there, tried in order.

    In those, {stage} counts from 1; {stage0} and {block0} count from 0.
    """

    modules: dict
    source: Source
    source_without_shortcuts: Source | None = None  # None: the networks always have tensors in their shortcuts
    stem: str = "stem_conv"


_BLOCK_PARTS = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "conv4", "bn4", "conv5", "bn5")
_RESNET = {part: (f"layer{{stage}}.{{block0}}.{part}",) for part in _BLOCK_PARTS} | {
    "stem_conv": ("conv1",),
    "stem_bn": ("bn1",),
    "shortcut_conv": ("layer{stage}.{block0}.downsample.0", "layer{stage}.{block0}.shortcut.0"),
    "shortcut_bn": ("layer{stage}.{block0}.downsample.1", "layer{stage}.{block0}.shortcut.1"),
    "logits": ("fc", "linear"),
}
_WIDE_RESNET = {part: (f"block{{stage}}.layer.{{block0}}.{part}",) for part in _BLOCK_PARTS} | {
    "stem_conv": ("conv1",),
    "shortcut_conv": ("block{stage}.layer.{block0}.convShortcut",),
    "head_bn": ("bn1",),
    "logits": ("fc",),
}
_VGG = {
    "conv1": ("block{stage0}.0",),
    "bn1": ("block{stage0}.1",),
    "conv2": ("block{stage0}.3",),
    "bn2": ("block{stage0}.4",),
    "logits": ("classifier",),
}
_MOBILENET = {
    "stem_conv": ("conv1.0",),
    "stem_bn": ("conv1.1",),
    "expand_conv": ("blocks.{stage0}.{block0}.conv.0",),
    "expand_bn": ("blocks.{stage0}.{block0}.conv.1",),
    "depthwise_conv": ("blocks.{stage0}.{block0}.conv.3",),
    "depthwise_bn": ("blocks.{stage0}.{block0}.conv.4",),
    "project_conv": ("blocks.{stage0}.{block0}.conv.6",),
    "project_bn": ("blocks.{stage0}.{block0}.conv.7",),
    "head_conv": ("conv2.0",),
    "head_bn": ("conv2.1",),
    "logits": ("classifier.0",),
}
_SHUFFLENET = _RESNET | {"head_conv": ("conv2",), "head_bn": ("bn2",), "logits": ("linear",)}

_CIFAR_RESNETS = Family(_RESNET, REPDISTILLER, source_without_shortcuts=AKAMASTER)
_IMAGENET_RESNETS = Family(_RESNET, TORCHVISION)
_WIDE_RESNETS = Family(_WIDE_RESNET, REPDISTILLER)
_VGGS = Family(_VGG, REPDISTILLER, stem="stage1_conv1")

FAMILIES = {
    "resnet8": _CIFAR_RESNETS,
    "resnet14": _CIFAR_RESNETS,
    "resnet20": _CIFAR_RESNETS,
    "resnet32": _CIFAR_RESNETS,
    "resnet44": _CIFAR_RESNETS,
    "resnet56": _CIFAR_RESNETS,
    "resnet110": _CIFAR_RESNETS,
    "resnet8x4": _CIFAR_RESNETS,
    "resnet32x4": _CIFAR_RESNETS,
    "wrn_16_1": _WIDE_RESNETS,
    "wrn_16_2": _WIDE_RESNETS,
    "wrn_40_1": _WIDE_RESNETS,
    "wrn_40_2": _WIDE_RESNETS,
    "vgg8": _VGGS,
    "vgg13": _VGGS,
    "mobilenet_v2": Family(_MOBILENET, REPDISTILLER),
    "shufflenet_v1": Family(_SHUFFLENET, REPDISTILLER),
    "shufflenet_v2": Family(_SHUFFLENET, REPDISTILLER),
    "cifar_resnet50": Family(_RESNET, REPDISTILLER),
    "resnet18": _IMAGENET_RESNETS,
    "resnet34": _IMAGENET_RESNETS,
    "resnet50": _IMAGENET_RESNETS,
    "resnet101": _IMAGENET_RESNETS,
    "resnet152": _IMAGENET_RESNETS,
}


def module_name(family, layer_name, names):
    """The PyTorch module that a layer's weights come from, as this checkpoint spells it.

    Args:
      family: a value of FAMILIES.
      layer_name: such as `stage2_block1_shortcut_conv`; the parts `_group1`, `_group2`, ... of one convolution share one.
      names: names of the checkpoint's tensors.
    """
    stage, block, part = re.fullmatch(r"(?:stage(\d+)_)?(?:block(\d+)_)?(.+?)(?:_group\d+)?", layer_name).groups()
    numbers = {"stage": stage, "stage0": int(stage or 1) - 1, "block0": int(block or 1) - 1}
    spellings = [spelling.format(**numbers) for spelling in family.modules[part]]
    return next((spelling for spelling in spellings if f"{spelling}.weight" in names), spellings[0])


def has_plain_shortcuts(family, names):
    """Whether these are tensors of a network whose shortcuts have none: option A, a slice and zero channels."""
    return family.source_without_shortcuts is not None and not any(
        re.search(r"\.(downsample|shortcut)\.", name) for name in names
    )


def source_of(family, names):
    """The `Source` whose checkpoints look like this one."""
    return family.source_without_shortcuts if has_plain_shortcuts(family, names) else family.source
