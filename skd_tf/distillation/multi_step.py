"""MultiStepFunction: any number of training or test steps over all replicas in one call from Python."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf


class MultiStepFunction:
    """Takes global batches from an iterator and runs one step in replica context for each.

    The number of steps is a tensor, so every number uses the same graph. k calls of one step give the same result as
    one call of k steps, bit for bit.

    Args:
      strategy: tf.distribute.Strategy.
      step: called in replica context with one replica's part of a batch.
      before: called in cross-replica context before each step, or None.
      stopped: called in cross-replica context before each step; returns bool `[]`, True to stop. None: never stop.
      eager: whether to run without a graph.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        step: Callable[[Any], Any],
        *,
        before: Callable[[], None] | None = None,
        stopped: Callable[[], tf.Tensor] | None = None,
        eager: bool = False,
    ):
        self._strategy, self._step, self._before, self._eager = strategy, step, before, eager
        self._stopped = stopped or (lambda: tf.constant(False))
        # Whether the step being traced is part of our own loop. There, all replicas have equally many examples, and
        # `stopped` is asked before each step.
        self.in_loop = False
        # TensorFlow warns of retracing by code object; a partial has none, so several models do not add up.
        self._many = tf.function(functools.partial(self._loop), autograph=False)
        self._to_end = tf.function(functools.partial(self._loop_to_end), autograph=False)
        self._single = self._one if eager else tf.function(functools.partial(self._one), autograph=False)

    def __call__(self, iterator: Iterator, steps: int) -> tf.Tensor | float:
        """Runs at most `steps` steps in one call; all batches have one static shape.

        Returns:
          Seconds spent waiting for data: a float64 tensor `[]`, or a float if eager.
        """
        if not self._eager:
            return self._many(iterator, tf.constant(steps, tf.int64))  # a tensor: reading it would wait for the device
        waited = 0.0
        for _ in range(steps):
            if self._stopped():
                break
            asked = time.perf_counter()
            data = next(iterator)
            waited += time.perf_counter() - asked
            self._one(data, in_loop=True)
        return waited

    def keras_function(
        self, steps: int, result: Callable[[], Any], *, inspect: Callable[[Any], None], is_inspected: Callable[[], bool]
    ) -> Callable[[Iterator], Any]:
        """The train or test function that Keras' fit() and evaluate() call.

        On one replica, a call takes `steps` batches in one graph, except the very first batch, which is inspected. On
        several replicas it takes them one at a time: a loop inside a graph cannot take a short last batch there.

        Args:
          steps: `steps_per_execution`, the number of batches per call.
          result: gives the function's result after the last of them.
          inspect: called with each batch that passes through Python; raises an error if it cannot be used.
          is_inspected: whether no further batch has to be inspected.

        Returns:
          A function of an iterator. It raises StopIteration if there is no batch left.
        """
        in_graph = steps > 1 and not self._eager and self._strategy.num_replicas_in_sync == 1

        def function(iterator):
            done = 0
            while done < steps:
                if in_graph and isinstance(iterator, tf.data.Iterator) and is_inspected():
                    done += int(self._to_end(iterator, tf.constant(steps - done, tf.int64)))
                    break
                try:
                    data = next(iterator)
                except (tf.errors.OutOfRangeError, StopIteration):
                    break
                inspect(data)
                self._single(data)
                done += 1
            if not done:
                raise StopIteration
            return result()

        return function

    def _one(self, data, in_loop=False):
        self.in_loop = in_loop
        if self._before is not None:
            self._before()
        self._strategy.run(self._step, args=(keras.tree.map_structure(without_optional, data),))

    def _loop_to_end(self, iterator, steps):
        """Runs at most `steps` steps of Keras' data, fewer at its end; returns how many."""

        def step(optional, done):
            self._one(optional.get_value())
            return done + 1, True

        def body(done, _):
            optional = iterator.get_next_as_optional()
            return tf.cond(optional.has_value(), lambda: step(optional, done), lambda: (done, False))

        start = tf.constant(0, tf.int64), tf.constant(True)
        return tf.while_loop(lambda done, more: more & (done < steps), body, start, parallel_iterations=1)[0]

    def _loop(self, iterator, steps):
        def body(done, waited):
            # Control dependencies keep both clock readings in program order. Without them, a single thread read the
            # second one only after the step, and 99% of the time counted as waiting.
            asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                data = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
                waited += tf.timestamp() - asked
            with tf.control_dependencies([waited]):
                self._one(data, in_loop=True)
            return done + 1, waited

        # Not autograph's loop over tf.range: it may trace its body twice, and tracing a step takes seconds.
        def more(done, _):
            return (done < steps) & ~self._stopped()

        start = tf.constant(0, tf.int64), tf.constant(0.0, tf.float64)
        return tf.while_loop(more, body, start, parallel_iterations=1)[1]


def without_optional(value: Any) -> Any:
    """The value; None for an absent part of Keras' data (no sample_weight), which is a tf.experimental.Optional."""
    return None if isinstance(value, tf.experimental.Optional) else value
