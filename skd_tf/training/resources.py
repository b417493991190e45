"""What several students can share."""

import dataclasses

import tensorflow as tf

from skd_tf.data.dataset import Dataset
from skd_tf.training.ensemble import Ensemble
from skd_tf.training.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class SharedResources:
    """Data, replicas, a `Teacher` or several (None for a loss without one), and warnings that the result repeats.

    `new_to_teacher` says whether the held-out images are known to be new to every teacher.
    """

    dataset: Dataset
    strategy: tf.distribute.Strategy
    teacher: Teacher | Ensemble | None
    warnings: tuple[str, ...] = ()
    new_to_teacher: bool = True
