"""Names and published sizes of the networks. Imports neither TensorFlow nor Keras."""

from typing import NamedTuple


class Published(NamedTuple):
    """The published number of trainable parameters, for RGB images and `num_classes` classes."""

    parameters: int
    num_classes: int


# Name -> published size, or None. Sizes for 1000 classes are torchvision's and timm's, those for 100 RepDistiller's.
NETWORK_NAMES: dict[str, Published | None] = {
    "cnn_2": None,
    "cnn_4": None,
    "cnn_8": None,
    "cnn_16": None,
    "cnn_8_16_32": None,
    "resnet8": Published(83_892, 100),
    "resnet14": None,
    "resnet20": Published(278_324, 100),
    "resnet32": None,
    "resnet44": None,
    "resnet56": Published(861_620, 100),
    "resnet110": Published(1_736_564, 100),
    "resnet8x4": Published(1_233_540, 100),
    "resnet32x4": Published(7_433_860, 100),
    "wrn_16_1": Published(180_916, 100),
    "wrn_16_2": Published(703_284, 100),
    "wrn_40_1": Published(569_780, 100),
    "wrn_40_2": Published(2_255_156, 100),
    "vgg8": Published(3_965_028, 100),
    "vgg13": Published(9_462_180, 100),
    "mobilenet_v2": Published(812_836, 100),
    "shufflenet_v1": Published(949_258, 100),
    "shufflenet_v2": Published(1_355_528, 100),
    "cifar_resnet50": Published(23_705_252, 100),
    "resnet18": Published(11_689_512, 1000),
    "resnet34": Published(21_797_672, 1000),
    "resnet50": Published(25_557_032, 1000),
    "resnet101": Published(44_549_160, 1000),
    "resnet152": Published(60_192_808, 1000),
    "efficientnet_lite0": Published(4_652_008, 1000),
    "efficientnet_lite1": Published(5_416_680, 1000),
}
