"""The names that public PyTorch networks give their tensors, and the normalisation that they were trained with."""

import re
from collections.abc import Container, Iterable
from typing import NamedTuple


class Source(NamedTuple):
    """A code base that publishes checkpoints, and the images that it trains on; pixels are scaled to [0, 1]."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    num_classes: int


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# akamaster normalises CIFAR-10 with ImageNet's numbers: github.com/akamaster/pytorch_resnet_cifar10, trainer.py.
AKAMASTER = Source("akamaster", **_IMAGENET, input_size=32, num_classes=10)
# CIFAR-100: github.com/HobbitLong/RepDistiller and github.com/megvii-research/mdistiller, dataset/cifar100.py.
REPDISTILLER = Source("RepDistiller and mdistiller", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 32, 100)
TORCHVISION = Source("torchvision", **_IMAGENET, input_size=224, num_classes=1000)
# (x - 127) / 128 of raw pixels, as in TensorFlow: github.com/tensorflow/tpu, efficientnet/lite/efficientnet_lite_builder.py.
_LITE_PIXELS = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "num_classes": 1000}
LITE0, LITE1 = (Source("efficientnet_lite_pytorch", input_size=size, **_LITE_PIXELS) for size in (224, 240))


class Family(NamedTuple):
    """Networks that share one naming scheme.

    `modules` maps the end of our layer name to the PyTorch module names, tried in order. In these, {stage} counts from
    1; {stage0} and {block0} count from 0, and so does {index}, over all stages with `blocks` blocks each.
    `source_without_shortcuts` is the source of checkpoints whose shortcuts hold no tensors, None if the shortcuts of
    this family always hold some.
    """

    modules: dict[str, tuple[str, ...]]
    source: Source
    source_without_shortcuts: Source | None = None
    stem: str = "stem_conv"
    blocks: tuple[int, ...] = ()


_BLOCK_PARTS = [f"{kind}{number}" for number in range(1, 6) for kind in ("conv", "bn")]
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
_VGG_LAYERS = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}
_VGG = {part: (f"block{{stage0}}.{index}",) for part, index in _VGG_LAYERS.items()} | {"logits": ("classifier",)}
_MOBILENET_LAYERS = {"expand": 0, "depthwise": 3, "project": 6}
_MOBILENET = {
    f"{part}_{kind}": (f"blocks.{{stage0}}.{{block0}}.conv.{index + offset}",)
    for part, index in _MOBILENET_LAYERS.items()
    for offset, kind in enumerate(("conv", "bn"))
} | {
    "stem_conv": ("conv1.0",),
    "stem_bn": ("conv1.1",),
    "head_conv": ("conv2.0",),
    "head_bn": ("conv2.1",),
    "logits": ("classifier.0",),
}
_SHUFFLENET = _RESNET | {"head_conv": ("conv2",), "head_bn": ("bn2",), "logits": ("linear",)}
_LITE = {
    f"{part}_{kind}": (f"_blocks.{{index}}.{module}",)
    for part, *modules in (
        ("expand", "_expand_conv", "_bn0"),
        ("depthwise", "_depthwise_conv", "_bn1"),
        ("project", "_project_conv", "_bn2"),
    )
    for kind, module in zip(("conv", "bn"), modules, strict=True)
} | {
    "stem_conv": ("_conv_stem",),
    "stem_bn": ("_bn0",),
    "head_conv": ("_conv_head",),
    "head_bn": ("_bn1",),
    "logits": ("_fc",),
}

_FAMILIES = {
    "resnet8 resnet14 resnet20 resnet32 resnet44 resnet56 resnet110 resnet8x4 resnet32x4": Family(
        _RESNET, REPDISTILLER, source_without_shortcuts=AKAMASTER
    ),
    "wrn_16_1 wrn_16_2 wrn_40_1 wrn_40_2": Family(_WIDE_RESNET, REPDISTILLER),
    "vgg8 vgg13": Family(_VGG, REPDISTILLER, stem="stage1_conv1"),
    "mobilenet_v2": Family(_MOBILENET, REPDISTILLER),
    "shufflenet_v1 shufflenet_v2": Family(_SHUFFLENET, REPDISTILLER),
    "cifar_resnet50": Family(_RESNET, REPDISTILLER),
    "resnet18 resnet34 resnet50 resnet101 resnet152": Family(_RESNET, TORCHVISION),
    "efficientnet_lite0": Family(_LITE, LITE0, blocks=(1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_lite1": Family(_LITE, LITE1, blocks=(1, 3, 3, 4, 4, 5, 1)),
}
FAMILIES = {name: family for names, family in _FAMILIES.items() for name in names.split()}


def module_name(family: Family, layer_name: str, names: Container[str]) -> str:
    """The PyTorch module that holds a layer's weights, in the spelling of this checkpoint.

    Args:
      family: a value of FAMILIES.
      layer_name: our name of the layer, such as `stage2_block1_shortcut_conv`. `_group1`, `_group2`, ... are the parts
        of one convolution and share a module.
      names: the names of the checkpoint's tensors.
    """
    stage, block, part = re.fullmatch(r"(?:stage(\d+)_)?(?:block(\d+)_)?(.+?)(?:_group\d+)?", layer_name).groups()
    stage0, block0 = int(stage or 1) - 1, int(block or 1) - 1
    numbers = {"stage": stage, "stage0": stage0, "block0": block0, "index": sum(family.blocks[:stage0]) + block0}
    spellings = [spelling.format(**numbers) for spelling in family.modules[part]]
    return next((spelling for spelling in spellings if f"{spelling}.weight" in names), spellings[0])


def has_plain_shortcuts(family: Family, names: Iterable[str]) -> bool:
    """Whether the shortcuts hold no tensors: option A, which subsamples and pads with zero channels."""
    return family.source_without_shortcuts is not None and not any(
        re.search(r"\.(downsample|shortcut)\.", name) for name in names
    )


def source_of(family: Family, names: Iterable[str]) -> Source:
    """The `Source` whose checkpoints look like this one."""
    return family.source_without_shortcuts if has_plain_shortcuts(family, names) else family.source
