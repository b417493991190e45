"""load(settings) -> Dataset: reads a source, holds out the validation split, and measures mean and std."""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from skd_tf.data import (
    file_problems,
    folder_source,
    function_source,
    grouping,
    hold_out,
    memory_budget,
    packaged,
    tfds_source,
)
from skd_tf.data.augmentation import Augmentation, Extra, ResizedCrop
from skd_tf.data.catalog import augmentations, has_labels, source_kind
from skd_tf.data.dataset import Dataset, DrawnFrom, Split, evenly_spaced
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted, flag_error, input_error
from skd_tf.runtime.console import warn

_MEASURED = 10_000  # images from which mean and std are computed
_CHUNK = 256
_PIECE_BYTES = 4 << 20
_last_load: contextvars.ContextVar[dict | None] = contextvars.ContextVar("last_load", default=None)


@contextlib.contextmanager
def shared_loads() -> Iterator[None]:
    """Inside this context a dataset that is loaded again is the one that was loaded last, if the settings are the same.

    A run, its teacher and its student alone then read their data once.
    """
    if _last_load.get() is not None:
        yield
        return
    token = _last_load.set({})
    try:
        yield
    finally:
        _last_load.reset(token)


def load(
    settings: DataSettings,
    data_dir: str | None = None,
    *,
    train: bool = True,
    test: bool = True,
    class_names: Sequence[str] = (),
) -> Dataset:
    """Reads a dataset. Images are decoded into memory if they fit; otherwise they stay on disk, decoded on demand.

    Args:
      settings: a `DataSettings`.
      data_dir: the TFDS data directory; None is TFDS' own default.
      train: whether to read the training split. Without it `train` is empty, and mean and std are so too unless the
        source knows them.
      test: whether to read the test split (a hyperparameter search must not see it).
      class_names: of the teacher, for a dataset without labels; other datasets have their own.

    Returns:
      A `Dataset`. `validation` is the source's own validation part, or drawn from the labelled training examples, which
      depends on data_seed alone; `test` is the labelled part of the test split. A dataset without labels has all of them.

    Raises:
      InputError: the dataset is unknown or not prepared, is not for image classification, has images of several sizes,
        or has a test split without labels.

    Examples:
      >>> digits = load(DataSettings(dataset="digits", validation_fraction=0.1))
      >>> digits.image_shape, len(digits.train), len(digits.validation), len(digits.test)
      ((8, 8, 1), 808, 90, 899)
    """
    asked = dataclasses.replace(settings, download=False), data_dir, train, test, *class_names
    last, key = _last_load.get(), (memory_budget.decided(settings.dataset), *asked)
    if last is None:
        return _load(settings, data_dir, train, test, class_names)
    if key not in last:
        last.clear()
        last[key] = _load(settings, data_dir, train, test, class_names)
    return last[key]


