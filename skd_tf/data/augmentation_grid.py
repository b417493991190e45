"""A picture of a dataset's augmentation, to look at before a training."""

import os

import numpy as np
import tensorflow as tf

from skd_tf.data.dataset import Dataset, evenly_spaced
from skd_tf.data.training_stream import AugmentedImages
from skd_tf.runtime import atomic_files

_LEAST_SIDE = 64  # pixels in the picture; smaller images are enlarged
_GAP = 4


def write_grid(dataset: Dataset, data_seed: int, path: str | os.PathLike, *, images: int = 6, epochs: int = 7) -> int:
    """Writes a PNG file with a row per training image: the image as it is, and augmented as in the first epochs.

    Args:
      dataset: a `Dataset`.
      data_seed: decides the augmentation.
      path: of the file.
      images: most rows.
      epochs: columns beside the first one.

    Returns:
      The number of rows.
    """
    rows = evenly_spaced(len(dataset.train), images)
    columns = [
        dataset.train.images[rows],
        *(AugmentedImages(dataset, data_seed, epoch)[rows] for epoch in range(epochs)),
    ]
    cells = np.stack(columns, axis=1)  # [image, column, height, width, channels]
    scale = -(-_LEAST_SIDE // min(cells.shape[2:4]))
    cells = cells.repeat(scale, axis=2).repeat(scale, axis=3)
    cells = np.pad(cells, [(0, 0), (0, 0), (0, _GAP), (0, _GAP), (0, 0)], constant_values=255)
    picture = np.concatenate(np.concatenate(cells, axis=1), axis=1)[:-_GAP, :-_GAP]
    picture = picture[..., : 3 if picture.shape[-1] >= 3 else 1]  # a PNG has no more channels
    with atomic_files.writing(path) as file:
        file.write(tf.io.encode_png(picture).numpy())
    return len(rows)
