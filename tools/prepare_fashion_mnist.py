"""Prepares Fashion-MNIST for TFDS from Debian's package, without TFDS' own download.

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb package
    python -m tools.prepare_fashion_mnist --source=package/usr/share/datasets/fashion-mnist --data_dir=DATA

Then --dataset=fashion_mnist --data_dir=DATA reads it. TFDS' builder, version, features, splits and order are unchanged.
"""

import gzip
import math
import pathlib
import struct
import sys

import numpy as np
from absl import flags

from skd_tf.config import app
from skd_tf.config.flags import define_flags
from skd_tf.errors import input_error
from skd_tf.runtime import tf_logging

_SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}


def define(flag_values: flags.FlagValues) -> None:
    """Defines the flags of the command."""
    what = "folder of Fashion-MNIST's four idx files, gzipped or not"
    flags.DEFINE_string("source", None, what, flag_values=flag_values)
    define_flags(flag_values, ("data_dir",))


def main(flag_values: flags.FlagValues) -> None:
    """Writes the TFRecords, unless they exist."""
    splits = {split: read(flag_values.source, *names) for split, names in _SPLITS.items()}
    tf_logging.import_tensorflow()
    import tensorflow_datasets as tfds

    builder = tfds.builder("fashion_mnist", data_dir=flag_values.data_dir)
    if builder.is_prepared():
        print(f"Already there: {builder.data_path}")
        return

    def examples(images, labels):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield i, {"image": image[..., None], "label": int(label)}

    builder._split_generators = lambda *_, **__: {split: examples(*arrays) for split, arrays in splits.items()}
    builder.download_and_prepare()
    print(f"Written: {builder.data_path}")


def read(source: str, name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 `[count, 28, 28]`, labels uint8 `[count]`) of one split."""
    folder = pathlib.Path(source)
    images = _idx(folder, f"{name}-images-idx3-ubyte", (count, 28, 28))
    return images, _idx(folder, f"{name}-labels-idx1-ubyte", (count,))


def _idx(folder, name, shape):
    """An array in the IDX format: two zeros, type 8 (uint8), rank, big-endian sizes, values."""
    found = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
    if found is None:
        raise input_error(
            "A file is missing",
            expected=f"{name} or {name}.gz",
            received=f"--source={folder}",
            remedy="Check the folder",
        )
    content = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
        expected = f"uint8 values of shape {shape}"
        raise input_error("A file is damaged", expected=expected, received=found, remedy="Get it again")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


if __name__ == "__main__":
    sys.argv[0] = "python -m tools.prepare_fashion_mnist"  # the name that --help shows
    app.run(
        main,
        description="Prepares Fashion-MNIST for TFDS from its idx files.",
        define=define,
        required=("source", "data_dir"),
    )
