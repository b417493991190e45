"""All augmentation of a dataset in its order: crop and mirror, TrivialAugment, random erasing, mixup or CutMix."""

import tensorflow as tf

from skd_tf.data import erasing, mixing, trivial_augment
from skd_tf.data.augmentation import CROP, augment_batch, random_numbers
from skd_tf.data.dataset import Dataset
from skd_tf.data.disk_images import DiskImages

# Each operation has random numbers of its own, so none depends on which others are used. The shuffling of the training
# images has stream 2.
_STREAMS = {"crop": CROP, "trivial": (3, trivial_augment.DRAWS), "erase": (4, erasing.DRAWS), "mix": (5, mixing.DRAWS)}


class Augmenter:
    """Augments the training images of a dataset; each image depends on (data_seed, epoch, example) alone.

    Args:
      dataset: a `Dataset`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._train, self._crop, self._extra = dataset.train, dataset.augmentation, dataset.extra
        extra = self._extra
        used = {"crop": True, "trivial": extra.trivial, "erase": extra.erase, "mix": extra.mixes}
        self._columns, self._width = {}, 0
        for name in filter(used.get, _STREAMS):
            self._columns[name] = slice(self._width, self._width + _STREAMS[name][1])
            self._width += _STREAMS[name][1]
        self._index = None  # as a tensor, if the examples are not in the order of their source
        if not _counts_up(self._train.index):
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

    def draws(self, data_seed: int, epoch: int | tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The random numbers of training examples in one epoch, int32 `[n, columns]`; `rows` are int `[n]`."""
        examples = rows if self._index is None else tf.gather(self._index, rows)
        return random_numbers(data_seed, epoch, examples, [_STREAMS[name] for name in self._columns])

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
        return mixing.partners(draws[:, self._columns["mix"]], len(self._train))

    def mix(self, images: tf.Tensor, others: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mixes augmented images with their augmented partners: (uint8 images, float32 `[batch]` own share)."""
        extra = self._extra
        return mixing.mix(images, others, draws[:, self._columns["mix"]], mixup=extra.mixup, cutmix=extra.cutmix)


def _counts_up(index):
    """Whether distinct positions are 0, 1, 2, ... in this order."""
    return index[0] == 0 and index[-1] == len(index) - 1 and bool((index[1:] > index[:-1]).all())
