"""Schedules: the learning rate and the loss weights of every step, as float64 tables computed before training.

A table is a plain numpy array, so it can be plotted, tested and compared. `Table` passes one to a Keras optimizer.

Example:
  >>> import keras
  >>> from skd_tf import Config, schedules
  >>> rates = schedules.learning_rate(Config(epochs=3, learning_rate=0.8, warmup_epochs=1), steps_per_epoch=2)
  >>> optimizer = keras.optimizers.SGD(schedules.Table(rates))
  >>> round(float(optimizer.learning_rate), 3)
  0.4
"""

import functools
from typing import Any

import numpy as np

from skd_tf.config import Config, grammar

# As a fraction of the run. Short runs need more: over 270 steps of SGD, a warm-up of 100 took the student alone from 87.6 to
# 93.2% and KD at T = 4 from 65.4 to 92.3% (docs/studies/first_day.md). Every method gets the same, which keeps them comparable.
DEFAULT_WARMUP = 0.05

_RAMPS = {"linear": lambda part: part, "cosine": lambda part: (1 - np.cos(np.pi * part)) / 2}


def warmup_steps(config: Config, steps_per_epoch: int) -> int:
    """Number of warm-up steps of the learning rate.

    It is `warmup_epochs`. If that is None, it is 5% of the run, but at least `min_warmup_steps`, or half of the run if that
    is less.

    Args:
      config: `warmup_epochs`, `min_warmup_steps` and `epochs` are used.
      steps_per_epoch: full global batches per epoch.

    Examples:
      >>> from skd_tf import Config, schedules
      >>> [schedules.warmup_steps(Config(epochs=epochs), steps_per_epoch=100) for epochs in (40, 10, 1)]
      [200, 100, 50]
    """
    if config.warmup_epochs is not None:
        return round(config.warmup_epochs * steps_per_epoch)
    least = min(config.min_warmup_steps, config.epochs * steps_per_epoch // 2)
    return max(round(DEFAULT_WARMUP * config.epochs * steps_per_epoch), least)


def learning_rate(config: Config, steps_per_epoch: int) -> np.ndarray:
    """The learning rate of every training step t.

    With W warm-up steps out of N, peak rate p, milestones m_i (in steps) and factor f:

        warm-up          p * (t + 1) / W                              for t < W
        constant         p
        cosine           p * (1 + cos(pi * (t - W) / (N - W))) / 2    for t >= W; it would reach 0 at t = N
        linear           p * (1 - (t - W) / (N - W))                  for t >= W; it would reach 0 at t = N
        multistep        p * f^(number of m_i <= t); while t < W, times the warm-up's (t + 1) / W

    Args:
      config: `learning_rate`, `lr_schedule`, `epochs` and `warmup_epochs` are used.
      steps_per_epoch: full global batches per epoch.

    Returns:
      `[epochs * steps_per_epoch]` float64.

    Examples:
      >>> from skd_tf import Config, schedules
      >>> config = Config(epochs=3, learning_rate=0.8, lr_schedule="linear", warmup_epochs=1)
      >>> print(schedules.learning_rate(config, steps_per_epoch=2).round(3))
      [0.4 0.8 0.8 0.6 0.4 0.2]
    """
    schedule = grammar.parse_lr_schedule(config.lr_schedule)
    total_steps = config.epochs * steps_per_epoch
    warmup = warmup_steps(config, steps_per_epoch)
    steps = np.arange(total_steps, dtype=np.float64)
    decayed = np.maximum(steps - warmup, 0) / max(total_steps - warmup, 1)
    factors = {
        "constant": 1.0,
        **{shape: 1 - ramp(decayed) for shape, ramp in _RAMPS.items()},
        "multistep": schedule.factor ** _count_reached(schedule.epochs, steps, steps_per_epoch).astype(np.float64),
    }
    return config.learning_rate * factors[schedule.kind] * np.minimum(1.0, (steps + 1) / max(warmup, 1))


def loss_weight(spec: float | str, steps_per_epoch: int, total_steps: int) -> np.ndarray:
    """The weight of a loss term at every training step t.

    A ramp over E epochs is

        first + (last - first) * r(min(1, t / (E * steps_per_epoch)))        r(x) = x, or (1 - cos(pi * x)) / 2

    Args:
      spec: a number, or text as for `--kd_weight` (`skd_tf.config.grammar.WEIGHT`).
      steps_per_epoch: full global batches per epoch.
      total_steps: length of the result.

    Returns:
      `[total_steps]` float64.

    Raises:
      InputError: text outside the grammar.

    Examples:
      >>> from skd_tf import schedules
      >>> print(schedules.loss_weight("0.9, 0.5 from epoch 2", steps_per_epoch=2, total_steps=6))
      [0.9 0.9 0.9 0.9 0.5 0.5]
      >>> print(schedules.loss_weight("linear 0 to 1 over 2 epochs", steps_per_epoch=2, total_steps=6))
      [0.   0.25 0.5  0.75 1.   1.  ]
    """
    weight = grammar.parse_weight(spec)
    steps = np.arange(total_steps, dtype=np.float64)
    if isinstance(weight, grammar.RampWeight):
        part = _RAMPS[weight.shape](np.minimum(1.0, steps / (weight.epochs * steps_per_epoch)))
        return weight.first + (weight.last - weight.first) * part
    return np.asarray(weight.values)[_count_reached(weight.epochs, steps, steps_per_epoch) - 1]


def _count_reached(epochs, steps, steps_per_epoch):
    """How many of the (ascending) epochs have started at each step."""
    return np.searchsorted(np.round(np.asarray(epochs) * steps_per_epoch), steps, side="right")


@functools.cache
def _table_class():
    import keras
    import tensorflow as tf

    @keras.saving.register_keras_serializable("skd_tf")
    class Table(keras.optimizers.schedules.LearningRateSchedule):
        """A Keras schedule that reads a table: `values[min(step, len(values) - 1)]`, float32.

        The table is a variable, so `assign` with another table of the same length never retraces. With
        MirroredStrategy, create it inside `strategy.scope()`.

        Args:
          values: `[steps]`, the value at every step.
        """

        def __init__(self, values, name="Table"):
            super().__init__()
            self.name = name
            self._values = tf.Variable(np.asarray(values, np.float32), trainable=False, name="schedule")

        def __call__(self, step):
            step = keras.ops.minimum(keras.ops.cast(step, "int64"), self._values.shape[0] - 1)
            return tf.gather(self._values, step)

        def assign(self, values):
            self._values.assign(np.asarray(values, np.float32))

        def get_config(self):
            return {"values": self._values.numpy().tolist(), "name": self.name}

    return Table


def __getattr__(name: str) -> Any:
    # TensorFlow takes seconds to import, and the dry run only reads tables.
    if name == "Table":
        return _table_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
