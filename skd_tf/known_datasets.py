"""Datasets whose numbers are known in advance: a new one is a row."""

import typing


class KnownDataset(typing.NamedTuple):
    """One dataset.

    Attributes:
      train: examples in the training split, validation part included.
      test: examples in the test split.
      num_classes: classes.
      image_shape: (height, width, channels), pixels.
      mean, std: per channel, of pixels scaled to [0, 1].
      flip: whether a mirrored image keeps its class.
      pad: pixels of zero padding on each side before the random crop.
    """

    train: int
    test: int
    num_classes: int
    image_shape: tuple
    mean: tuple
    std: tuple
    flip: bool
    pad: int


KNOWN_DATASETS = {
    "digits": KnownDataset(898, 899, 10, (8, 8, 1), (0.3075,), (0.377,), flip=False, pad=1),
    "mnist": KnownDataset(60_000, 10_000, 10, (28, 28, 1), (0.1307,), (0.3081,), flip=False, pad=2),
    "fashion_mnist": KnownDataset(60_000, 10_000, 10, (28, 28, 1), (0.2860,), (0.3530,), flip=True, pad=2),
    "cifar10": KnownDataset(
        50_000, 10_000, 10, (32, 32, 3), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), flip=True, pad=4
    ),
    "cifar100": KnownDataset(
        50_000, 10_000, 100, (32, 32, 3), (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), flip=True, pad=4
    ),
    "svhn_cropped": KnownDataset(
        73_257, 26_032, 10, (32, 32, 3), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), flip=False, pad=4
    ),
}
