"""Several teachers as one: each with its own network, precision, preprocessing and cache; their mean teaches."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config, grammar
from skd_tf.data.disk_images import DiskImages
from skd_tf.data.epoch_logits import JointLogits
from skd_tf.errors import input_error
from skd_tf.evaluation.final_measurements import ModelLogits
from skd_tf.losses.teacher_shares import teacher_shares
from skd_tf.runs import class_names, predictions
from skd_tf.runtime.files import sha256_of_json
from skd_tf.training.teacher import Teacher
from skd_tf.training.teacher_check import open_teacher

_ROWS = 4096  # whose softmaxes are averaged at a time


class Ensemble:
    """Several teachers, with the interface of a `Teacher`.

    Args:
      members: the teachers.
      weights: a number > 0 for each; () or None: equal.
    """

    def __init__(self, members: Sequence[Teacher], weights: Sequence[float] | None) -> None:
        self.members, self.shares = tuple(members), teacher_shares(weights or None, len(members))
        self.path = ",".join(os.fspath(member.path) for member in members)

    @property
    def model(self) -> tuple:
        """The networks, built on first use."""
        return tuple(member.model for member in self.members)

    @property
    def is_loaded(self) -> bool:
        """Whether all networks are in memory."""
        return all(member.is_loaded for member in self.members)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the fingerprints, in their order."""
        return sha256_of_json([member.fingerprint for member in self.members])

    @property
    def facts(self) -> dict[str, Any]:
        """{"name", "parameters"}: what a result says about the teachers."""
        return {"name": self.shown_name, "parameters": sum(member.facts["parameters"] for member in self.members)}

    @property
    def warnings(self) -> list[str]:
        """What the run's result repeats about them."""
        return [text for member in self.members for text in member.warnings]

    @property
    def shown_name(self) -> str:
        """Their names in reports."""
        return " + ".join(member.shown_name for member in self.members)

    def logits_of_each(self, images: np.ndarray | DiskImages) -> np.ndarray:
        """Logits of un-augmented images `[n, h, w, c]`, as a loss takes them: float32 `[n, teachers, classes]`."""
        return np.stack([member.logits(images) for member in self.members], axis=1)

    def logits(self, images: np.ndarray | DiskImages) -> np.ndarray:
        """What the teachers say together about un-augmented images: see `mean`."""
        return self.mean([member.logits(images) for member in self.members])

    def shared_logits(self, images: np.ndarray | DiskImages) -> np.ndarray:
        """As `logits`, divided among the workers; see `Teacher.shared_logits`."""
        return self.mean([member.shared_logits(images) for member in self.members])

    def mean(self, each: Sequence[np.ndarray]) -> np.ndarray:
        """The logarithm of the weighted mean of softmaxes, float32 `[n, classes]`, from the logits of each teacher.

        It is at temperature 1 and not on the sphere: what the teachers would answer, were they used together.
        """
        mean, log_shares = np.empty_like(each[0], np.float32), np.log(self.shares)[:, None, None]
        for start in range(0, len(mean), _ROWS):
            part = np.stack([logits[start : start + _ROWS] for logits in each]).astype(np.float64)
            part -= part.max(axis=2, keepdims=True)
            part -= np.log(np.exp(part).sum(axis=2, keepdims=True))
            mean[start : start + _ROWS] = np.logaddexp.reduce(part + log_shares, axis=0)
        return mean

    def measured(self, images: np.ndarray | DiskImages) -> dict[str, ModelLogits]:
        """{"teacher_1": its `ModelLogits` of un-augmented images, ...}."""
        return {
            f"teacher_{i}": ModelLogits(member.shared_logits(images), parameters=member.facts["parameters"])
            for i, member in enumerate(self.members, 1)
        }

    def entries(self, results: Sequence[dict[str, Any]], details: dict[str, Any]) -> list[dict[str, Any]]:
        """What result.json says of each teacher: "name", "path", "weight", its measurements, and "student_agreement".

        Args:
          results: the measurements of each, compared with the mean of all.
          details: those of all models that `final_measurements.measure` returns beside the results.
        """
        classes = {name: predictions.decode(model["predictions"]) for name, model in details.items()}
        return [
            {"name": member.shown_name, "path": str(member.path), "weight": share}
            | found
            | {"student_agreement": float((classes["student"] == classes[f"teacher_{i}"]).mean())}
            for i, (member, share, found) in enumerate(zip(self.members, self.shares, results, strict=True), 1)
        ]

    def epoch_logits(
        self, epochs: int, top: int | None = None, dataset: data.Dataset | None = None
    ) -> JointLogits | None:
        """As `Teacher.epoch_logits`, of all teachers; None without a cache directory."""
        each = [member.epoch_logits(epochs, top, dataset) for member in self.members]
        return JointLogits([found for found in each if found]) if all(each) else None


def open_teachers(
    path: str | os.PathLike, config: Config, dataset: data.Dataset, strategy: tf.distribute.Strategy
) -> Teacher | Ensemble:
    """As `open_teacher`, for one teacher or for the several of --teacher_checkpoint.

    Args:
      path: of the teacher, if it is one.
      config, dataset, strategy: as in `Teacher`.

    Raises:
      InputError: the logits of a teacher are not finite, its accuracy is at chance level, or it numbers the classes in
        another order. Without labels, which would show it: the recorded classes of two teachers differ.
    """
    if dataset.has_labels:
        for one in config.teachers:
            class_names.require_same_order(one, dataset.class_names, dataset.name)
    if len(config.teachers) < 2:
        return open_teacher(path, config, dataset, strategy)
    if not dataset.has_labels:
        _require_same_classes(config.teachers, len(dataset.class_names))
    each = [
        open_teacher(one.teacher_checkpoint, one, dataset, strategy, several=True) for one in config.for_each_teacher
    ]
    return Ensemble(each, grammar.parse_teacher_weights(config.teacher_weights))


def _require_same_classes(teachers, count):
    named = {path: names for path in teachers if (names := class_names.known(path, count))}
    for path, names in named.items():
        first, expected = next(iter(named.items()))
        if names != expected:
            raise input_error(
                "The teachers have other classes, or in another order",
                expected=f"{', '.join(expected[:5])}, ... as {first}",
                received=f"{', '.join(names[:5])}, ... from {path}",
                remedy="Use teachers that were trained on the same classes",
            )
