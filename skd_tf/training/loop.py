"""The training loop: host calls of k steps, cut at epoch ends and checkpoints, resumable at any step.

Keras' fit() knows only whole epochs: it wipes restored metrics, restarts the data, and cannot stop inside an epoch.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.runtime import cluster, compat, replicas, signals

MakeStream = Callable[[int, int, range], tf.data.Dataset]


class Pace(NamedTuple):
    """Timed steps, the seconds they took, and how many of those seconds they waited for input."""

    steps: int
    seconds: float
    waited_seconds: float

    def plus(self, other: "Pace") -> "Pace":
        return Pace(*(one + another for one, another in zip(self, other, strict=True)))  # type: ignore[arg-type]


class Interval:
    """When to save a checkpoint: every `count` epochs, steps or seconds (`unit`)."""

    def __init__(self, count: float, unit: str):
        self.count, self.unit = count, unit
        self._last = time.monotonic()

    def steps_left(self, step: int) -> float:
        """Steps until the next save at a fixed step; infinite for other units."""
        return self.count - step % self.count if self.unit == "steps" else math.inf

    def due(self, step: int, epoch_ends: bool) -> bool:
        if self.unit == "seconds":
            return time.monotonic() - self._last >= self.count
        return step % self.count == 0 if self.unit == "steps" else epoch_ends

    def saved(self) -> None:
        self._last = time.monotonic()


class Profile:
    """TensorBoard's profiler for a range of steps; it writes the trace to folder/plugins/profile.

    As a context manager, it also writes the trace of a training that stops inside the range.

    Args:
      steps: (first, last), counted from 1, both included; None for no trace.
      folder: TensorBoard's.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: str | os.PathLike):
        self._begin: float = steps[0] - 1 if steps else math.inf
        self._end: float = steps[1] if steps else math.inf
        self._folder, self._tracing = str(folder), False

    def steps_left(self, step: int) -> float:
        """Steps until the profiler starts or stops; infinite if it never does again."""
        return next((place - step for place in (self._begin, self._end) if place > step), math.inf)

    def switch(self, step: int) -> None:
        """Starts or stops the profiler if it is due after `step` steps."""
        if step == self._begin:
            tf.profiler.experimental.start(self._folder)
            self._tracing = True
        elif step == self._end:
            self._stop()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(*([Exception] if error else [])):  # the first error counts
            self._stop()

    def _stop(self):
        if self._tracing:
            tf.profiler.experimental.stop()
            self._tracing = False


class LoopCallbacks(Protocol):
    """What the loop calls while it trains; `step` is the number of steps done."""

    def on_call(self, step: int) -> None:
        """Called after a host call inside an epoch."""

    def on_epoch_end(self, step: int, means: dict[str, float], pace: Pace) -> bool:
        """Called with the epoch's means, and the pace of its steps in this process. Returns whether training ends."""

    def on_not_finite(self, step: int, names: list[str]) -> None:
        """Called with the names of what became not finite in the step after `step`; raises."""

    def save(self, step: int) -> None:
        """Called when the state of `step` is to be saved."""

    def on_interrupt(self, step: int, signal: int) -> None:
        """Called after a save, with the number of the signal that stops the loop; raises."""


def train(
    distiller: Distiller,
    make_stream: MakeStream,
    callbacks: LoopCallbacks,
    *,
    first_step: int,
    last_step: int,
    steps_per_epoch: int,
    steps_per_call: int,
    interval: Interval,
    profile: Profile,
) -> None:
    """Trains from first_step to last_step. A signal stops it after the current host call, with the state saved.

    Args:
      distiller: a compiled `Distiller`.
      make_stream: (first_step, shards, shard_range) -> tf.data.Dataset from that step on; an element is one replica's
        part of a batch.
      callbacks: `LoopCallbacks`.
      first_step: steps already done.
      last_step: steps to end with.
      steps_per_epoch: full batches in an epoch.
      steps_per_call: most steps in one host call.
      interval: between checkpoints; the last step is always saved.
      profile: which steps to trace.
    """

    def local_stream(context):
        local = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * local
        return make_stream(first_step, context.num_replicas_in_sync, range(first, first + local))

    strategy = distiller.distribute_strategy
    with strategy.scope():
        stream = strategy.distribute_datasets_from_function(local_stream)
        # Without a strategy, TensorFlow would copy a batch to the device only when a step asks for it.
        with compat.untuned_device_iterators():
            iterator = iter(stream if tf.distribute.has_strategy() else replicas.prefetched(stream))
    distiller.guard.reset()
    step, pace = first_step, Pace(0, 0.0, 0.0)
    with signals.deferred() as interrupted, profile:
        while step < last_step:
            to_epoch_end = steps_per_epoch - step % steps_per_epoch
            profile.switch(step)
            steps_left = to_epoch_end, last_step - step, interval.steps_left(step), profile.steps_left(step)
            steps = int(min(steps_per_call, *steps_left))
            start = time.perf_counter()
            waited = distiller.run_steps(iterator, steps)
            step_before, step = step, step + steps
            epoch_ends = steps == to_epoch_end
            means = distiller.means.result() if epoch_ends else {}  # waits for the device, so the time is right
            # One answer for all workers, whose clocks differ: a signal, and whether a checkpoint is due.
            signal, due = divmod(cluster.max_over_workers(2 * (interrupted() or 0) + interval.due(step, epoch_ends)), 2)
            saves = due or step == last_step or signal
            # Asking after every call would wait for the device. Waiting is safe: after a step that is not finite
            # nothing changes any more.
            names = distiller.guard.found() if epoch_ends or saves else ()
            if names:
                callbacks.on_not_finite(int(distiller.optimizer.iterations.numpy()), names)
            # The first call traces and compiles: it only counts if it is the epoch's only one.
            if step_before > first_step or epoch_ends:
                call = Pace(steps, time.perf_counter() - start, waited)
                pace = pace.plus(call)
            if not epoch_ends:
                callbacks.on_call(step)
            else:
                if callbacks.on_epoch_end(step, means, pace):
                    last_step, saves = step, True
                distiller.means.reset_state()
                pace = Pace(0, 0.0, 0.0)
            if saves:
                callbacks.save(step)
                interval.saved()
            if signal:
                callbacks.on_interrupt(step, signal)
        signal = cluster.max_over_workers(interrupted() or 0)  # it may have come during the last step's records
        if signal:
            callbacks.on_interrupt(step, signal)
