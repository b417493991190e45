"""Writes skd_tf/data/assets/fashion_mnist_10k.npz from Fashion-MNIST's files.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb package
    python -m tools.package_fashion_mnist package/usr/share/datasets/fashion-mnist skd_tf/data/assets/fashion_mnist_10k.npz

The choice is fixed: of each class the first 800 training and the first 200 test images, in the order of the files.
"""

import io
import sys
import zipfile

import numpy as np

from tools.prepare_fashion_mnist import read

_PER_CLASS = {("train", 60_000): 800, ("t10k", 10_000): 200}


def chosen(labels: np.ndarray, most: int) -> np.ndarray:
    """The rows of the first `most` examples of each class, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:most] for label in np.unique(labels)]))


def main(source: str, output: str) -> None:
    """Reads the four idx files in `source` and writes the training images, then the test images."""
    parts = []
    for (name, count), most in _PER_CLASS.items():
        images, labels = read(source, name, count)
        rows = chosen(labels, most)
        parts.append((images[rows], labels[rows]))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    with zipfile.ZipFile(output, "w") as archive:  # an .npz, at deflate's highest level and without the time of writing
        for name, array in {"images": images, "labels": labels}.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            archive.writestr(entry, content.getvalue(), compresslevel=9)


if __name__ == "__main__":
    main(*sys.argv[1:])
