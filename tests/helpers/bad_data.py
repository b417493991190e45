"""Dataset functions with one mistake each, for --dataset=bad_data:NAME."""

import numpy as np

NAMES = [str(i) for i in range(10)]


def split(count=200, dtype="uint8", channels=1, labels=10):
    random = np.random.default_rng(0)
    return random.integers(0, 255, [count, 8, 8, channels]).astype(dtype), np.arange(count) % labels


IMAGES, LABELS = split()


def dataset(train=None, test=None, **options):
    return {"class_names": NAMES, "train": train or split(**options), "test": test or split(**options)}


def floats(data_dir):
    return dataset(dtype="float32")


def colours(data_dir):
    return dataset(channels=3)


def eleven_labels(data_dir):
    return dataset(labels=11)


def few(data_dir):
    return dataset(count=40)


def flat(data_dir):
    return dataset((IMAGES[..., 0], LABELS), (IMAGES[..., 0], LABELS))


def few_labels(data_dir):
    return dataset((IMAGES, LABELS[:150]))


def nothing(data_dir):
    return dataset((IMAGES[:0], LABELS[:0]))


def coloured_test(data_dir):
    return dataset(test=split(channels=3))


def negative_labels(data_dir):
    return dataset((IMAGES, LABELS - 2))
