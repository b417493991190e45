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

    def keras_function(self, steps: int, result: Callable[[], Any]) -> Callable[[Iterator], Any]:
        """The train or test function that Keras' fit() and evaluate() call.

        It takes batches one at a time: with several replicas, a loop inside a graph cannot take a short last batch.

        Args:
          steps: `steps_per_execution`, the number of batches per call.
          result: gives the function's result after the last of them.

        Returns:
          A function of an iterator. It raises StopIteration if there is no batch left.
        """

        def function(iterator):
            for done in range(steps):
                try:
                    data = next(iterator)
                except (tf.errors.OutOfRangeError, StopIteration):
                    if not done:
                        raise StopIteration from None
                    break
                self._single(data)
            return result()

        return function

    def _one(self, data, in_loop=False):
        self.in_loop = in_loop
        if self._before is not None:
            self._before()
        self._strategy.run(self._step, args=(keras.tree.map_structure(_without_optional, data),))

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


def _without_optional(value):
    """Keras wraps absent parts of its data (a missing sample_weight) in tf.experimental.Optional."""
    return None if isinstance(value, tf.experimental.Optional) else value
