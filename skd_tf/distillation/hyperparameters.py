"""The Distiller's hyperparameters as variables: checked when assigned, and assigned without retracing."""

import contextlib
import contextvars
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf import losses
from skd_tf.errors import did_you_mean, input_error
from skd_tf.losses import sphere_geometry

# Arguments of a Distiller that are no attributes of it: setting one would change nothing.
_FIXED = (
    *("loss", "center", "label_smoothing", "gradient_scale", "loss_settings", "teacher_weights"),
    *("feature_pairs", "feature_loss", "feature_seed", "feature_weight"),
)

UNKNOWN = object()  # the number of a ScalarVariable that is set later
MEASURED = ("teacher_mean", "teacher_sample")  # radii that need the teacher's norms

_restoring = contextvars.ContextVar("restoring", default=False)


@contextlib.contextmanager
def restoring() -> Iterator[None]:
    """Inside this context, saved values are assigned unchecked and as they are.

    A radius may still be unknown, and no weight follows another.
    """
    before = _restoring.set(True)
    try:
        yield
    finally:
        _restoring.reset(before)


class ScalarVariable(keras.Variable):
    """A float32 scalar that no optimizer updates. Values assigned outside a graph are checked.

    Args:
      name: of the hyperparameter.
      value: its number. UNKNOWN is stored as 0.
      above: the number must be greater than this. None: it must be at least 0.
      complement: another ScalarVariable that is kept at 1 minus this one, or None.
    """

    def __init__(
        self, name: str, value: Any, *, above: float | None = None, complement: "ScalarVariable | None" = None
    ):
        self._above, self._complement = above, complement
        value = 0.0 if value is UNKNOWN else self._checked(name, value)
        super().__init__(value, dtype="float32", trainable=False, name=name)

    def _checked(self, name, value):
        limits = {"above": self._above, "high": math.inf if self._complement is None else 1.0}
        number = number_in_range(name, value, **limits)
        with np.errstate(over="ignore"):
            stored = float(np.float32(number))
        if stored != number:  # it must not vanish or overflow in the variable
            number_in_range(name, stored, **limits)
        return number

    def assign(self, value: Any) -> "ScalarVariable":
        """Sets the value without retracing; a complement follows.

        Args:
          value: a number, or a scalar array or tensor. The value of a symbolic tensor cannot be checked.

        Raises:
          InputError: the value is not a finite number, or is out of range.
        """
        if _restoring.get():
            super().assign(value)
            return self
        if isinstance(value, (int, float, np.number)) or tf.executing_eagerly():
            value = self._checked(self.name, value)  # a Python float: 1 minus the float32 of 0.9 is not 0.1
        else:
            value = tf.cast(value, tf.float32)
        super().assign(value)
        if self._complement is not None:
            self._complement.assign(1.0 - value)
        return self


class HyperparametersMixin:
    """The four hyperparameters of a keras.Model that has an `objective` and `_num_classes` (None: not known yet)."""

    objective: Any
    _num_classes: int | None

    def _make_hyperparameters(self, *, temperature, kd_weight, label_weight, radius):
        self._radius_argument = radius
        self._label_follows = label_weight is None and self.objective.needs_teacher
        kd_weight, label_weight = resolve_loss_weights(
            kd_weight, label_weight, needs_teacher=self.objective.needs_teacher
        )
        self.temperature = ScalarVariable("temperature", temperature, above=0.0)
        self.label_weight = ScalarVariable("label_weight", label_weight)
        follower = self.label_weight if self._label_follows else None
        self.kd_weight = ScalarVariable("kd_weight", kd_weight, complement=follower)
        self.radius = ScalarVariable("radius", UNKNOWN, above=0.0)
        self._set_radius(self._num_classes)

    def _set_radius(self, num_classes):
        """Sets a radius that is not known yet, unless it waits for adapt() or for the number of classes (None)."""
        if self.objective.loss.readout == "sphere":
            sphere_geometry.reject_two_classes(num_classes, self.objective.center)
        if self.objective.facts.standardizes:
            sphere_geometry.reject_standardized_pair(num_classes)
        waits = self._radius_argument == "auto" and num_classes is None
        radius = "auto" if waits else losses.resolve_radius(self._radius_argument, num_classes)
        if not isinstance(radius, str) and not float(self.radius.numpy()):
            self.radius.assign(radius)

    def _assigned(self, name, value):
        """Assigns a hyperparameter that is set as an attribute. Returns whether it was one.

        Raises:
          InputError: the attribute is an argument that cannot change any more.
        """
        variable = vars(self).get(name)
        if isinstance(variable, ScalarVariable):
            if name == "label_weight" and self._label_follows:
                raise _follows("distiller.label_weight = ..., and label_weight=None in the constructor")
            variable.assign(value)
            return True
        own = type(self).__module__ == "skd_tf.distillation.distiller"  # a subclass may have such attributes
        if own and name in _FIXED and value is not None and not isinstance(value, ScalarVariable):
            raise input_error(
                f"{name} cannot change in a Distiller",
                expected=f"Distiller(..., {name}=...)",
                received=f"distiller.{name} = {value!r:.60}",
                remedy="Make another Distiller; the student keeps its weights",
            )
        return False

    def load_own_variables(self, store: Any) -> None:
        """Called by Keras to load a saved file."""
        with restoring():
            super().load_own_variables(store)  # type: ignore[misc]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """As keras.Model.set_weights; the hyperparameters are set as they are in the list."""
        with restoring():
            super().set_weights(weights)  # type: ignore[misc]

    def _radius_is_missing(self):
        return self.objective.needs_radius and not float(self.radius.numpy())

    def _checked_schedules(self, schedules):
        """The schedules that compile() is given, {name: function of the step}; `InputError` if one of them is not valid."""
        scalars = [*self._hyperparameters_config()]
        if not isinstance(schedules, Mapping):
            raise input_error(
                "schedules is not a dict",
                expected="{name: function of the step}",
                received=f"schedules={schedules!r:.60}",
                remedy=f"Name the scalar: one of {', '.join(scalars)}",
            )
        for name, schedule in schedules.items():
            if name not in scalars:
                raise input_error(
                    "There is no such scalar to schedule",
                    expected=f"one of {', '.join(scalars)}",
                    received=f"schedules with {name!r}",
                    remedy=did_you_mean(name, scalars, "Choose one of these"),
                )
            if not callable(schedule):
                raise input_error(
                    "A schedule is not a function of the step",
                    expected="a function, or a skd_tf.schedules.Table of the value at each step",
                    received=f"schedules with {name} of the type {type(schedule).__name__}",
                    remedy="Make a Table of what skd_tf.schedules.loss_weight(...) returns for a number or text",
                )
        if "label_weight" in schedules and self._label_follows:
            raise _follows("schedules with label_weight, and label_weight=None")
        return dict(schedules)

    def _hyperparameters_config(self):
        return {
            "temperature": _decimal(self.temperature),
            "kd_weight": _decimal(self.kd_weight),
            "label_weight": None
            if self._label_follows or not self.objective.needs_teacher
            else _decimal(self.label_weight),
            "radius": self._radius_argument if isinstance(self._radius_argument, str) else _decimal(self.radius),
        } | ({"feature_weight": _decimal(self.feature_weight)} if hasattr(self, "feature_weight") else {})


