"""Steps: any number of steps of a model over all replicas in one host call."""

import functools
import time

import keras
import tensorflow as tf


class MultiStepFunction:
    """Takes global batches from an iterator and runs a replica-context step with each.

    The number of steps is a tensor: any number is the same graph, and k calls of one step equal one call of k bit for bit.

    Args:
      strategy: tf.distribute.Strategy.
      step: called in replica context with one replica's data.
      before: called in cross-replica context before each step, or None.
      stopped: says in cross-replica context, bool `[]`, that no further step is to be made, or None.
      eager: whether to run without a graph.
    """

    def __init__(self, strategy, step, *, before=None, stopped=None, eager=False):
        self._strategy, self._step, self._before, self._eager = strategy, step, before, eager
        self._stopped = stopped or (lambda: tf.constant(False))
        # Whether the step that is being traced stands in our own loop: with as many examples on every replica, and
        # `stopped` asked before each.
        self.in_loop = False
        # A partial has no code object for TensorFlow to count traces of different models by.
        self._many = tf.function(functools.partial(self._loop), autograph=False)
        self._single = self._one if eager else tf.function(functools.partial(self._one), autograph=False)

    def __call__(self, iterator, steps):
        """Makes at most `steps` steps, batches of one static shape, in one host call; returns seconds waited for data."""
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

    def keras_function(self, steps, result):
        """The function of an iterator that Keras' fit() and evaluate() call; returns `result()`.

        Batches are taken one by one: a ragged one cannot be taken inside a graph's loop on several replicas.
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
            # Both times in the program's order: one thread alone read the second after the step, and 99% was waiting.
            asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                data = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(data, expand_composites=True)):
                waited += tf.timestamp() - asked
            with tf.control_dependencies([waited]):
                self._one(data, in_loop=True)
            return done + 1, waited

        # Not autograph's loop over tf.range: it may trace its body twice, and a step takes seconds to trace.
        def more(done, _):
            return (done < steps) & ~self._stopped()

        start = tf.constant(0, tf.int64), tf.constant(0.0, tf.float64)
        return tf.while_loop(more, body, start, parallel_iterations=1)[1]


def _without_optional(value):
    """Keras wraps absent parts of its data (a missing sample_weight) in tf.experimental.Optional."""
    return None if isinstance(value, tf.experimental.Optional) else value
