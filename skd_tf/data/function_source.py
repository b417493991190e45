"""A user's own data: --dataset=MODULE:FUNCTION."""

import dataclasses
import functools
import hashlib
import itertools
import math
import operator
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.data import file_problems, grouping, image_ops, own_memory
from skd_tf.data.catalog import crops_originals, fixed_shape
from skd_tf.data.dataset import Source, Split
from skd_tf.data.file_splits import FileSplits
from skd_tf.data.folder_parts import shown
from skd_tf.data.memory_budget import budget, keeps_in_memory
from skd_tf.data.settings import DataSettings
from skd_tf.errors import counted, input_error
from skd_tf.runtime import user_code
from skd_tf.runtime.console import warn
from skd_tf.runtime.streams import untuned

_REQUIRED = ("class_names", "train")
_BATCH = 256  # images that are read or resized at once, if they take less than
_BATCH_BYTES = 1 << 20
_OPTIONAL = ("test", "groups", "version", "mean", "std", "pad", "flip")


def read(settings: DataSettings, data_dir: str | None, names: Sequence[str]) -> Source:
    """The `Source` of a user's function.

        function(data_dir) -> {"class_names": [...], "train": split, "test": split, "version": "1",
                               "mean": [...], "std": [...], "pad": pixels, "flip": bool, "groups": [...]}

    A split is one of
      * (images, labels): images uint8 `[n, h, w, c]`, labels integer `[n]` with -1 for unlabelled;
      * (paths, labels): a list or array of paths of image files, which stay on disk if they do not fit in memory;
      * a finite tf.data.Dataset of (image uint8 `[h, w, c]`, label) in a fixed order.
    mean and std are of pixels scaled to [0, 1], one number per channel; give both or neither. pad is the zero padding
    before the random crop. class_names and train are required, test only if the test split is read. Labels may also be
    whole floats, True and False for two classes, a column `[n, 1]`, or one-hot rows `[n, classes]`.
    groups has one integer or text per training example; examples of one group are never split between training and
    validation.

    Raises:
      InputError: the function returns anything else.
    """
    spec = user_code.resolve(settings.dataset, "dataset")(data_dir)
    required = (*_REQUIRED, *(["test"] if "test" in names else []))
    if not isinstance(spec, dict) or set(required) - set(spec) or set(spec) - {*_REQUIRED, *_OPTIONAL}:
        raise input_error(
            "The dataset function does not return the right dict",
            expected=f"a dict with {', '.join(required)}, and optionally {', '.join(n for n in _OPTIONAL if n not in required)}",
            received=f"{sorted(spec) if isinstance(spec, dict) else type(spec).__name__} from {settings.dataset}",
            remedy="Change what it returns"
            if not isinstance(spec, dict) or not set(spec) & {"val", "valid", "validation"}
            else "Leave out the validation split, which is drawn from train; a folder may have one of its own in val/",
        )
    spec = dict(spec)  # the function may keep its own dict
    class_names = _checked_names(settings, spec["class_names"])
    images, labels = {}, {}
    for name in ("train", "test"):  # also what is not read: files of both splits have their common folder and form
        if name not in names and isinstance(spec.get(name), tf.data.Dataset | None):
            continue
        images[name], unchecked = _unpacked(settings, name, spec.pop(name))
        labels[name] = _checked_labels(settings, name, unchecked, len(class_names))
        if len(images[name]) != len(labels[name]):
            received = f"{counted(len(images[name]), 'image')} and {counted(len(labels[name]), 'label')}"
            raise _error(settings, f"{name} split", "one label per image", received)
    kept: dict[str, Any] = {"groups": _groups(settings, spec, images) if "train" in names else None}
    streams = any(isinstance(part, tf.data.Dataset) for part in spec.values())  # that are not read
    if streams and any(isinstance(part, list) for part in images.values()):
        raise _error(settings, "splits", "paths of files in all of them, or in none", "paths and a tf.data.Dataset")
    if all(isinstance(part, list) for part in images.values()):
        root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for part in images.values() for path in part])
        files = FileSplits(settings, root, images, class_names)
        splits = files.read({name: labels[name] for name in names})
        kept |= {"png_bits": files.png_bits, "warnings": files.warnings, "hashes": files.hashes}
    else:
        splits = {name: _array_split(settings, name, [images.pop(name)], labels[name]) for name in names}
        shapes = {name: split.images.shape[1:] for name, split in splits.items()}
        if len(set(shapes.values())) > 1:
            raise _error(settings, "test split", f"images {shapes['train']} as in train", shapes["test"])
        found = {name: _hashes(split.images) for name, split in splits.items()}
        kept |= {"warnings": file_problems.report_equal_images(found), "hashes": found.__getitem__}
    facts = _checked_facts(settings, spec, splits[names[0]].images.shape[-1])
    return Source(str(spec.get("version", "1")), class_names, splits, **facts, **kept)


