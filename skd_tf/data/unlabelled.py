"""--unlabelled: images without labels beside a labelled dataset, and batches with a share of them."""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.data import folder_index, picture_index, redraw
from skd_tf.data.catalog import augmentation_of
from skd_tf.data.dataset import Dataset
from skd_tf.data.epoch_logits import EpochLogits, JointLogits
from skd_tf.data.file_splits import FileSplits
from skd_tf.data.folder_source import digests_of
from skd_tf.data.settings import DataSettings, StreamSettings
from skd_tf.data.training_stream import train_stream
from skd_tf.errors import counted, flag_error, input_error
from skd_tf.runtime.console import say, warn
from skd_tf.runtime.streams import untuned


def with_unlabelled(dataset: Dataset, name: str, settings: DataSettings) -> Dataset:
    """The dataset with further training images, which are read and augmented as its own are.

    Args:
      dataset: loaded with `settings`.
      name: "images:PATH". Of a folder with train/ and test/ the training part is used, else all images of the tree.
      settings: of `dataset`.

    Raises:
      InputError: images that the dataset measures on are among them, or they have another size.
    """
    seen = redraw.trained_on(dataclasses.replace(settings, dataset=name), dataset, settings, whole=True)
    if any(seen.values()):
        counts = " and ".join(counted(count, f"{part} image") for part, count in seen.items() if count)
        problem = f"has {counts} of --dataset={settings.dataset}, so what is measured there would be too good"
        raise flag_error("unlabelled", name, problem, "a folder without them", "Move them, or name another folder")
    height, width, channels = dataset.image_shape
    side = height if height == width else 0
    own = dataclasses.replace(settings, dataset=name, image_size=side, augmentation=augmentation_of(settings), group="")
    folder = folder_index.find(name, settings.data_seed)
    for note in folder.notes:
        warn(f"{folder.root}: {note}.")
    paths = folder_index.unlabelled_paths(name)
    files = FileSplits(own, folder.root, {"train": paths}, (), channels=channels, png_bits=dataset.png_bits)
    train = files.read({"train": np.full(len(paths), -1, np.int32)})["train"]
    for part, count in redraw.copies(files.hashes("train"), dataset, settings).items():
        if count:
            warn(
                f"--unlabelled={name} has copies of {counted(count, f'{part} image')} of --dataset={settings.dataset}, so what "
                "is measured there is too good."
            )
    if train.images.shape[1:] != dataset.image_shape:
        raise input_error(
            "The unlabelled images have another size",
            expected=f"{height}x{width} pixels as in --dataset={settings.dataset}",
            received=f"{train.images.shape[1]}x{train.images.shape[2]} in --unlabelled={name}",
            remedy="Add --image_size, which fits both",
        )
    say(f"{folder.root}: {counted(len(train), 'unlabelled image')}.")
    version, _ = digests_of(folder._replace(splits={"train": [(path, -1) for path in paths]}))
    more = dataclasses.replace(
        dataset,
        name=name,
        version=version,
        train=train,
        validation=None,
        test=None,
        key_name="images",
        png_bits=files.png_bits,
        drawn_from=None,
        set_version=digests_of(folder)[1],
    )
    return dataclasses.replace(dataset, unlabelled=more)


def steps_per_pass(dataset: Dataset, batch: int) -> int:
    """Steps in which all unlabelled images are used once, `batch` of them in each; the rest of a pass is dropped.

    Raises:
      InputError: there are fewer of them than one step needs.
    """
    assert dataset.unlabelled is not None
    images = len(dataset.unlabelled.train)
    picture_index.require_batch(images, batch, dataset.unlabelled.name)
    return images // batch


def mixed_stream(
    dataset: Dataset,
    settings: StreamSettings,
    unlabelled_batch: int,
    *,
    steps_per_epoch: int,
    first_step: int,
    last_step: int,
    shards: int = 1,
    shard_range: range | None = None,
    teacher_logits: EpochLogits | JointLogits | None = None,
    unlabelled_logits: EpochLogits | JointLogits | None = None,
) -> tf.data.Dataset:
    """`train_stream` with `unlabelled_batch` images of each global batch from `dataset.unlabelled`, with the label -1.

    They have passes of their own, which need not end with an epoch. Their order is a function of (data_seed, pass), their
    augmentation of (data_seed, pass, image): neither depends on --seed, and a cache of logits serves any share and
    batch size. Both kinds are spread evenly over each replica's part of a batch, so that micro-batches hold both.

    Args:
      dataset: a `Dataset` with unlabelled images.
      settings: a `StreamSettings`; its batch size counts both kinds.
      unlabelled_batch: how many of a global batch are unlabelled; a multiple of `shards`.
      steps_per_epoch, first_step, last_step, shards, shard_range, teacher_logits: as in `train_stream`; the first
        counts steps in which the labelled images are used once.
      unlabelled_logits: the teacher's, of the augmented unlabelled images by pass.
    """
    assert dataset.unlabelled is not None
    limits: dict[str, Any] = {
        "first_step": first_step,
        "last_step": last_step,
        "shards": shards,
        "shard_range": shard_range,
    }
    labelled_batch, per_pass = settings.batch_size - unlabelled_batch, steps_per_pass(dataset, unlabelled_batch)
    repeated = passes(dataset, unlabelled_batch, settings.teacher_cache_epochs * steps_per_epoch)
    streams = [
        train_stream(
            dataset,
            dataclasses.replace(settings, batch_size=labelled_batch),
            steps_per_epoch=steps_per_epoch,
            teacher_logits=teacher_logits,
            **limits,
        ),
        train_stream(
            dataset.unlabelled,
            dataclasses.replace(
                settings, batch_size=unlabelled_batch, seed=settings.data_seed, teacher_cache_epochs=repeated
            ),
            steps_per_epoch=per_pass,
            teacher_logits=unlabelled_logits,
            **limits,
        ),
    ]
    order = _spread(labelled_batch // shards, unlabelled_batch // shards)

    def merge(labelled, unlabelled):
        return tf.nest.map_structure(lambda *parts: tf.gather(tf.concat(parts, axis=0), order), labelled, unlabelled)

    merged = tf.data.Dataset.zip(*streams).map(merge, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return untuned(merged.prefetch(2))


def passes(dataset: Dataset, unlabelled_batch: int, steps: int) -> int:
    """How many passes over the unlabelled images so many steps begin."""
    return math.ceil(steps / steps_per_pass(dataset, unlabelled_batch))


def _spread(first: int, second: int) -> np.ndarray:
    """An order of `first` + `second` rows in which those of the second kind are evenly spaced."""
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in (first, second)])
    return np.argsort(places, kind="stable").astype(np.int32)
