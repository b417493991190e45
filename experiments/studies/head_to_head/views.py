"""Writes what all frameworks read: the augmented images of each epoch, the teacher's logits for them and the order of each seed.

    epoch0_images.npy      uint8 [45000, 32, 32, 3]: crops and mirror images, as skd_tf draws them with data_seed 0
    epoch0_logits.npy      float16 [45000, 100]: resnet56 in float32, BatchNorm folded
    orders.npy             int32 [seeds, epochs, 45000]: the order of skd_tf's training stream; the last 72 fill no batch
    labels.npy, test_*.npy, held_out_*.npy

A file that exists is kept, so a stopped export goes on with the next epoch.
"""

import pathlib
from collections.abc import Callable, Iterator

import numpy as np

TRAIN, EPOCHS, SEEDS, BATCH = 45_000, 12, 3, 128
_SHUFFLE_STREAM = 2 << 32  # as in skd_tf.data.training_stream


def export(folder: pathlib.Path, teacher_file: str, data_dir: str | None, epochs: int = EPOCHS) -> None:
    """Writes the files that `folder` lacks; a view and its logits for each of the first `epochs` epochs."""
    import keras
    import tensorflow as tf

    from skd_tf import data
    from skd_tf.models.fold_batch_norm import fold_batch_norm

    folder.mkdir(parents=True, exist_ok=True)
    if all((folder / f"epoch{epoch}_logits.npy").exists() for epoch in range(epochs)):
        return  # written last
    splits = data.load(data.DataSettings(dataset="cifar100", validation_split="uniform"), data_dir)
    _write(folder / "labels.npy", lambda: splits.train.labels)
    for name, split in (("test", splits.test), ("held_out", splits.validation)):
        _write(folder / f"{name}_images.npy", lambda split=split: split.images)
        _write(folder / f"{name}_labels.npy", lambda split=split: split.labels)

    def order(seed, epoch):
        keys = tf.constant([seed, epoch + _SHUFFLE_STREAM], tf.int64)
        return tf.random.experimental.stateless_shuffle(tf.range(len(splits.train)), keys, alg="philox").numpy()

    _write(folder / "orders.npy", lambda: np.array([[order(s, e) for e in range(EPOCHS)] for s in range(SEEDS)]))
    missing = [epoch for epoch in range(epochs) if not (folder / f"epoch{epoch}_logits.npy").exists()]
    teacher = fold_batch_norm(keras.saving.load_model(teacher_file))
    logits_of = tf.function(lambda images: teacher(images, training=False))
    for epoch in missing:
        views = data.AugmentedImages(splits, data_seed=0, epoch=epoch)
        parts = [np.arange(start, min(start + 500, len(views))) for start in range(0, len(views), 500)]
        images = np.concatenate([views[rows] for rows in parts])
        _write(folder / f"epoch{epoch}_images.npy", lambda images=images: images)
        logits = np.concatenate([logits_of(images[rows]).numpy() for rows in parts]).astype("float16")
        _write(folder / f"epoch{epoch}_logits.npy", lambda logits=logits: logits)
        print(f"views of epoch {epoch + 1} of {epochs}", flush=True)


class Batches:
    """The batches of a seed by their step: (images, teacher's logits, labels)."""

    def __init__(self, folder: pathlib.Path, seed: int) -> None:
        self._folder, self._epoch = folder, -1
        self._labels, self._orders = np.load(folder / "labels.npy"), np.load(folder / "orders.npy")[seed]

    def first(self, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The batches of the first `steps` steps."""
        return map(self.__getitem__, range(steps))

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, step = divmod(step, TRAIN // BATCH)
        if epoch != self._epoch:
            self._images = np.load(self._folder / f"epoch{epoch}_images.npy", mmap_mode="r")
            self._logits, self._epoch = np.load(self._folder / f"epoch{epoch}_logits.npy"), epoch
        rows = self._orders[epoch, step * BATCH : (step + 1) * BATCH]
        return self._images[rows], self._logits[rows].astype("float32"), self._labels[rows]


def _write(path: pathlib.Path, make: Callable[[], np.ndarray]) -> None:
    from skd_tf.runtime import atomic_files

    if not path.exists():
        array = make()
        with atomic_files.writing(path) as file:
            np.save(file, array)
