"""DistillationHyperModel: the students of a search, for any Tuner of keras-tuner."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

from skd_tf.config import Config
from skd_tf.data.catalog import has_labels
from skd_tf.distillation.distiller import Distiller
from skd_tf.evaluation import predictor
from skd_tf.search.plan import Plan
from skd_tf.training import experiment, preflight, train_student
from skd_tf.training.resources import SharedResources


class DistillationHyperModel(keras_tuner.HyperModel):
    """Builds the compiled `Distiller` of a Config with the values that a Tuner draws.

        hypermodel = skd_tf.tune.DistillationHyperModel(config, ["temperature:log:1:16"])
        tuner = keras_tuner.RandomSearch(hypermodel, objective="val_accuracy", max_trials=10)
        tuner.search()

    No trial stores the teacher, because it does not belong to a Distiller's weights. keras-tuner's Tuners rank a trial
    by its best epoch, `skd_tf.search.run_search` by the epoch that ships.

    Args:
      config: settings of every trial.
      search: texts in the grammar of --search, or a single one.
      workdir: if the search trains its teacher, it does so in `workdir/teacher`.
      data_dir: TFDS data directory; None is TFDS' default.
      resources: data without a test split, strategy and teacher, if they are loaded already.

    Raises:
      InputError: no teacher, no validation images, or an invalid search.
    """

    def __init__(
        self,
        config: Config,
        search: Sequence[str],
        *,
        workdir: str | os.PathLike = ".",
        data_dir: str | None = None,
        resources: SharedResources | None = None,
    ) -> None:
        super().__init__()
        # The Tuner has an objective of its own. The Plan's only has to fit the data.
        self._plan = Plan(config, search, objective="val_accuracy" if has_labels(config.dataset) else "val_agreement")
        if resources is None or resources.dataset.validation is None:
            preflight.require_search_validation(config, data_dir)
        self.config, self.space = config, self._plan.space
        self._workdir, self._data_dir, self._given = pathlib.Path(workdir), data_dir, resources

    @functools.cached_property
    def resources(self) -> SharedResources:
        """Data without the test split, strategy and teacher, which all trials share."""
        return self._given or experiment.prepare(self._plan.shared, self._workdir, self._data_dir, test=False)

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Declares the searched settings to keras-tuner."""
        for dimension in self.space:
            dimension.declare(hp)

    def config_of(self, hp: keras_tuner.HyperParameters) -> Config:
        """The Config with the values drawn."""
        return self.config.replace(**{d.name: d.to_config(d.declare(hp)) for d in self.space})

    def build(self, hp: keras_tuner.HyperParameters) -> Distiller:
        """The compiled Distiller of the values drawn."""
        config, resources = self.config_of(hp), self.resources
        distiller = train_student.build_distiller(
            config, resources, train_student.count_steps(config, resources.dataset)
        )
        if resources.teacher and config.needs_teacher and not config.teacher_cache_dir and distiller.teacher is None:
            distiller.teacher = resources.teacher.model
        return distiller

    def fit(
        self, hp: keras_tuner.HyperParameters, model: Distiller, *args: Any, **kwargs: Any
    ) -> keras.callbacks.History:
        """Keras' fit() on the data given to `Tuner.search`, else on the Config's data.

        `epochs` and `initial_epoch`, which Hyperband passes, select epochs of the Config's data. The learning rate
        follows the schedule of the Config's epochs. It restarts with the optimizer, which no Tuner keeps.
        """
        config, resources = self.config_of(hp), self.resources
        teacher = resources.teacher if config.needs_teacher else None
        if args or "x" in kwargs:
            if teacher and model.features is None:
                model.teacher = teacher.model  # the cache holds only logits of the Config's images
            return model.fit(*args, **kwargs)
        steps = train_student.count_steps(config, resources.dataset)
        first, last = kwargs.get("initial_epoch", 0), kwargs.get("epochs", config.epochs)
        limits = {"steps_per_epoch": steps, "first_step": first * steps, "last_step": last * steps}
        if teacher:
            cached = min(config.teacher_cache_epochs or last, last)
            limits |= train_student.cached_logits(config, resources, steps, cached)
        stream = train_student.training_stream(config, resources, **limits)
        own = {"epochs": last, "steps_per_epoch": steps, "validation_data": _batches(resources.dataset.validation)}
        return model.fit(stream, **own | {"verbose": 0} | kwargs)


def _batches(split):
    """Batches (images, labels) of a split in order; its images may be in memory or on disk."""

    def batches():
        for start in range(0, len(split), predictor.BATCH_SIZE):
            rows = np.arange(start, min(start + predictor.BATCH_SIZE, len(split)))
            yield split.images[rows], split.labels[rows]

    signature = (tf.TensorSpec([None, *split.images.shape[1:]], tf.uint8), tf.TensorSpec([None], split.labels.dtype))
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return stream.apply(tf.data.experimental.assert_cardinality(-(-len(split) // predictor.BATCH_SIZE)))
