"""Opens a teacher, and checks its logits and its accuracy before a student learns from it."""

import math
import os

import numpy as np
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data.folder_parts import shown
from skd_tf.errors import counted, input_error
from skd_tf.evaluation import metrics
from skd_tf.evaluation.preprocessing_trial import better_preprocessing
from skd_tf.runtime import cluster
from skd_tf.runtime.console import detail, warn
from skd_tf.training.teacher import Teacher

_FEW_EXAMPLES = 50  # with fewer, an accuracy above chance may be that of a good teacher
_CHECKED_EXAMPLES = 2000  # training images that the teacher's accuracy is measured on if nothing is held out


def open_teacher(
    path: str | os.PathLike,
    config: Config,
    dataset: data.Dataset,
    strategy: tf.distribute.Strategy,
    *,
    several: bool = False,
) -> Teacher:
    """Opens a teacher and reports its accuracy on held-out images before a student learns from it.

    Args:
      path, config, dataset, strategy: as in `Teacher`.
      several: whether it is one of several teachers.

    Raises:
      InputError: its logits are not finite, or its accuracy is at chance level.
    """
    teacher = Teacher(path, config, dataset, strategy)
    if cluster.workers() > 1:
        _ = teacher.model  # on all workers at once: creating variables is a collective, and their caches may differ
    split, what = _checked_split(dataset)
    if not dataset.has_labels:
        images = counted(len(split), f"{what} image")
        if not np.isfinite(teacher.shared_logits(split.images)).all():
            raise _not_finite(path, config, what)
        detail(f"Teacher {teacher.facts['name']} from {path}: finite logits on {images}, which have no labels.")
        return teacher
    if not len(split):
        warn(f"No training image has a label, so the accuracy of the teacher {teacher.facts['name']} is unknown.")
        return teacher
    logits = teacher.shared_logits(split.images)
    quality = metrics.quality(logits, split.labels)
    accuracy = quality["accuracy"]
    if math.isnan(quality["nll"]):
        raise _not_finite(path, config, what)
    images = counted(len(split), f"{what} image")
    detail(f"Teacher {teacher.facts['name']} from {path}: accuracy {accuracy:.4f} on {images}.")
    order = better_order(logits.argmax(axis=-1), split.labels, dataset.num_classes)
    if order:
        meant = shown(f"{dataset.class_names[c]} for {dataset.class_names[true]}" for c, true in order.items())
        warn(
            f"The teacher {path} seems to have its classes in another order than {dataset.name}: on {images}, it mostly "
            f"answers {meant}. The order here is {shown(dataset.class_names)}. Put the teacher's outputs in this order, or its "
            "student learns the wrong classes."
        )
    kind, better = config.teacher_preprocessing, None
    own = kind == "auto" and teacher.preprocessing == "raw"  # it contains its own
    if cluster.workers() == 1 and not own:
        better = better_preprocessing(lambda: teacher.model, kind, dataset, split, logits)
    if not is_chance_level(accuracy, dataset.num_classes, len(split)):
        if better:
            advice = f"--teacher_preprocessing={better.kind}{' for this teacher' * several}"
            teacher.warnings.append(f"{path} answers better with {advice}: {better.evidence}.")
            warn(teacher.warnings[-1])
        return teacher
    right = f"{accuracy:.4f} ({round(accuracy * len(split))} of {images})"
    if len(split) < _FEW_EXAMPLES and accuracy > 1 / dataset.num_classes:
        warn(f"The accuracy of the teacher {path} is {right}. With so few images, guessing could do as well.")
        return teacher
    raise input_error(
        "The teacher is at chance level",
        expected=f"an accuracy well above 1/{dataset.num_classes} on the {what} images",
        received=f"{right} from {path}",
        remedy=f"Set --teacher_preprocessing={better.kind}{' for this teacher' * several}: {better.evidence}"
        if better
        else f"Check that it was trained on {dataset.name}, that its classes have the same numbers, and that its pixels were "
        f"scaled in training as --teacher_preprocessing={kind} scales them. Otherwise train it longer or on more images",
    )


def _not_finite(path, config, what):
    return input_error(
        "The teacher's logits are not finite",
        expected=f"numbers on all {what} images",
        received=f"NaN or infinity from {path}",
        remedy=f"Check the file, or use --teacher_precision=float32 (now {config.teacher_precision})",
    )


def better_order(predicted: np.ndarray, labels: np.ndarray, classes: int) -> dict[int, int]:
    """{class that is answered: class that is mostly meant} of the classes that a teacher seems to have exchanged.

    They are exchanged among each other, and the answers so read are right for three standard errors more images.

    Args:
      predicted, labels: class numbers `[n]`, label -1 for unlabelled.
      classes: number of classes.

    Example:
      >>> better_order(np.repeat([1, 0, 2], 9), np.repeat([0, 1, 2], 9), 3)
      {0: 1, 1: 0}
    """
    counts = np.zeros([classes, classes])
    np.add.at(counts, (labels[labels >= 0], predicted[labels >= 0]), 1)
    meant = np.where(counts.any(axis=0), counts.argmax(axis=0), np.arange(classes))
    moved = np.flatnonzero(meant != np.arange(classes))
    right, otherwise = counts[moved, moved].sum(), counts[meant[moved], moved].sum()
    if sorted(meant[moved]) != list(moved) or otherwise - right <= 3 * math.sqrt(right + otherwise):
        return {}
    return {int(c): int(meant[c]) for c in moved}


def is_chance_level(accuracy: float, classes: int, examples: int) -> bool:
    """Whether guessing could give this accuracy: it is at most three standard errors above 1 / classes, and below 1.

    Guessing can also be right on every one of a few images; that is no reason to refuse the teacher.
    """
    chance = 1 / classes
    return accuracy < 1 and accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / examples)


def _checked_split(dataset: data.Dataset) -> tuple[data.Split, str]:
    """The images that the teacher's accuracy is measured on, and what they are."""
    if dataset.validation is not None:
        return dataset.validation, "validation"
    split = dataset.train.labelled() if dataset.has_labels else dataset.train
    return split.take(data.evenly_spaced(len(split), _CHECKED_EXAMPLES)), "training (nothing is held out)"
