"""Dataset functions of a user who got something wrong, for --dataset=bad_data:NAME."""

import numpy as np

NAMES = [str(i) for i in range(10)]


def split(count=200, dtype="uint8", channels=1, labels=10):
    random = np.random.default_rng(0)
    return random.integers(0, 255, [count, 8, 8, channels]).astype(dtype), np.arange(count) % labels


def dataset(**options):
    return {"class_names": NAMES, "train": split(**options), "test": split(**options)}


def floats(data_dir):
    return dataset(dtype="float32")


def colours(data_dir):
    return dataset(channels=3)


def eleven_labels(data_dir):
    return dataset(labels=11)


def few(data_dir):
    return dataset(count=40)


def flat(data_dir):
    images, labels = split()
    return {"class_names": NAMES, "train": (images[..., 0], labels), "test": (images[..., 0], labels)}


def few_labels(data_dir):
    images, labels = split()
    return {"class_names": NAMES, "train": (images, labels[:150]), "test": (images, labels)}


def nothing(data_dir):
    images, labels = split()
    return {"class_names": NAMES, "train": (images[:0], labels[:0]), "test": (images, labels)}


def coloured_test(data_dir):
    return {"class_names": NAMES, "train": split(), "test": split(channels=3)}


def negative_labels(data_dir):
    images, labels = split()
    return {"class_names": NAMES, "train": (images, labels - 2), "test": (images, labels)}