def _load(settings, data_dir, train, test, class_names):
    grouping.check(settings.dataset, settings.group)
    read = _READERS[source_kind(settings.dataset)]
    source = read(settings, data_dir, (*["train"] * train, *["test"] * test))
    measured = Split.labelled if has_labels(settings.dataset) else lambda split: split
    test_split = measured(source.splits["test"]) if test else None
    if test_split is not None and not len(test_split):
        raise input_error(
            "No test image has a label, so nothing can be measured",
            expected="labels from 0 in the test split",
            received=f"{counted(len(source.splits['test']), 'unlabelled image')} from {settings.dataset}",
            remedy="Add a test split with labels",
        )
    drawn_from, warnings = None, source.warnings
    if train:
        training, validation = source.splits["train"], source.splits.get("validation")
        if validation is None:
            groups = source.groups and source.groups["train"][training.index]
            drawn_from = DrawnFrom(training.labels, training.index, groups)
            training, validation = _hold_out(training, settings, source.groups, measured)
            if validation is not None and source.hashes:
                warnings += file_problems.report_equal_drawn(source.hashes("train"), training.index, validation.index)
        else:
            validation = measured(validation)
            validation = validation if len(validation) else None
    else:
        training, validation = source.splits["test"].take(np.zeros(0, np.int64)), None
    if source.groups:
        grouping.warn_of_shared(source.groups)
    for name, split in (("training", training if train else None), ("validation", validation), ("test", test_split)):
        missing = split and hold_out.missing_classes(split.labels, source.class_names)
        if missing:
            warn(f"{settings.dataset}: no {name} image of {missing}.")
    if source.mean and source.std:
        mean, std = source.mean, source.std
    else:
        mean, std = _pixel_statistics(training.images) if train else ((), ())
    crop, extra = _augmentation(settings, source, training)
    return Dataset(
        settings.dataset,
        source.version,
        source.class_names or tuple(class_names),
        mean,
        std,
        crop,
        training,
        validation,
        test_split,
        key_name=source.key_name,
        png_bits=source.png_bits,
        warnings=warnings,
        drawn_from=drawn_from,
        set_version=source.set_version,
        extra=extra,
    )


def _augmentation(settings, source, training):
    """(how images are cropped and mirrored, the rest of their augmentation)."""
    how = augmentations(settings)
    _, height, width, channels = training.images.shape
    flip = channels == 3 if source.flip is None else source.flip  # mirror photographs, but not characters
    flip = flip if how.mirror is None else how.mirror
    extra = Extra(how.trivial, how.erase, how.mixup, how.cutmix)
    unlabelled = np.count_nonzero(training.labels < 0)
    if extra.mixes and unlabelled:
        raise flag_error(
            "augmentation",
            settings.augmentation,
            f"cannot mix labels: {unlabelled} of {counted(len(training), 'training image')} without one",
            "a list without mixup and cutmix",
            "Drop these two, or the images without a label",
        )
    if how.crop == "resized":
        return ResizedCrop(flip, how.area), extra
    default = max(1, height // 8) if source.pad is None else source.pad
    pad = (default if how.pad is None else how.pad) if how.crop else 0
    smaller = min(height, width)
    if pad >= smaller:
        raise flag_error(
            "augmentation",
            settings.augmentation,
            f"moves images of {height}x{width} pixels by up to {pad}, so some would be all black",
            f"crop:PIXELS, fewer than {smaller}",
            f"An eighth of the side is usual: crop:{max(1, smaller // 8)}",
        )
    return Augmentation(pad=pad, flip=flip), extra


def _hold_out(split, settings, groups, measured):
    """(training part, validation part or None) of a split. Groups that are held out take their unlabelled images along."""
    rows = hold_out.validation_rows(split.labels, settings, groups and groups["train"][split.index])
    if not len(rows):
        return split, None
    held_out = measured(split.take(rows))  # before the others move
    return split.without(rows), held_out


def _pixel_statistics(images):
    """(mean, std), each a tuple with one number per channel, of pixels scaled to [0, 1]."""
    rows = evenly_spaced(len(images), _MEASURED)
    sums, squares = 0.0, 0.0
    most = max(1, _PIECE_BYTES // math.prod(images.shape[1:]))
    for chunk in np.array_split(rows, math.ceil(len(rows) / _CHUNK)):
        for piece in np.array_split(chunk, math.ceil(len(chunk) / most)):  # as float64 it takes eight times its bytes
            pixels = images[piece].reshape(-1, images.shape[3]) / 255.0
            sums, squares = sums + pixels.sum(axis=0), squares + np.square(pixels).sum(axis=0)
    count = len(rows) * math.prod(images.shape[1:3])
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - np.square(mean), 1e-12))
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 1e-4).round(4).tolist())


_READERS = {
    "packaged": packaged.read,
    "folder": folder_source.read,
    "images": folder_source.read,
    "function": function_source.read,
    "tfds": tfds_source.read,
}
