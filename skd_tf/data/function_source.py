"""A user's own data: --dataset=MODULE:FUNCTION."""

import dataclasses
import operator

import numpy as np
import tensorflow as tf

from skd_tf.data import image_ops
from skd_tf.data.catalog import augmentation_of, size_and_resize
from skd_tf.data.dataset import Source, Split
from skd_tf.data.folder_source import splits_of_files
from skd_tf.data.memory_budget import keeps_in_memory, several_sizes
from skd_tf.errors import input_error
from skd_tf.runtime import user_code

_REQUIRED = ("class_names", "train")
_OPTIONAL = ("test", "version", "mean", "std", "pad", "flip")


def read(settings, data_dir, names):
    """The `Source` of a user's function.

        function(data_dir) -> {"class_names": [...], "train": split, "test": split, "version": "1", "mean": ..., "std": ...,
                               "pad": pixels, "flip": bool}

    A split is (images, labels): images uint8 `[n, h, w, c]` or a list of paths of JPEG and PNG files, which are left on the
    disk where they do not fit in memory; labels integer `[n]`, -1 = unlabelled. Or a finite tf.data.Dataset of (image uint8
    `[h, w, c]`, label) in a fixed order. mean and std are of pixels scaled to [0, 1], a number a channel, both or neither;
    pad is the zero padding before the random crop. All but class_names, train and, where it is read, test may be left out.

    Raises:
      InputError: anything else.
    """
    spec = user_code.resolve(settings.dataset, "dataset")(data_dir)
    required = (*_REQUIRED, *(["test"] if "test" in names else []))
    if not isinstance(spec, dict) or set(required) - set(spec) or set(spec) - {*_REQUIRED, *_OPTIONAL}:
        raise input_error(
            "The dataset function returns another thing",
            expected=f"a dict with {', '.join(required)}, and as need be {', '.join(_OPTIONAL)}",
            received=f"{sorted(spec) if isinstance(spec, dict) else type(spec).__name__} from {settings.dataset}",
            remedy="Return such a dict",
        )
    class_names = tuple(str(name) for name in spec["class_names"])
    parts = {name: _unpacked(settings, name, spec[name]) for name in names}
    labels = {name: _checked_labels(settings, name, part[1], len(class_names)) for name, part in parts.items()}
    images = {name: part[0] for name, part in parts.items()}
    for name in names:
        if len(images[name]) != len(labels[name]):
            got = f"{len(images[name])} images and {len(labels[name])} labels"
            raise _refusal(settings, name, "a label for each image", got)
    if all(isinstance(part, list) for part in images.values()):
        splits = splits_of_files(settings, images, labels)
    else:
        splits = {name: _array_split(settings, name, images[name], labels[name]) for name in names}
        shapes = {name: split.images.shape[1:] for name, split in splits.items()}
        if len(set(shapes.values())) > 1:
            raise _refusal(settings, "test", f"images {shapes['train']} as in train", f"{shapes['test']}")
    facts = _checked_facts(settings, spec, splits["train"].images.shape[-1])
    return Source(str(spec.get("version", "1")), class_names, splits, **facts)


def _floats(values):
    return tuple(float(number) for number in np.atleast_1d(values))


def _checked_facts(settings, spec, channels):
    """What the function says of mean, std, pad and flip, as Python's own numbers: teacher caches write them as JSON."""
    each = f"{channels} numbers, one a channel,"
    checks = {
        "mean": (_floats, lambda mean: len(mean) == channels and all(0 <= m <= 1 for m in mean), f"{each} from 0 to 1"),
        "std": (_floats, lambda std: len(std) == channels and all(0 < s < np.inf for s in std), f"{each} above 0"),
        "pad": (operator.index, lambda pad: pad >= 0, "a whole number of pixels from 0"),
        "flip": ({0: False, 1: True}.__getitem__, lambda flip: True, "True or False"),
    }
    facts = {}
    for name, (read, holds, expected) in checks.items():
        if spec.get(name) is None:
            continue
        try:
            facts[name] = read(spec[name])
            fits = holds(facts[name])
        except (TypeError, ValueError, LookupError):
            fits = False
        if not fits:
            raise _refusal(settings, name, expected, " ".join(f"{name}={spec[name]!r}".split()), kind="entry")
    if ("mean" in facts) != ("std" in facts):
        alone, missing = ("mean", "std") if "mean" in facts else ("std", "mean")
        raise _refusal(settings, alone, f"{missing} beside it", f"{alone}={facts[alone]} alone", kind="entry")
    return facts


