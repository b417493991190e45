"""What several students can share."""

import dataclasses

import tensorflow as tf

from skd_tf.data.dataset import Dataset
from skd_tf.training.teacher import Teacher


@dataclasses.dataclass(frozen=True)
class SharedResources:
    """Data, replicas, a `Teacher` (None for a loss without one), and warnings that the result repeats."""

    dataset: Dataset
    strategy: tf.distribute.Strategy
    teacher: Teacher | None
    warnings: tuple[str, ...] = ()
