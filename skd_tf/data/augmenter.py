"""All augmentation of a dataset in its order: crop and mirror, TrivialAugment, random erasing, mixup or CutMix."""

import numpy as np
import tensorflow as tf

from skd_tf.data import erasing, mixing, trivial_augment
from skd_tf.data.augmentation import augment_batch, draw_table
from skd_tf.data.dataset import Dataset
from skd_tf.data.disk_images import DiskImages

# Each operation has random numbers of its own, so none depends on which others are used. The crop has stream 1, the
# shuffling of the training images stream 2.
_STREAMS = {"trivial": (3, trivial_augment.DRAWS), "erase": (4, erasing.DRAWS), "mix": (5, mixing.DRAWS)}


class Augmenter:
    """Augments the training images of a dataset; each image depends on (data_seed, epoch, example) alone.

    Args:
      dataset: a `Dataset`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._train, self._crop, self._extra = dataset.train, dataset.augmentation, dataset.extra
        extra = self._extra
        used = {"trivial": extra.trivial, "erase": extra.erase, "mix": extra.mixes}
        self._columns, self._width = {"crop": slice(0, 3)}, 3
        for name in filter(used.get, _STREAMS):
            self._columns[name] = slice(self._width, self._width + _STREAMS[name][1])
            self._width += _STREAMS[name][1]
        self._examples, self._table_rows = len(self._train), int(self._train.index.max()) + 1
        self._index = None  # as a tensor, if the examples are not in the order of their source
        if not np.array_equal(self._train.index, np.arange(self._table_rows)):
            with tf.device("CPU"):
                self._index = tf.constant(self._train.index)

    @property
    def mixes(self) -> bool:
        """Whether `mix` is to be called."""
        return self._extra.mixes

    @property
    def draws_spec(self) -> tf.TensorSpec:
        """Of the draws of one example."""
        return tf.TensorSpec([self._width], tf.int32)

    def draws(self, data_seed: int, epoch: int | tf.Tensor) -> tf.Tensor:
        """The random numbers of all training examples in one epoch, in their order, int32 `[examples, columns]`."""
        tables = [draw_table(data_seed, epoch, self._table_rows)]
        for name in filter(self._columns.get, _STREAMS):
            stream, columns = _STREAMS[name]
            tables.append(draw_table(data_seed, epoch, self._table_rows, stream=stream, columns=columns))
        table = tf.concat(tables, axis=1) if len(tables) > 1 else tables[0]
        return table if self._index is None else tf.gather(table, self._index)

    def decode(self, row: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """One image that stays on disk, decoded; a resized crop is applied while decoding."""
        assert isinstance(self._train.images, DiskImages)
        return self._train.images.decode_augmented(row, draws[:3], self._crop)

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Images of a batch with all but the mixing applied, uint8 of the same shape; `draws` are `[batch, columns]`."""
        images = augment_batch(images, draws[:, self._columns["crop"]], self._crop)
        if self._extra.trivial:
            images = trivial_augment.trivial_augment(images, draws[:, self._columns["trivial"]])
        if self._extra.erase:
            images = erasing.random_erasing(images, draws[:, self._columns["erase"]], self._extra.erase)
        return images

    def partners(self, draws: tf.Tensor) -> tf.Tensor:
        """Rows of the training split that the images are mixed with, int32 `[batch]`."""
        return mixing.partners(draws[:, self._columns["mix"]], self._examples)

    def mix(self, images: tf.Tensor, others: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mixes augmented images with their augmented partners: (uint8 images, float32 `[batch]` own share)."""
        extra = self._extra
        return mixing.mix(images, others, draws[:, self._columns["mix"]], mixup=extra.mixup, cutmix=extra.cutmix)
