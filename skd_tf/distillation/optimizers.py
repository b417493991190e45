"""Optimizers as the field's recipes mean them."""

import contextlib
import dataclasses

import keras
import numpy as np
import tensorflow as tf

from skd_tf.runtime import replicas


@keras.saving.register_keras_serializable("skd_tf")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and L2, as torch.optim.SGD, in which every published recipe here is written.

        g = gradient + l2 * w;   m = momentum * m + g;   w -= lr * (g + momentum * m if nesterov else m)

    Keras' own differs twice: its weight_decay is decoupled, 1 / (1 - momentum) times weaker, and its velocity holds past
    learning rates, so a change of rate acts late.

    Args:
      learning_rate: number or schedule.
      momentum: in [0, 1).
      nesterov: whether to look ahead.
      l2: coefficient added to every weight's gradient, after clipping.
      **kwargs: of keras.optimizers.Optimizer.
    """

    def __init__(self, learning_rate=0.05, momentum=0.9, nesterov=False, l2=0.0, **kwargs):
        super().__init__(learning_rate=learning_rate, momentum=float(momentum), nesterov=nesterov, **kwargs)
        # A variable, so that another coefficient is no new trace; 0 costs nothing.
        self.l2 = tf.Variable(float(l2), trainable=False, name="l2") if l2 else None

    def assign_decay(self, l2):
        """Another coefficient; from or to 0 takes another optimizer."""
        if bool(l2) != (self.l2 is not None):
            raise ValueError(f"An optimizer is made with or without L2. Received l2={l2}.")
        if l2:
            self.l2.assign(l2)

    def update_step(self, gradient, variable, learning_rate):
        step = keras.ops.cast(gradient, variable.dtype)
        if self.l2 is not None:
            step = step + keras.ops.cast(self.l2, variable.dtype) * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            self.assign(velocity, self.momentum * velocity + step)
            step = step + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * step)

    def get_config(self):
        return super().get_config() | {"l2": 0.0 if self.l2 is None else float(self.l2.numpy())}


@keras.saving.register_keras_serializable("skd_tf")
class AdamW(keras.optimizers.AdamW):
    """keras.optimizers.AdamW with its weight decay in a variable, so that another one is no new trace."""

    def __init__(self, learning_rate=0.001, weight_decay=0.004, **kwargs):
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.weight_decay = tf.Variable(float(weight_decay), trainable=False, name="weight_decay")

    def assign_decay(self, weight_decay):
        self.weight_decay.assign(weight_decay)

    def get_config(self):
        return super().get_config() | {"weight_decay": float(self.weight_decay.numpy())}


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer, and its numbers; each as the flag of the same name."""

    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    clip_norm: float = 0.0
    ema_momentum: float = 0.0


def make_optimizer(settings, learning_rate):
    """The Keras optimizer of some `OptimizerSettings`; clips by the global norm of the gradient summed over replicas."""
    options = {"global_clipnorm": settings.clip_norm or None}
    if settings.ema_momentum:
        options |= {"use_ema": True, "ema_momentum": settings.ema_momentum}
    if settings.optimizer == "adamw":
        return AdamW(learning_rate, settings.weight_decay, **options)
    return SGD(learning_rate, settings.momentum, settings.nesterov, settings.weight_decay, **options)


@contextlib.contextmanager
def averaged(distiller):
    """The student has the moving average of its weights inside, where its optimizer keeps one; afterwards its own again.

        average = momentum * average + (1 - momentum) * weights after each step; the first step's weights begin it

    BatchNorm's moving statistics are averages already, and stay.
    """
    optimizer = getattr(distiller.optimizer, "inner_optimizer", distiller.optimizer)
    if not optimizer.use_ema:
        yield
        return
    weights = distiller.student.trainable_variables
    before = [np.array(weight.numpy()) for weight in weights]
    take_average(distiller)
    try:
        yield
    finally:
        for weight, value in zip(weights, before, strict=True):
            weight.assign(value)


def take_average(distiller):
    """Gives the student the moving average of its weights, where its optimizer keeps one, for good."""
    optimizer = getattr(distiller.optimizer, "inner_optimizer", distiller.optimizer)
    if optimizer.use_ema:
        averages = optimizer._model_variables_moving_average
        for weight, average in zip(distiller.student.trainable_variables, averages, strict=True):
            weight.assign(average.numpy())


def assign_settings(optimizer, rates, weight_decay):
    """Other numbers for an optimizer of `make_optimizer` with a `Table` of as many rates; nothing is traced again."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    optimizer._learning_rate.assign(rates)
    optimizer.assign_decay(weight_decay)


def may_skip(optimizer):
    """Whether an optimizer skips steps whose gradient is not finite: float16's loss scaling does."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def apply_if(finite, optimizer, gradients, variables):
    """Applies gradients where `finite`, True or bool `[]`, in replica context.

    Loss scaling is called in any case: it skips the same steps by itself, and lowers its scale then.
    """
    replicas.call_if(True if may_skip(optimizer) else finite, optimizer.apply, gradients, variables)


def take_gradients_as_summed(optimizer):
    """Keras sums gradients over replicas inside apply(), after clipping them. Ours arrive summed, so that clipping, loss
    scaling and weight decay see what one replica would see."""
    for part in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        if part is not None:
            if not hasattr(part, "_all_reduce_sum_gradients"):
                raise RuntimeError(
                    "This Keras sums gradients elsewhere: skd_tf needs keras 3.15 or one that is like it."
                )
            part._all_reduce_sum_gradients = list
