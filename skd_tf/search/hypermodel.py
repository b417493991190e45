"""The students of a search as a keras-tuner HyperModel, for any keras_tuner.Tuner."""

import functools
import pathlib

import keras_tuner
import numpy as np
import tensorflow as tf

from skd_tf import data
from skd_tf.evaluation import predictor
from skd_tf.search.plan import Plan
from skd_tf.training import experiment, train_student


class DistillationHyperModel(keras_tuner.HyperModel):
    """Builds the compiled Distiller of a Config and of what a Tuner draws for its searched settings.

        tuner = keras_tuner.RandomSearch(hypermodel, objective="val_accuracy", max_trials=10)
        tuner.search()

    No trial stores the teacher: it is no part of a Distiller's weights. A stock Tuner builds and traces anew for every
    trial, and takes each trial's best epoch; `skd_tf.tune.search` keeps what is traced, and takes the last.

    Args:
      config: a `Config`.
      search: texts in the grammar of --search.
      workdir: where a teacher that is to be trained goes.
      data_dir: TFDS data directory.
      setup: a `training.SharedResources`, where data and teacher are at hand already.

    Raises:
      InputError: what a `Plan` refuses: no teacher, no validation images, a search of what cannot be searched.
    """

    def __init__(self, config, search, *, workdir=".", data_dir=None, setup=None):
        super().__init__()
        self._plan = Plan(config, tuple(search))
        self.config, self.space = config, self._plan.space
        self._workdir, self._data_dir, self._given = pathlib.Path(workdir), data_dir, setup

    @functools.cached_property
    def setup(self):
        """Data, without the test split, and teacher: shared by all trials."""
        return self._given or experiment.prepare(self._plan.shared, self._workdir, self._data_dir, test=False)

    def declare_hyperparameters(self, hp):
        for dimension in self.space:
            dimension.declare(hp)

    def config_of(self, hp):
        """The Config of drawn values."""
        return self.config.replace(**{d.name: d.value(d.declare(hp)) for d in self.space})

    def build(self, hp):
        config, setup = self.config_of(hp), self.setup
        distiller = train_student.build_distiller(config, setup, self._steps_per_epoch(config))
        if config.needs_teacher and not config.teacher_cache_dir:
            distiller.teacher = setup.teacher.model
        return distiller

    def fit(self, hp, model, *args, **kwargs):
        """Keras' fit() on the data given to `Tuner.search`, else on the Config's own; returns its History.

        `epochs` and `initial_epoch`, as Hyperband gives them, choose the epochs of the Config's data. The rate's schedule is
        that of the Config's epochs, and begins anew with the optimizer, which no Tuner keeps.
        """
        config, setup = self.config_of(hp), self.setup
        if args or "x" in kwargs:
            if config.needs_teacher:
                model.teacher = setup.teacher.model  # the cache is of the Config's own images
            return model.fit(*args, **kwargs)
        steps, files = self._steps_per_epoch(config), None
        first, last = kwargs.get("initial_epoch", 0), kwargs.get("epochs", config.epochs)
        if config.needs_teacher:
            files = setup.teacher.epoch_files(config.teacher_cache_epochs or last)
        stream = data.train_stream(
            setup.dataset,
            config.pick(data.StreamSettings),
            steps_per_epoch=steps,
            first_step=first * steps,
            last_step=last * steps,
            logit_files=files,
        )
        own = {"epochs": last, "steps_per_epoch": steps, "validation_data": _batches(setup.dataset.validation)}
        return model.fit(stream, **own | {"verbose": 0} | kwargs)

    def _steps_per_epoch(self, config):
        return len(self.setup.dataset.train) // config.batch_size


def _batches(split):
    """A split's (images, labels) in order, whether its images are in memory or stored."""

    def batches():
        for start in range(0, len(split), predictor.BATCH_SIZE):
            rows = np.arange(start, min(start + predictor.BATCH_SIZE, len(split)))
            yield split.images[rows], split.labels[rows]

    signature = (tf.TensorSpec([None, *split.images.shape[1:]], tf.uint8), tf.TensorSpec([None], split.labels.dtype))
    stream = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return stream.apply(tf.data.experimental.assert_cardinality(-(-len(split) // predictor.BATCH_SIZE)))
