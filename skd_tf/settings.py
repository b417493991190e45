"""The Distiller's settings as variables: checked when made, assigned at any time without a new trace."""

import math

import keras
import tensorflow as tf

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


def number(name, value, *, above=None, high=math.inf, remedy="Give a number"):
    """The value as a float; InputError where it is no number within (above or >= 0, high]."""
    if isinstance(value, (str, bool)) or not hasattr(value, "__float__"):
        raise InputError(f"{name} is no number. Expected a number. Received {name}={value!r}. {remedy}.")
    low_ok = value > above if above is not None else value >= 0
    if not (low_ok and value <= high and math.isfinite(value)):
        expected = f"> {above:g}" if above is not None else f">= 0{'' if high == math.inf else f' and <= {high:g}'}"
        raise InputError(f"{name} is out of range. Expected {expected}. Received {name}={value}. {remedy}.")
    return float(value)
