"""Datasets, and the deterministic streams of augmented batches made from them.

The order of the examples is a pure function of (seed, step) and their pixels are a pure function of (data_seed, epoch,
example). A stream can therefore start at any step without decoding or drawing what comes before it.

settings         the settings of this folder's code, as plain values; without TensorFlow
catalog          dataset names, and the datasets whose numbers are known in advance; without TensorFlow
loading          load(settings) -> Dataset: reads a source, holds out the validation split, measures mean and std
hold_out         which examples are held out, by class and by group; without TensorFlow
redraw           which images of a dataset another split rule trains on
grouping         groups of images, from the names of their files; without TensorFlow
dataset          Dataset, Split and Source
packaged         the datasets inside the package
tfds_source      any TFDS image classification dataset
array_record     images that TFDS has prepared as ArrayRecord
folder_source    a folder of image files
folder_index     the files of such a folder, split by their names; without TensorFlow
picture_index    the files of a folder without class folders; without TensorFlow
folder_parts     which folders are the training, validation and test parts; without TensorFlow
folder_walk      which files are images, and which links are followed; without TensorFlow
file_splits      splits of image files, in memory or on disk
file_problems    files that do not decode, and equal pictures in two places: what is said of them
file_facts       size, content hash, shape and orientation of each file, kept between processes; without TensorFlow
image_header     what the first bytes of an image file say; without TensorFlow
function_source  a user's own function
disk_images      images that stay encoded on disk and are decoded on demand
image_ops        decodes, resizes and crops one image
memory_budget    decides whether decoded images are kept in memory
philox           the random numbers of chosen rows of a table that is never made
augmentation     random numbers per example; random padded crops and mirroring of a batch
trivial_augment  TrivialAugment of a batch
erasing          random erasing of a batch
mixing           mixup and CutMix
augmenter        all of these in their order
augmentation_grid  a picture of training images, augmented
unlabelled       --unlabelled: further images without labels, and batches with a share of them
training_stream  train_stream: augmented training batches from any step
teacher_cache    facts of a teacher, and files with the logits of whole splits
logit_records    the logits of one image as bytes: all of them, or the largest with mean and norm of all
logit_shards     files of such records by shard, with a checksum for each block
epoch_logits     the logits of augmented training images, read by (epoch, image) and verified
"""

from typing import TYPE_CHECKING

from skd_tf.runtime.lazy_imports import lazy

if TYPE_CHECKING:
    from skd_tf.data.dataset import Dataset, Split, evenly_spaced
    from skd_tf.data.disk_images import digest_of
    from skd_tf.data.loading import load, shared_loads
    from skd_tf.data.memory_budget import as_decided
    from skd_tf.data.settings import DataSettings, StreamSettings
    from skd_tf.data.training_stream import AugmentedImages, train_stream

__all__ = [
    "AugmentedImages",
    "DataSettings",
    "Dataset",
    "Split",
    "StreamSettings",
    "as_decided",
    "digest_of",
    "evenly_spaced",
    "load",
    "shared_loads",
    "train_stream",
]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "dataset": ["Dataset", "Split", "evenly_spaced"],
        "disk_images": ["digest_of"],
        "loading": ["load", "shared_loads"],
        "memory_budget": ["as_decided"],
        "settings": ["DataSettings", "StreamSettings"],
        "training_stream": ["AugmentedImages", "train_stream"],
    },
)
