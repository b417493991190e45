"""Distillers kept from trial to trial: what a trial's settings change is assigned, and nothing is traced again."""

import collections
import json

import numpy as np

from skd_tf import schedules
from skd_tf.distillation import optimizers
from skd_tf.training import checkpoints, train_student

# Variables of a Distiller or of its optimizer. All other settings are part of what is traced: a new one is, unless it is
# listed here.
ASSIGNED = (
    "temperature",
    "kd_weight",
    "label_weight",
    "radius",
    "learning_rate",
    "lr_schedule",
    "warmup_epochs",
    "weight_decay",
    "seed",
)
_KEPT = 4  # Distillers, and sets of initial weights of each


class DistillerPool:
    """Makes the Distiller of a Config, as `training.build_distiller` does, from a kept one of the same shapes if it can.

    Its variables are then those of a new one to the last bit.
    """

    def __init__(self):
        self._kept = collections.OrderedDict()

    def __call__(self, config, setup, steps_per_epoch):
        key = _key(config, steps_per_epoch)
        kept = self._kept.pop(key, None)
        if kept is None:
            kept = _Kept(config, train_student.build_distiller(config, setup, steps_per_epoch))
        else:
            kept.reset(config, setup, steps_per_epoch)
        self._kept[key] = kept
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return kept.distiller


def _key(config, steps_per_epoch):
    settings = {name: value for name, value in config.to_json().items() if name not in ASSIGNED}
    kinds = {name: _weight_kind(getattr(config, name)) for name in ("kd_weight", "label_weight")}
    return json.dumps([settings, kinds, bool(config.weight_decay), config.radius == "teacher_sample", steps_per_epoch])


def _weight_kind(weight):
    return "schedule" if isinstance(weight, str) else type(weight).__name__


class _Kept:
    """A built Distiller and its state before the first step."""

    def __init__(self, config, distiller):
        self.distiller = distiller
        self._start = {
            name: np.array(variable.numpy())
            for name, variable in checkpoints.state_of(distiller).items()
            if name.startswith(("optimizer/", "mean/"))
        }
        self._students = collections.OrderedDict({config.seed: _values(distiller.student)})

    def reset(self, config, setup, steps_per_epoch):
        distiller = self.distiller
        state = checkpoints.state_of(distiller)
        for name, value in self._start.items():
            state[name].assign(value)
        for variable, value in zip(distiller.student.variables, self._student(config, setup), strict=True):
            variable.assign(value)
        rates = schedules.learning_rate(config, steps_per_epoch)
        optimizers.assign_settings(distiller.optimizer, rates, config.weight_decay)
        starts, tables = train_student.loss_weight_tables(config, steps_per_epoch, len(rates))
        for name, schedule in distiller.schedules.items():
            schedule.assign(tables[name])
        distiller.assign_settings(temperature=config.temperature, radius=config.radius, **starts)
        train_student.adapt_radius(distiller, config, setup)

    def _student(self, config, setup):
        """The initial weights of the seed's student."""
        if config.seed not in self._students:
            self._students[config.seed] = _values(train_student.build_student(config, setup))
            if len(self._students) > _KEPT:
                self._students.popitem(last=False)
        self._students.move_to_end(config.seed)
        return self._students[config.seed]


def _values(model):
    return [np.array(variable.numpy()) for variable in model.variables]