def _groups(settings, spec, images):
    """{split: group of each example as a number}: the function's groups, or those of --group; None without either."""
    if spec.get("groups") is None:
        if not settings.group:
            return None
        if not all(isinstance(part, list) for part in images.values()):
            raise _error(settings, "train split", "paths of files with --group, or its own groups entry", "arrays")
        names = {name: [os.path.basename(path) for path in part] for name, part in images.items()}
        found = iter(grouping.group_names([name for part in names.values() for name in part], settings.group))
        return grouping.numbered({name: list(itertools.islice(found, len(part))) for name, part in names.items()})
    if settings.group:
        raise _error(settings, "groups entry", "no --group with it", f"--group={settings.group}")
    groups = np.asarray(spec["groups"])
    if groups.dtype.kind in "SO":
        names = [
            name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
            for name in groups.ravel().tolist()
        ]
        groups = np.array(names, object).reshape(groups.shape)
    if groups.shape != (len(images["train"]),) or groups.dtype.kind not in "iuUSO":
        expected = f"{len(images['train'])} integers or texts, one per training example"
        raise _error(settings, "groups entry", expected, f"{groups.dtype} of shape {groups.shape}")
    return grouping.numbered({"train": groups.astype(str)})


def _checked_names(settings, names):
    """The class names as texts: given as texts, bytes or whole numbers, no two of them equal."""
    texts = []
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):  # of a text each letter would be a class
        raise _error(settings, "class_names entry", "a list of names", f"{names!r}")
    for name in names:
        if isinstance(name, bytes | np.bytes_):
            name = bytes(name).decode("utf-8", "replace")
        if isinstance(name, bool | np.bool_) or not isinstance(name, str | int | np.integer) or not str(name).strip():
            raise _error(settings, "class_names entry", "texts that are not empty, or whole numbers", f"{name!r}")
        texts.append(str(name))
    doubled = sorted(name for name, count in Counter(texts).items() if count > 1)
    if doubled:
        raise _error(settings, "class_names entry", "each name once", f"more than one {shown(doubled)}")
    if len(texts) < 2:
        raise _error(settings, "class_names entry", "at least two names", f"{texts}")
    folded = Counter(" ".join(name.casefold().split()) for name in texts)
    alike = [name for name in texts if folded[" ".join(name.casefold().split())] > 1]
    if alike:
        warn(f"Class names that differ only in case or spaces are different classes: {shown(alike)}.")
    return tuple(texts)


def _floats(values):
    return tuple(float(number) for number in np.atleast_1d(values))


