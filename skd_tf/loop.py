"""The training loop: host calls of k steps, cut at epoch ends and checkpoints, resumable at any step.

Keras' fit() knows only whole epochs: it wipes restored metrics, restarts the data, and cannot stop inside one.
"""

import time
import typing

from skd_tf import grammar


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


def train(distiller, make_stream, *, first_step, last_step, steps_per_epoch, steps_per_call, interval, on_epoch_end, save):
    """Trains from first_step to last_step.

    Args:
      distiller: compiled `Distiller`.
      make_stream: (shards, shard_range) -> tf.data.Dataset beginning at first_step, one replica's part an element.
      first_step: steps already done.
      last_step: steps to end with.
      steps_per_epoch: full batches in an epoch.
      steps_per_call: most steps in one host call.
      interval: `Interval` between saves; the last step is always saved.
      on_epoch_end: called with (step, {name: mean}, `Pace` of the epoch's steps in this process).
      save: called with a step whose state is to be saved.
    """

    def local_stream(context):
        local = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * local
        return make_stream(context.num_replicas_in_sync, range(first, first + local))

    strategy = distiller.distribute_strategy
    with strategy.scope():
        iterator = iter(strategy.distribute_datasets_from_function(local_stream))
    step, pace = first_step, Pace(0, 0.0, 0.0)
    while step < last_step:
        to_epoch_end = steps_per_epoch - step % steps_per_epoch
        steps = int(min(steps_per_call, to_epoch_end, last_step - step, interval.steps_left(step)))
        start = time.perf_counter()
        waited = distiller.run_steps(iterator, steps)
        step_before, step = step, step + steps
        epoch_ends = steps == to_epoch_end
        means = distiller.means.result() if epoch_ends else None  # waits for the device, so that the time is true
        # The first call traces and compiles: it counts only where there is no other.
        if step_before > first_step or epoch_ends:
            call = Pace(steps, time.perf_counter() - start, waited)
            pace = Pace(*map(sum, zip(pace, call, strict=True)))
        if epoch_ends:
            on_epoch_end(step, means, pace)
            distiller.means.reset_state()
            pace = Pace(0, 0.0, 0.0)
        if interval.due(step, epoch_ends) or step == last_step:
            save(step)
            interval.saved()