def _unpacked(settings, name, split):
    """(images, labels) of a split; images an array, or a list of paths."""
    if isinstance(split, tf.data.Dataset):
        return _collected(settings, name, split)
    try:
        images, labels = split
    except (TypeError, ValueError) as error:
        raise _refusal(settings, name, "(images, labels) or a tf.data.Dataset", type(split).__name__) from error
    if not hasattr(images, "shape") and len(images) and not hasattr(images[0], "shape"):
        return [str(path) for path in images], np.asarray(labels)
    return np.asarray(images), np.asarray(labels)


def _collected(settings, name, stream):
    spec = stream.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2 or spec[0].shape.rank != 3 or spec[0].dtype != tf.uint8:
        raise _refusal(settings, name, "elements (image uint8 [h, w, c], label), without a batch axis", spec)
    count = int(stream.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise _refusal(settings, name, "a finite tf.data.Dataset", "one without an end")
    _require_no_crops(settings, name)
    size, resize = size_and_resize(settings)
    shape = (size, size, spec[0].shape[-1]) if size else tuple(spec[0].shape)
    if None in shape:
        raise several_sizes(settings)
    in_memory = dataclasses.replace(settings, cache_dataset="auto")  # a stream has no other place
    stream = stream.map(lambda image, label: (image_ops.fit(image, shape, resize), label))
    images, labels = [], []
    for some_images, some_labels in stream.batch(256).as_numpy_iterator():
        images.append(some_images)
        labels.append(some_labels)
        if not keeps_in_memory(in_memory, [256 * len(images)], shape):
            raise _refusal(settings, name, "a tf.data.Dataset that fits in memory, or paths of files", "a larger one")
    if not images:
        raise _refusal(settings, name, "examples", "none")
    return np.concatenate(images), np.concatenate(labels)


def _array_split(settings, name, images, labels):
    if isinstance(images, list) or images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        got = (
            "paths here and arrays elsewhere" if isinstance(images, list) else f"{images.dtype} of shape {images.shape}"
        )
        raise _refusal(settings, name, "uint8 images [n, h, w, c]", got)
    _require_no_crops(settings, name)
    size, resize = size_and_resize(settings)
    if size and images.shape[1:3] != (size, size):
        shape = (size, size, images.shape[-1])
        images = np.stack([image_ops.fit(tf.constant(image), shape, resize).numpy() for image in images])
    return Split(images, labels, np.arange(len(labels)))


def _require_no_crops(settings, name):
    if augmentation_of(settings) == "resized_crop":
        raise _refusal(settings, name, "paths of files beside --augmentation=resized_crop", "images already decoded")


def _checked_labels(settings, name, labels, classes):
    labels = np.asarray(labels)
    if not labels.size:
        raise _refusal(settings, name, "examples", "none")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < -1 or labels.max() >= classes:
        got = f"{labels.dtype} of shape {labels.shape}" + (f", {labels.min()} to {labels.max()}" if labels.size else "")
        raise _refusal(settings, name, f"integer labels [n] from 0 to {classes - 1}, or -1 for unlabelled", got)
    return labels.astype(np.int32)


def _refusal(settings, name, expected, received, kind="split"):
    return input_error(
        f"The {name} {kind} of the dataset function is another thing",
        expected=f"{expected}",
        received=f"{received} from {settings.dataset}",
        remedy="Change what it returns",
    )
