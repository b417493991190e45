"""Optimizers as the field's recipes mean them."""

import keras


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
        self.l2 = float(l2)

    def update_step(self, gradient, variable, learning_rate):
        step = keras.ops.cast(gradient, variable.dtype)
        if self.l2:
            step = step + self.l2 * variable
        if self.momentum:
            velocity = self.momentums[self._get_variable_index(variable)]
            self.assign(velocity, self.momentum * velocity + step)
            step = step + self.momentum * velocity if self.nesterov else velocity
        self.assign_sub(variable, keras.ops.cast(learning_rate, variable.dtype) * step)

    def get_config(self):
        return super().get_config() | {"l2": self.l2}


def _sgd(config, learning_rate, common):
    return SGD(learning_rate, config.momentum, config.nesterov, config.weight_decay, **common)


def _adamw(config, learning_rate, common):
    return keras.optimizers.AdamW(learning_rate, weight_decay=config.weight_decay, **common)


_OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}


def make_optimizer(config, learning_rate):
    """The Keras optimizer of a Config; clips by the global norm of the gradient summed over replicas."""
    return _OPTIMIZERS[config.optimizer](config, learning_rate, {"global_clipnorm": config.clip_norm or None})


def may_skip(optimizer):
    """Whether an optimizer skips steps whose gradient is not finite: float16's loss scaling does."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def unless_skipped(optimizer, gradients):
    """A function of (new, old=0): new, or old where the optimizer skips the step of these gradients.

    An overflow in the forward pass would otherwise stay for ever in BatchNorm's moving statistics and the epoch's means.
    """
    if not may_skip(optimizer):
        return lambda new, old=0.0: new
    finite = optimizer.check_finite(gradients)
    return lambda new, old=0.0: keras.ops.where(finite, new, keras.ops.cast(old, new.dtype))


def take_gradients_as_summed(optimizer):
    """Keras sums gradients over replicas inside apply(), after clipping them. Ours arrive summed, so that clipping, loss
    scaling and weight decay see what one replica would see."""
    for part in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        if part is not None:
            if not hasattr(part, "_all_reduce_sum_gradients"):
                raise RuntimeError("This Keras sums gradients elsewhere: skd_tf needs keras 3.15 or one that is like it.")
            part._all_reduce_sum_gradients = list
