"""MultiStepFunction: any number of training or test steps over all replicas in one call from Python."""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from skd_tf.runtime import compat


class MultiStepFunction:
    """Takes global batches from an iterator and runs one step in replica context for each.

    The number of steps is a tensor, so every number uses the same graph. k calls of one step give the same result as
    one call of k steps, bit for bit.

    Args:
      strategy: tf.distribute.Strategy.
      step: called in replica context with one replica's part of a batch.
      first: called with a function that runs the first step, which it may call again; None calls it once. Data that
        this step takes from an iterator passes through Python.
      eager: whether to run without a graph.
      returns: whether what the step returns, a dict of tensors, is kept in `outputs`. Each step then starts from Python.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        step: Callable[[Any], Any],
        *,
        first: Callable[[Callable[[], Any]], None] | None = None,
        eager: bool = False,
        returns: bool = False,
    ):
        self._strategy, self._step, self._first, self._eager = strategy, step, first, eager
        self._returns = returns
        self.outputs: dict[str, Any] = {}  # what the last step returned on the first replica
        self._begun = first is None  # whether the first step is done
        # Whether the step being traced is part of our own loop, where all replicas have equally many examples.
        self.in_loop = False
        self.forget_traces()

    def forget_traces(self) -> None:
        """Has the step traced again when it is next called."""
        # TensorFlow warns of retracing by code object; a partial has none, so several models do not add up.
        self._many = tf.function(functools.partial(self._loop), autograph=False)
        self._to_end = tf.function(functools.partial(self._loop_to_end), autograph=False)
        self._single = self._one if self._eager else tf.function(functools.partial(self._one), autograph=False)

    def __call__(self, iterator: Iterator, steps: int) -> tf.Tensor | float:
        """Runs at most `steps` steps in one call; all batches have one static shape.

        Returns:
          Seconds spent waiting for data: a float64 tensor `[]`, or a float if eager.
        """
        waited = 0.0
        for done in range(steps):
            if self._begun and not self._eager:
                # A tensor: reading it would wait for the device.
                return waited + self._many(iterator, tf.constant(steps - done, tf.int64))
            asked = time.perf_counter()
            data = next(iterator)
            waited += time.perf_counter() - asked
            self._run_single(data, in_loop=True)
        return waited if self._eager else tf.constant(waited, tf.float64)

    def _run_single(self, data, in_loop=False):
        def run():
            outputs = self._single(data, in_loop)
            if self._returns:
                local = self._strategy.experimental_local_results
                self.outputs = {name: local(value)[0] for name, value in (outputs or {}).items()}

        if self._begun:
            run()
        else:
            self._first(run)
            self._begun = True

    def keras_function(
        self, steps: int, result: Callable[[], Any], *, inspect: Callable[[Any], None], is_inspected: Callable[[], bool]
    ) -> Callable[[Iterator], Any]:
        """The train or test function that Keras' fit() and evaluate() call.

        A call takes `steps` batches in one graph, except for batches that must pass through Python: the first one of
        each fit() or evaluate(), which is inspected, and the very first one.

        Args:
          steps: `steps_per_execution`, the number of batches per call.
          result: gives the function's result after the last of them.
          inspect: called with each batch that passes through Python; raises an error if it cannot be used.
          is_inspected: whether no further batch has to be inspected.

        Returns:
          A function of an iterator. It raises StopIteration if there is no batch left.
        """
        iterators = (tf.data.Iterator, tf.distribute.DistributedIterator)

        def function(iterator):
            done = 0
            while done < steps:
                in_graph = steps > 1 and not self._eager and not self._returns and isinstance(iterator, iterators)
                if in_graph and self._begun and is_inspected():
                    done += int(self._to_end(iterator, tf.constant(steps - done, tf.int64)))
                    break
                try:
                    data = next(iterator)
                except (tf.errors.OutOfRangeError, StopIteration):
                    break
                inspect(data)
                self._run_single(data)
                done += 1
            if not done:
                raise StopIteration
            return result()

        return function

    def _one(self, data, in_loop=False):
        self.in_loop = in_loop
        outputs = self._strategy.run(self._step, args=(keras.tree.map_structure(without_optional, data),))
        return outputs if self._returns else None

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
        # TensorFlow has no clock where only deterministic operations may run. Waiting then counts as 0.
        clock = (lambda: tf.constant(0.0, tf.float64)) if compat.op_determinism() else tf.timestamp

        def body(done, waited):
            # Control dependencies keep both clock readings in program order. Without them, a single thread read the
            # second one only after the step, and 99% of the time counted as waiting.
            asked = clock()
            with tf.control_dependencies([asked]):
                data = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
                waited += clock() - asked
            with tf.control_dependencies([waited]):
                self._one(data, in_loop=True)
            return done + 1, waited

        # Not autograph's loop over tf.range: it may trace its body twice, and tracing a step takes seconds.
        # Its condition is a number of the host: asking the device before each step would wait for the step before.
        start = tf.constant(0, tf.int64), tf.constant(0.0, tf.float64)
        return tf.while_loop(lambda done, _: done < steps, body, start, parallel_iterations=1)[1]


def without_optional(value: Any) -> Any:
    """The value; None for an absent part of Keras' data (no sample_weight), which is a tf.experimental.Optional."""
    return None if isinstance(value, tf.experimental.Optional) else value
