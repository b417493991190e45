"""tf.data pipelines without TensorFlow's autotuner."""

import tensorflow as tf


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without TensorFlow's autotuner, whose parallelism stays where it starts: at the cores, at most 16.

    An iterator that ends waits for the autotuner's thread. That thread can miss the signal to stop and sleep on, for up
    to a minute: 16 and 22 seconds were seen after a run of a minute (tensorflow 2.21.0).
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
