"""Datasets to batches of augmented images, deterministic.

reading    load(config) -> Dataset: finds the source, holds out the validation split, measures mean and std
sets       Split and Dataset, and which rows stand for all
tfds_sets  any TFDS image classification set
folders    a folder of JPEG and PNG files, a class a folder
hooks      a user's own function
stored     images that stay encoded on the disk and are decoded when asked for
pictures   decoding, resizing and cropping one image
stream     train_stream: the order is a pure function of (seed, step), pixels of (data_seed, epoch, example)

So a stream starts at any step without decoding or drawing anything before it.
"""

from typing import TYPE_CHECKING

from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf.data.dataset import Dataset, Split, evenly_spaced
    from skd_tf.data.disk_images import digest_of
    from skd_tf.data.loading import load
    from skd_tf.data.settings import DataSettings, StreamSettings
    from skd_tf.data.training_stream import AugmentedImages, train_stream

__all__ = [
    "AugmentedImages",
    "DataSettings",
    "Dataset",
    "Split",
    "StreamSettings",
    "digest_of",
    "evenly_spaced",
    "load",
    "train_stream",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "dataset": ["Dataset", "Split", "evenly_spaced"],
        "disk_images": ["digest_of"],
        "loading": ["load"],
        "settings": ["DataSettings", "StreamSettings"],
        "training_stream": ["AugmentedImages", "train_stream"],
    },
)
