"""load(settings) -> Dataset: the source found, the validation split held out, the facts that training needs measured."""

import math
import pathlib

import numpy as np

from skd_tf.data import augmentation, folder_source, function_source, tfds_source
from skd_tf.data.catalog import KNOWN_DATASETS, augmentation_of, source_kind
from skd_tf.data.dataset import Dataset, Source, Split, evenly_spaced
from skd_tf.errors import input_error

_ASSETS = pathlib.Path(__file__).with_name("assets")
_MEASURED = 10_000  # images that mean and std are taken over
_CHUNK = 256


def load(settings, data_dir=None, *, test=True):
    """Reads a dataset: decoded into memory where it fits, else left on the disk and decoded as it streams.

    Args:
      settings: `DataSettings`; `dataset`, `download`, `data_seed`, `validation_fraction`, `image_size`, `augmentation` and
        `cache_dataset` are used.
      data_dir: TFDS data directory; None is TFDS' own default.
      test: whether the test split is read at all (a search must not see it).

    Returns:
      A `Dataset`; `validation` is drawn from the labelled part of the training split by data_seed alone, `test` is the
      labelled part of the test split.

    Raises:
      InputError: an unknown or unprepared set, one that is not an image classification set, images of several sizes, or a
        test split without labels.
    """
    read = _READERS[source_kind(settings.dataset)]
    source = read(settings, data_dir, ("train", "test") if test else ("train",))
    tested = source.splits["test"].labelled() if test else None
    if test and not len(tested):
        raise input_error(
            "No test image has a label: nothing could be measured",
            expected="labels from 0 in the test split",
            received=f"{len(source.splits['test'])} images without one from {settings.dataset}",
            remedy="Add a test split with labels",
        )
    train, validation = _hold_out(source.splits["train"], settings.validation_fraction, settings.data_seed)
    mean, std = (source.mean, source.std) if source.mean else _pixel_statistics(train.images)
    return Dataset(
        settings.dataset,
        source.version,
        tuple(source.class_names),
        tuple(mean),
        tuple(std),
        _augmentation(settings, source, train.images.shape),
        train,
        validation,
        tested,
    )


def _augmentation(settings, source, shape):
    height, channels = shape[1], shape[3]
    flip = channels == 3 if source.flip is None else source.flip  # photographs may be mirrored; characters may not
    if augmentation_of(settings) == "none":
        return augmentation.Augmentation(pad=0, flip=False)
    if augmentation_of(settings) == "resized_crop":
        return augmentation.ResizedCrop(flip=flip)
    return augmentation.Augmentation(pad=max(1, height // 8) if source.pad is None else source.pad, flip=flip)


def _hold_out(split, fraction, data_seed):
    labelled = split.labels >= 0
    held_out = round(int(labelled.sum()) * fraction)
    if not held_out:
        return split, None
    order = np.random.Generator(np.random.Philox(data_seed)).permutation(len(split))
    chosen = order[labelled[order]][:held_out]
    kept = np.setdiff1d(np.arange(len(split)), chosen)
    return split.take(kept), split.take(np.sort(chosen))


def _pixel_statistics(images):
    rows = evenly_spaced(len(images), _MEASURED)
    sums, squares = 0.0, 0.0
    for chunk in np.array_split(rows, math.ceil(len(rows) / _CHUNK)):
        pixels = images[chunk].reshape(-1, images.shape[3]) / 255.0
        sums, squares = sums + pixels.sum(axis=0), squares + np.square(pixels).sum(axis=0)
    count = len(rows) * math.prod(images.shape[1:3])
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-12))
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 1e-4).round(4).tolist())


def _read_digits(settings, data_dir, names):
    del data_dir
    if settings.image_size not in (0, 8):
        raise input_error(
            "digits has 8x8 images",
            expected="--image_size=0 or 8",
            received=f"image_size={settings.image_size}",
            remedy="Leave it out",
        )
    if settings.augmentation == "resized_crop":
        raise input_error(
            "digits has no larger originals that a window could be cut from",
            expected="--augmentation=auto, pad_crop or none",
            received="--augmentation=resized_crop",
            remedy="Leave it out",
        )
    with np.load(_ASSETS / "digits.npz", allow_pickle=False) as archive:
        images = np.rint(archive["images"].astype(np.float64) * (255 / 16)).astype(np.uint8)[..., None]
        labels = archive["labels"].astype(np.int32)
    known = KNOWN_DATASETS["digits"]
    # In order, not shuffled: consecutive digits are by the same writers, so most test writers are unseen.
    parts = {"train": slice(0, known.train), "test": slice(known.train, None)}
    splits = {name: Split(images[part], labels[part], np.arange(len(labels[part]))) for name, part in parts.items()}
    return Source(
        "1.0.0",
        [str(digit) for digit in range(10)],
        {name: splits[name] for name in names},
        known.mean,
        known.std,
        known.pad,
        known.flip,
    )


_READERS = {
    "digits": _read_digits,
    "folder": folder_source.read,
    "function": function_source.read,
    "tfds": tfds_source.read,
}
