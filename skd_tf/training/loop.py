"""The training loop: host calls of k steps, cut at epoch ends and checkpoints, resumable at any step.

Keras' fit() knows only whole epochs: it wipes restored metrics, restarts the data, and cannot stop inside one.
"""

import math
import time
import typing

from skd_tf.config import grammar
from skd_tf.runtime import cluster, signals


class Pace(typing.NamedTuple):
    """Steps that were timed, the seconds they took, and how many of those they waited for input."""

    steps: int
    seconds: float
    waited_seconds: float


class Interval:
    """When to save: every so many epochs, steps or seconds."""

    def __init__(self, text):
        self.count, self.unit = grammar.parse_interval(text)
        self._last = time.monotonic()

    def steps_left(self, step):
        """Steps until the next save that is due at a step; infinite for the other units."""
        return self.count - step % self.count if self.unit == "steps" else float("inf")

    def due(self, step, epoch_ends):
        if self.unit == "seconds":
            return time.monotonic() - self._last >= self.count
        return step % self.count == 0 if self.unit == "steps" else epoch_ends

    def saved(self):
        self._last = time.monotonic()


class Profile:
    """TensorBoard's profiler, on for a range of steps; the trace goes to folder/plugins/profile.

    Args:
      steps: (first, last), counted from 1 and both traced, or None for no trace.
      folder: TensorBoard's.
    """

    def __init__(self, steps, folder):
        self._begin, self._end = (steps[0] - 1, steps[1]) if steps else (math.inf, math.inf)
        self._folder, self._tracing = str(folder), False

    def steps_left(self, step):
        """Steps until the profiler is to be switched; infinite when it never is again."""
        return next((place - step for place in (self._begin, self._end) if place > step), math.inf)

    def switch(self, step):
        """Starts or stops it where `step` steps are done."""
        import tensorflow as tf

        if step == self._begin:
            tf.profiler.experimental.start(self._folder)
            self._tracing = True
        elif step == self._end and self._tracing:
            tf.profiler.experimental.stop()
            self._tracing = False


class LoopCallbacks(typing.Protocol):
    """What a run does while it trains."""

    def on_call(self, step):
        """After a host call in mid-epoch."""

    def on_epoch_end(self, step, means, pace):
        """With {name: mean} and the `Pace` of the epoch's steps in this process."""

    def on_not_finite(self, step, names):
        """With the steps that are done and the names of what the next one made not finite; raises."""

    def save(self, step):
        """With a step whose state is to be saved."""

    def on_interrupt(self, step, signal):
        """With the step saved last and the signal's number; raises."""


def train(distiller, make_stream, hooks, *, first_step, last_step, steps_per_epoch, steps_per_call, interval, profile):
    """Trains from first_step to last_step; on a signal it ends after the host call, its state saved.

    Args:
      distiller: compiled `Distiller`.
      make_stream: (first_step, shards, shard_range) -> tf.data.Dataset from that step on, one replica's part an element.
      hooks: `LoopCallbacks`.
      first_step: steps already done.
      last_step: steps to end with.
      steps_per_epoch: full batches in an epoch.
      steps_per_call: most steps in one host call.
      interval: `Interval` between saves; the last step is always saved.
      profile: `Profile` of some steps.
    """

    def local_stream(context):
        local = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * local
        return make_stream(first_step, context.num_replicas_in_sync, range(first, first + local))

    strategy = distiller.distribute_strategy
    with strategy.scope():
        iterator = iter(strategy.distribute_datasets_from_function(local_stream))
    distiller.guard.reset()
    step, pace = first_step, Pace(0, 0.0, 0.0)
    with signals.deferred() as interrupted:
        while step < last_step:
            to_epoch_end = steps_per_epoch - step % steps_per_epoch
            profile.switch(step)
            steps_left = to_epoch_end, last_step - step, interval.steps_left(step), profile.steps_left(step)
            steps = int(min(steps_per_call, *steps_left))
            start = time.perf_counter()
            waited = distiller.run_steps(iterator, steps)
            step_before, step = step, step + steps
            epoch_ends = steps == to_epoch_end
            means = distiller.means.result() if epoch_ends else None  # waits for the device, so that the time is true
            signal = cluster.any_worker(interrupted() or 0)
            saves = interval.due(step, epoch_ends) or step == last_step or signal
            # Not after each call, which would wait for the device: nothing changes after a step that is not finite.
            names = distiller.guard.found() if epoch_ends or saves else ()
            if names:
                hooks.on_not_finite(int(distiller.optimizer.iterations.numpy()), names)
            # The first call traces and compiles: it counts only where there is no other.
            if step_before > first_step or epoch_ends:
                call = Pace(steps, time.perf_counter() - start, waited)
                pace = Pace(*map(sum, zip(pace, call, strict=True)))
            if not epoch_ends:
                hooks.on_call(step)
            else:
                hooks.on_epoch_end(step, means, pace)
                distiller.means.reset_state()
                pace = Pace(0, 0.0, 0.0)
            if saves:
                hooks.save(step)
                interval.saved()
            if signal:
                hooks.on_interrupt(step, signal)
        signal = cluster.any_worker(interrupted() or 0)  # one that came with the last step's records
        if signal:
            hooks.on_interrupt(step, signal)
    profile.switch(step)
