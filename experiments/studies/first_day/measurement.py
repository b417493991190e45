"""The measurement sets that are parts of Fashion-MNIST, as functions for --dataset: the teacher trains on the same images."""

from typing import Any

from skd_tf import data
from skd_tf.data.catalog import KNOWN_DATASETS


def fashion_mnist_2000(data_dir: str | None) -> dict[str, Any]:
    """2,000 training images, evenly spaced in the order of the set, and all test images."""
    return _part(data_dir, 2000)


def fashion_mnist_10000(data_dir: str | None) -> dict[str, Any]:
    """10,000 training images, evenly spaced in the order of the set, and all test images."""
    return _part(data_dir, 10_000)


def _part(data_dir, count):
    whole = data.load(data.DataSettings(dataset="fashion_mnist", validation_fraction=0.0), data_dir)
    known, train = KNOWN_DATASETS["fashion_mnist"], whole.train.take(data.evenly_spaced(len(whole.train), count))
    return {
        "class_names": whole.class_names,
        "train": (train.images, train.labels),
        "test": (whole.test.images, whole.test.labels),
        "version": str(count),
        "mean": known.mean,
        "std": known.std,
        "pad": known.pad,
        "flip": known.flip,
    }
