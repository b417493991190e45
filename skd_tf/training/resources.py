"""What several students can share."""

import dataclasses

import tensorflow as tf

from skd_tf.data.dataset import Dataset
from skd_tf.training.ensemble import Ensemble
from skd_tf.training.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class SharedResources:
    """Data, replicas, a `Teacher` or several (None for a loss without one), and warnings that the result repeats."""

    dataset: Dataset
    strategy: tf.distribute.Strategy
    teacher: Teacher | Ensemble | None
    warnings: tuple[str, ...] = ()