def _checked_facts(settings, spec, channels):
    """The function's mean, std, pad and flip as Python numbers, because teacher caches write them as JSON."""
    each = f"{channels} numbers, one per channel,"
    checks = {
        "mean": (_floats, lambda mean: len(mean) == channels and all(0 <= m <= 1 for m in mean), f"{each} from 0 to 1"),
        "std": (_floats, lambda std: len(std) == channels and all(0 < s < np.inf for s in std), f"{each} above 0"),
        "pad": (operator.index, lambda pad: pad >= 0, "a whole number of pixels from 0"),
        "flip": ({0: False, 1: True}.__getitem__, lambda flip: True, "True or False"),
    }
    facts = {}
    for name, (convert, is_valid, expected) in checks.items():
        if spec.get(name) is None:
            continue
        try:
            facts[name] = convert(spec[name])
            valid = is_valid(facts[name])
        except (TypeError, ValueError, LookupError):
            valid = False
        if not valid:
            raise _error(settings, f"{name} entry", expected, f"{name}={spec[name]!r}")
    if ("mean" in facts) != ("std" in facts):
        given, missing = ("mean", "std") if "mean" in facts else ("std", "mean")
        raise _error(settings, f"{given} entry", f"{missing} as well", f"only {given}={facts[given]}")
    return facts


def _unpacked(settings, name, split):
    """(images, labels) of a split; images are an array or a list of paths."""
    part, is_stream = f"{name} split", isinstance(split, tf.data.Dataset)
    if not is_stream:
        try:
            images, labels = () if isinstance(split, dict) else split
        except (TypeError, ValueError) as error:
            expected = "(images, labels) or a tf.data.Dataset"
            raise _error(settings, part, expected, type(split).__name__) from error
        if paths := _paths(images):
            return paths, _array(settings, part, labels)
    if crops_originals(settings):
        expected = "paths of files with --augmentation=resized_crop"
        raise _error(settings, part, expected, "images already decoded")
    if is_stream:
        return _collected(settings, part, split)
    return _array(settings, part, images), _array(settings, part, labels)


def _paths(images):
    """Images that are a list or an array of paths, as texts; none of any other kind."""
    kind = getattr(getattr(images, "dtype", None), "kind", "")
    is_list = isinstance(images, list | tuple) or (kind in set("OUS") and len(images.shape) == 1)
    if not is_list or not all(isinstance(path, str | bytes | os.PathLike) for path in images):
        return []
    return [os.fsdecode(path) for path in images]


def _array(settings, part, values):
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise _error(settings, part, "images of one size, and one label each", "rows of several lengths") from error
    if not array.ndim:
        raise _error(settings, part, "a list or array of images, and one of labels", type(values).__name__)
    return array


