"""Schedules: step -> learning rate, step -> loss weight, as float64 tables computed before training.

A table is plain numpy, so it can be plotted, tested and compared; `Table` carries one into a Keras optimizer.
"""

import functools

import numpy as np

from skd_tf.config import grammar

# Of the run. The spherical loss needs it: its gradient grows as radius / ||student logits||, which is largest
# in the first steps. Every method gets the same, so that they compare.
DEFAULT_WARMUP = 0.05

_RAMPS = {"linear": lambda part: part, "cosine": lambda part: (1 - np.cos(np.pi * part)) / 2}


def warmup_steps(config, steps_per_epoch):
    """Steps of the learning rate's warm-up: `warmup_epochs`, or 5% of the run."""
    epochs = DEFAULT_WARMUP * config.epochs if config.warmup_epochs is None else config.warmup_epochs
    return round(epochs * steps_per_epoch)


def learning_rate(config, steps_per_epoch):
    """The learning rate of every training step.

    With W warm-up steps out of N, peak rate p, milestones m_i (in steps) and factor f:

        warm-up          p * (t + 1) / W                              for t < W
        constant         p
        cosine           p * (1 + cos(pi * (t - W) / (N - W))) / 2    for t >= W: 0 would be reached at t = N
        linear           p * (1 - (t - W) / (N - W))                  for t >= W: the same
        multistep        p * f^(number of m_i <= t), times the warm-up's (t + 1) / W while t < W

    Args:
      config: `learning_rate`, `lr_schedule`, `epochs` and `warmup_epochs` are used.
      steps_per_epoch: full global batches in an epoch.

    Returns:
      `[epochs * steps_per_epoch]` float64.
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


def loss_weight(spec, steps_per_epoch, total_steps):
    """The weight of a loss term at every training step.

    Args:
      spec: a number, or text in the grammar of `--kd_weight` (`skd_tf.config.grammar.WEIGHT`). A ramp of E epochs is
        first + (last - first) * r(min(1, t / (E * steps_per_epoch))), r(x) = x or (1 - cos(pi * x)) / 2.
      steps_per_epoch: full global batches in an epoch.
      total_steps: length of the result.

    Returns:
      `[total_steps]` float64.

    Raises:
      InputError: text outside the grammar.
    """
    weight = grammar.parse_weight(spec)
    steps = np.arange(total_steps, dtype=np.float64)
    if isinstance(weight, grammar.RampWeight):
        part = _RAMPS[weight.shape](np.minimum(1.0, steps / (weight.epochs * steps_per_epoch)))
        return weight.first + (weight.last - weight.first) * part
    return np.asarray(weight.values)[_count_reached(weight.epochs, steps, steps_per_epoch) - 1]


def _count_reached(epochs, steps, steps_per_epoch):
    """How many of the (rising) epochs have begun at each step."""
    return np.searchsorted(np.round(np.asarray(epochs) * steps_per_epoch), steps, side="right")


@functools.cache
def _table_class():
    import keras
    import tensorflow as tf

    @keras.saving.register_keras_serializable("skd_tf")
    class Table(keras.optimizers.schedules.LearningRateSchedule):
        """A schedule read from a table: `values[min(step, len(values) - 1)]`, float32.

        The table is a variable, so `assign` of another table of the same length never retraces. For
        MirroredStrategy create it inside `strategy.scope()`.

        Args:
          values: `[steps]`, the value of every step.
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


def __getattr__(name):
    # TensorFlow takes seconds to import, and the dry run only reads tables.
    if name == "Table":
        return _table_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
