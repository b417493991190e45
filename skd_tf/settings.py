"""The Distiller's settings as variables: checked when made, assigned at any time without a new trace."""

import math

import keras
import tensorflow as tf

from skd_tf import losses
from skd_tf.errors import InputError


class Setting(keras.Variable):
    """A float32 scalar that no optimizer touches.

    Args:
      name: of the setting.
      value: its number, checked by `number`.
      complement: another Setting that is kept at 1 minus this one, or None.
    """

    def __init__(self, name, value, complement=None):
        self._complement = None  # Keras assigns while it makes the variable
        super().__init__(value, dtype="float32", trainable=False, name=name)
        self._complement = complement

    def assign(self, value):
        if isinstance(value, (int, float)):
            number(self.name, value, high=math.inf if self._complement is None else 1.0)
        super().assign(value)
        if self._complement is not None:
            self._complement.assign(1.0 - tf.cast(value, tf.float32))
        return self


class WithSettings:
    """The four settings of a keras.Model with an `objective` and `_num_classes` (None: not known yet)."""

    def _make_settings(self, *, temperature, kd_weight, label_weight, radius):
        self._radius_argument = radius
        self._label_follows = label_weight is None
        kd_weight, label_weight = loss_weights(kd_weight, label_weight, needs_teacher=self.objective.needs_teacher)
        self.temperature = Setting("temperature", number("temperature", temperature, above=0.0))
        self.label_weight = Setting("label_weight", label_weight)
        follower = self.label_weight if self._label_follows else None
        self.kd_weight = Setting("kd_weight", kd_weight, complement=follower)
        self.radius = Setting("radius", 0.0)  # not known yet
        self._fix_radius()

    def assign_settings(self, *, temperature, kd_weight, label_weight, radius):
        """Puts in force what a Distiller would be made with; label_weight stays None or not, radius per sample or not."""
        kd_weight, label_weight = loss_weights(kd_weight, label_weight, needs_teacher=self.objective.needs_teacher)
        self.temperature.assign(number("temperature", temperature, above=0.0))
        self.kd_weight.assign(kd_weight)
        self.label_weight.assign(label_weight)
        self._radius_argument = radius
        self._fix_radius()

    def _fix_radius(self):
        """Puts the radius in force, or 0 where it waits for the number of classes or for adapt()."""
        waits = self._radius_argument == "auto" and self._num_classes is None
        radius = "auto" if waits else losses.resolve_radius(self._radius_argument, self._num_classes)
        self.radius.assign(0.0 if isinstance(radius, str) else radius)

    def _radius_is_missing(self):
        return self.objective.needs_radius and not float(self.radius.numpy())

    def _settings_config(self):
        return {
            "temperature": float(self.temperature.numpy()),
            "kd_weight": float(self.kd_weight.numpy()),
            "label_weight": None if self._label_follows else float(self.label_weight.numpy()),
            "radius": self._radius_argument if isinstance(self._radius_argument, str) else float(self.radius.numpy()),
        }


def loss_weights(kd_weight, label_weight, *, needs_teacher):
    """(kd_weight, label_weight) as numbers; a label_weight of None is 1 - kd_weight, and labels alone have weight 1."""
    if not needs_teacher:
        return 0.0, 1.0
    if label_weight is None:
        label_weight = 1.0 - number("kd_weight", kd_weight, high=1.0, remedy="Give label_weight as well")
    return number("kd_weight", kd_weight), number("label_weight", label_weight)


def finite(name, value, *, remedy="Give a number"):
    """The value as a float; InputError where it is no finite number."""
    if isinstance(value, (str, bool)) or not hasattr(value, "__float__") or not math.isfinite(value):
        raise InputError(f"{name} is no number. Expected a number. Received {name}={value!r}. {remedy}.")
    return float(value)


def number(name, value, *, above=None, high=math.inf, remedy="Give a number"):
    """The value as a float; InputError where it is no number within (above or >= 0, high]."""
    value = finite(name, value, remedy=remedy)
    low_ok = value > above if above is not None else value >= 0
    if not (low_ok and value <= high):
        expected = f"> {above:g}" if above is not None else f">= 0{'' if high == math.inf else f' and <= {high:g}'}"
        raise InputError(f"{name} is out of range. Expected {expected}. Received {name}={value}. {remedy}.")
    return value
