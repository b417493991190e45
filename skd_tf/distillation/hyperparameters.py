"""The Distiller's settings as variables: checked when made, assigned at any time without a new trace."""

import contextlib
import contextvars
import math

import keras
import numpy as np
import tensorflow as tf

from skd_tf import losses
from skd_tf.errors import input_error
from skd_tf.losses import sphere_geometry


class ScalarVariable(keras.Variable):
    """A float32 scalar that no optimizer touches, checked by `number` wherever it has a value to look at.

    Args:
      name: of the setting.
      value: its number; None: not known yet, which is kept as 0.
      above: what the number has to exceed; None: 0 or more.
      complement: another Setting that is kept at 1 minus this one, or None.
    """

    def __init__(self, name, value, *, above=None, complement=None):
        self._above, self._complement = above, complement
        value = 0.0 if value is None else self._checked(name, value)
        super().__init__(value, dtype="float32", trainable=False, name=name)

    def _checked(self, name, value):
        return number(name, value, above=self._above, high=math.inf if self._complement is None else 1.0)

    def assign(self, value):
        if _restoring.get():
            super().assign(value)
            return self
        if isinstance(value, (int, float, np.number)) or tf.executing_eagerly():
            value = self._checked(self.name, value)  # float64: 1 minus the float32 of 0.9 is not 0.1
        else:
            value = tf.cast(value, tf.float32)
        super().assign(value)
        if self._complement is not None:
            self._complement.assign(1.0 - value)
        return self


_restoring = contextvars.ContextVar("restoring", default=False)


@contextlib.contextmanager
def restoring():
    """Inside, saved settings are assigned as they were: a radius not known yet as well, and no weight follows another."""
    before = _restoring.set(True)
    try:
        yield
    finally:
        _restoring.reset(before)


class HyperparametersMixin:
    """The four settings of a keras.Model with an `objective` and `_num_classes` (None: not known yet)."""

    def _make_settings(self, *, temperature, kd_weight, label_weight, radius):
        self._radius_argument = radius
        self._label_follows = label_weight is None
        kd_weight, label_weight = resolve_loss_weights(
            kd_weight, label_weight, needs_teacher=self.objective.needs_teacher
        )
        self.temperature = ScalarVariable("temperature", temperature, above=0.0)
        self.label_weight = ScalarVariable("label_weight", label_weight)
        follower = self.label_weight if self._label_follows else None
        self.kd_weight = ScalarVariable("kd_weight", kd_weight, complement=follower)
        self.radius = ScalarVariable("radius", None, above=0.0)
        self._fix_radius()

    def assign_settings(self, *, temperature, kd_weight, label_weight, radius):
        """Puts in force what a Distiller would be made with; label_weight stays None or not, radius per sample or not."""
        kd_weight, label_weight = resolve_loss_weights(
            kd_weight, label_weight, needs_teacher=self.objective.needs_teacher
        )
        self.temperature.assign(temperature)
        self.kd_weight.assign(kd_weight)
        self.label_weight.assign(label_weight)
        self._radius_argument = radius
        self._fix_radius()

    def _fix_radius(self):
        """Puts the radius in force; makes it unknown where it waits for the number of classes or for adapt()."""
        if self.objective.row.readout == "sphere":
            sphere_geometry.reject_two_classes(self._num_classes, self.objective.center)
        waits = self._radius_argument == "auto" and self._num_classes is None
        radius = "auto" if waits else losses.resolve_radius(self._radius_argument, self._num_classes)
        with restoring() if isinstance(radius, str) else contextlib.nullcontext():
            self.radius.assign(0.0 if isinstance(radius, str) else radius)

    def load_own_variables(self, store):
        with restoring():
            super().load_own_variables(store)

    def set_weights(self, weights):
        with restoring():
            super().set_weights(weights)

    def _radius_is_missing(self):
        return self.objective.needs_radius and not float(self.radius.numpy())

    def _settings_config(self):
        return {
            "temperature": _decimal(self.temperature),
            "kd_weight": _decimal(self.kd_weight),
            "label_weight": None if self._label_follows else _decimal(self.label_weight),
            "radius": self._radius_argument if isinstance(self._radius_argument, str) else _decimal(self.radius),
        }


def _decimal(setting):
    """The shortest number that is this float32: 0.9, where float() gives 0.8999999761581421 and 1 minus that is not 0.1."""
    return float(str(setting.numpy()))


def resolve_loss_weights(kd_weight, label_weight, *, needs_teacher):
    """(kd_weight, label_weight) as numbers; a label_weight of None is 1 - kd_weight, and labels alone have weight 1."""
    if not needs_teacher:
        return 0.0, 1.0
    if label_weight is None:
        label_weight = 1.0 - number("kd_weight", kd_weight, high=1.0, remedy="Give label_weight as well")
    return number("kd_weight", kd_weight), number("label_weight", label_weight)


def finite(name, value, *, remedy="Give a number"):
    """The value as a float; InputError where it is no finite number."""
    try:
        is_number = not isinstance(value, (bool, np.bool_)) and math.isfinite(value)
    except (TypeError, ValueError):  # a text, or several numbers
        is_number = False
    if not is_number:
        raise input_error(f"{name} is no number", expected="a number", received=f"{name}={value!r}", remedy=f"{remedy}")
    return float(value)


def number(name, value, *, above=None, high=math.inf, remedy="Give a number"):
    """The value as a float; InputError where it is no number within (above or >= 0, high]."""
    value = finite(name, value, remedy=remedy)
    low_ok = value > above if above is not None else value >= 0
    if not (low_ok and value <= high):
        expected = f"> {above:g}" if above is not None else f">= 0{'' if high == math.inf else f' and <= {high:g}'}"
        raise input_error(
            f"{name} is out of range", expected=f"{expected}", received=f"{name}={value}", remedy=f"{remedy}"
        )
    return value
