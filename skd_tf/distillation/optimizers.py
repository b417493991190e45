"""Optimizers with the update rules of published training recipes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.errors import input_error
from skd_tf.runtime import compat


@keras.saving.register_keras_serializable("skd_tf")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and an L2 penalty, with the update rule of torch.optim.SGD.

        g = gradient + l2 * w
        m = momentum * m + g
        w = w - learning_rate * (g + momentum * m if nesterov else m)

    All published recipes of this package assume this rule. Keras' own SGD differs in two ways. Its `weight_decay` is
    decoupled, which makes it 1 / (1 - momentum) times weaker. And its velocity contains past learning rates, so a
    change of the rate acts late.

    Args:
      learning_rate: a number or a schedule.
      momentum: in [0, 1).
      nesterov: whether to use Nesterov momentum.
      l2: the penalty's coefficient, for every weight. It is added to the gradient after clipping.
      **kwargs: the other arguments of keras.optimizers.Optimizer.

    Examples:
      The weight is 1 and its gradient 0.5. The first step is 0.1 * (0.5 + 0.2 * 1):

      >>> import keras
      >>> from skd_tf.distillation import optimizers
      >>> weight = keras.Variable([1.0])
      >>> optimizers.SGD(0.1, momentum=0.9, l2=0.2).apply([keras.ops.array([0.5])], [weight])
      >>> print(weight.numpy().round(3))
      [0.93]
    """

    def __init__(
        self, learning_rate: Any = 0.05, momentum: float = 0.9, nesterov: bool = False, l2: float = 0.0, **kwargs: Any
    ):
        super().__init__(learning_rate=learning_rate, momentum=float(momentum), nesterov=nesterov, **kwargs)
        self.l2 = float(l2)

    def update_step(self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable; called by Keras."""
        step = keras.ops.cast(gradient, variable.dtype)
        if self.l2:
            step = step + keras.ops.cast(self.l2, variable.dtype) * variable
        if self.momentum:
            velocity = self.momentums[compat.variable_index(self, variable)]
            self.assign(velocity, self.momentum * velocity + step)
            step = step + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * step)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this optimizer again."""
        return super().get_config() | {"l2": self.l2}


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer and its numbers; the flags of the same names describe them."""

    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    clip_norm: float = 0.0
    ema_momentum: float = 0.0


def make_optimizer(settings: OptimizerSettings, learning_rate: Any) -> keras.optimizers.Optimizer:
    """The Keras optimizer that the settings describe.

    Args:
      settings: `optimizer` is "sgd" or "adamw". With `clip_norm` > 0, the gradient is clipped to this global norm,
        after it was summed over replicas.
      learning_rate: a number or a schedule, such as `skd_tf.schedules.Table`.
    """
    options: dict[str, Any] = {"global_clipnorm": settings.clip_norm or None}
    if settings.ema_momentum:
        options |= {"use_ema": True, "ema_momentum": settings.ema_momentum}
    if settings.optimizer == "adamw":
        return keras.optimizers.AdamW(learning_rate, settings.weight_decay, **options)
    return SGD(learning_rate, settings.momentum, settings.nesterov, settings.weight_decay, **options)


@contextlib.contextmanager
def averaged(distiller: keras.Model) -> Iterator[None]:
    """Inside this context, the student has the moving average of its weights, if its optimizer keeps one.

        average = momentum * average + (1 - momentum) * weights

    The average is updated after each step and starts at the weights after the first step. BatchNorm's moving
    statistics are averages already and do not change.
    """
    weights = distiller.trained_variables if updating(distiller.optimizer).use_ema else []
    before = [np.array(weight.numpy()) for weight in weights]
    take_average(distiller)
    try:
        yield
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.assign(value)


def take_average(distiller: keras.Model) -> None:
    """Replaces the student's weights by their moving average for good, if its optimizer keeps one."""
    optimizer = updating(distiller.optimizer)
    if optimizer.use_ema:
        averages = compat.moving_averages(optimizer)
        for weight, average in zip(distiller.trained_variables, averages, strict=True):
            weight.assign(average.numpy())


def require_own(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> None:
    """Raises `InputError` if an optimizer has been built, but not for all of these variables."""
    if not optimizer.built:
        return
    try:
        for variable in variables:
            compat.variable_index(updating(optimizer), variable)
    except KeyError as error:
        raise input_error(
            "The optimizer has been built for another model, or with fewer trainable layers",
            expected="a new optimizer",
            received=f"a {type(optimizer).__name__} that knows no variable {variable.path}",
            remedy="Make a new one for each Distiller, and a new one after making layers trainable",
        ) from error


def may_skip(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether the optimizer skips steps whose gradient is not finite, as the loss scaling of float16 does."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def updating(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """The optimizer that updates the weights, inside any loss scaling."""
    return getattr(optimizer, "inner_optimizer", optimizer)