def _collected(settings, part, stream):
    """The images and labels of a tf.data.Dataset as arrays."""
    spec = stream.element_spec
    pair = isinstance(spec, tuple) and len(spec) == 2 and all(isinstance(one, tf.TensorSpec) for one in spec)
    if not pair or spec[0].shape.rank != 3 or spec[0].dtype != tf.uint8:
        raise _error(settings, part, "elements (image uint8 [h, w, c], label), without a batch axis", spec)
    count = int(stream.cardinality())
    if count == tf.data.INFINITE_CARDINALITY:
        raise _error(settings, part, "a finite tf.data.Dataset", "an infinite one")
    if spec[0].shape[-1] is None:
        expected = "images with a known number of channels, as of tf.io.decode_jpeg(..., channels=3)"
        raise _error(settings, part, expected, f"shape {spec[0].shape}")
    shape, resize = fixed_shape(settings, spec[0].shape)
    settings_auto = dataclasses.replace(settings, cache_dataset="auto")  # a stream can only be kept in memory
    stream = stream.map(lambda image, label: (image_ops.fit(image, shape, resize), label))
    labels, most, filled = [], budget(), 0
    if count > 0 and not keeps_in_memory(settings_auto, [count], shape, most):
        raise _too_large(settings, part)
    # More would be refused. The system gives no memory for what is never written.
    images = _room_for(count if count >= 0 else int(most // math.prod(shape)), shape)
    for batch, batch_labels in untuned(stream.batch(_batch_size(shape))).as_numpy_iterator():
        labels.append(batch_labels)
        if not keeps_in_memory(settings_auto, [filled + len(batch)], shape, most):
            raise _too_large(settings, part)
        if filled + len(batch) > len(images):  # this copies all of them
            images.resize((filled + filled // 8 + len(batch), *shape), refcheck=False)
        images[filled : filled + len(batch)] = batch
        filled += len(batch)
    if not filled:
        raise _error(settings, part, "examples", "none")
    images.resize((filled, *shape), refcheck=False)
    return images, np.concatenate(labels)


def _too_large(settings, part):
    return _error(settings, part, "a tf.data.Dataset that fits in memory, or paths of files", "a larger one")


def _room_for(count, shape):
    """An uninitialised array of so many images, or of fewer if the system does not promise the memory."""
    while count:
        try:
            return np.empty((count, *shape), np.uint8)
        except MemoryError:
            count //= 2
    return np.empty((0, *shape), np.uint8)


def _array_split(settings, name, holder, labels):
    """The split of the array in `holder`, a list of one that is emptied."""
    if isinstance(holder[0], list):
        raise _error(settings, f"{name} split", "arrays as in the other split", "paths of files")
    given, index = holder[0].shape, np.arange(len(labels))
    if holder[0].dtype != np.uint8 or len(given) != 4 or not holder[0].size:
        expected = "uint8 images [n, h, w, c], or a list of paths"
        raise _error(settings, f"{name} split", expected, f"{holder[0].dtype} of shape {given}")
    shape, resize = fixed_shape(settings, given[1:])
    if given[1:] == shape:
        images, own = own_memory.taken_over(holder)
        return Split(images, labels, index, own_memory=own)

    signature = [tf.TensorSpec([None, *given[1:]], tf.uint8)]
    fitted = functools.partial(image_ops.fit, shape=shape, resize=resize)  # no code object: see batch_decoder
    fit = tf.function(fitted, input_signature=signature, autograph=False)
    with tf.device("CPU"):
        resized = own_memory.converted(
            holder, shape, _batch_size(given[1:]), lambda rows: fit(tf.constant(rows)).numpy()
        )
    return Split(resized, labels, index, own_memory=True)


def _hashes(images):
    return [hashlib.sha256(np.ascontiguousarray(image)).digest() for image in images]


def _batch_size(shape):
    return min(_BATCH, max(1, _BATCH_BYTES // math.prod(shape)))


def _checked_labels(settings, name, labels, classes):
    if not labels.size:
        raise _error(settings, f"{name} split", "examples", "none")
    labels = _as_integers(labels, classes)
    valid = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    if not valid or labels.min() < -1 or labels.max() >= classes:
        expected = f"integer labels [n] from 0 to {classes - 1}, or -1 for unlabelled"
        number = np.issubdtype(labels.dtype, np.number) or labels.dtype == bool
        extent = f", {labels.min()} to {labels.max()}" if number else f", such as {labels.flat[0]!r}"
        received = f"{labels.dtype} of shape {labels.shape}{extent}"
        raise _error(settings, f"{name} split", expected, received)
    return labels.astype(np.int32)


def _as_integers(labels, classes):
    """Labels in another form that has only one meaning as integers `[n]`; all others unchanged."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype == bool and (labels.ndim == 2 or classes == 2):
        labels = labels.astype(np.int64)
    if np.issubdtype(labels.dtype, np.floating) and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    one_hot = labels.ndim == 2 and labels.shape[1] == classes and np.issubdtype(labels.dtype, np.integer)
    if one_hot and ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all():
        labels = labels.argmax(axis=1)
    return labels


def _error(settings, part, expected, received):
    """The `InputError` about one part of what the function returns."""
    return input_error(
        f"The dataset function returns a wrong {part}",
        expected=expected,
        received=f"{received} from {settings.dataset}",
        remedy="Change what it returns",
    )