def _follows(received):
    return input_error(
        "label_weight follows kd_weight",
        expected="no schedule or value for it",
        received=received,
        remedy="Construct Distiller(..., label_weight=NUMBER)",
    )


def _decimal(variable):
    """The shortest number with this float32 value: 0.9 instead of 0.8999999761581421, whose complement is not 0.1."""
    return float(str(variable.numpy()))


def resolve_loss_weights(kd_weight: float, label_weight: float | None, *, needs_teacher: bool) -> tuple[float, float]:
    """The weights of the two loss terms.

    Args:
      kd_weight: weight of the distill term, >= 0; at most 1 if `label_weight` is None.
      label_weight: weight of the label term, >= 0. None: 1 - kd_weight.
      needs_teacher: False gives (0, 1), the weights of a loss without a distill term.

    Returns:
      (kd_weight, label_weight).

    Raises:
      InputError: a weight is not a number, or is out of range.
    """
    if not needs_teacher:
        return 0.0, 1.0
    if label_weight is None:
        number_in_range("kd_weight", kd_weight)
        label_weight = 1.0 - number_in_range("kd_weight", kd_weight, high=1.0, remedy="Give label_weight as well")
    return number_in_range("kd_weight", kd_weight), number_in_range("label_weight", label_weight)


def finite_number(name: str, value: Any) -> float:
    """The value as a float.

    Raises:
      InputError: it is not a finite number.
    """
    try:
        is_number = not isinstance(value, (bool, np.bool_)) and math.isfinite(value)
    except (TypeError, ValueError):  # text, or several numbers
        is_number = False
    if not is_number:
        raise input_error(
            f"{name} is not a number", expected="a finite number", received=f"{name}={value!r}", remedy="Give a number"
        )
    return float(value)


def number_in_range(
    name: str, value: Any, *, above: float | None = None, high: float = math.inf, remedy: str = "Give a number in range"
) -> float:
    """The value as a float, which must be greater than `above` (None: at least 0) and at most `high`.

    Raises:
      InputError: it is not a finite number, or is out of range.
    """
    number = finite_number(name, value)
    if not ((number >= 0 if above is None else number > above) and number <= high):
        expected = ">= 0" if above is None else f"> {above:g}"
        expected += "" if high == math.inf else f" and <= {high:g}"
        raise input_error(
            f"{name} is out of range", expected=f"a number {expected}", received=f"{name}={number}", remedy=remedy
        )
    return number


def whole_number(name: str, value: Any, *, low: int = 0, remedy: str = "Give a whole number") -> int:
    """The value as an int, which must be at least `low`.

    Raises:
      InputError: it is not a whole number, or is smaller.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if number < low or isinstance(value, (bool, np.bool_)):
        raise input_error(
            f"{name} is not valid", expected=f"a whole number >= {low}", received=f"{name}={value!r}", remedy=remedy
        )
    return number
