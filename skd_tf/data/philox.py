"""Random numbers by position: those that `tf.random.stateless_uniform` would put there, without its whole table."""

from collections.abc import Sequence

import tensorflow as tf

_MULTIPLIERS, _INCREMENTS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORDS = 4  # that one counter gives


def rows(tables: Sequence[tuple[tf.Tensor, int]], places: tf.Tensor) -> tf.Tensor:
    """Rows of tables of random numbers, side by side; only these rows are computed.

    A table is what `tf.random.stateless_uniform([n, columns], seed, None, None, tf.int32, "philox")` gives for any n,
    without the sign bit.

    Args:
      tables: (seed int64 `[2]`, number of columns) of each.
      places: int `[n]`, numbers of the rows.

    Returns:
      int32 `[n, sum of the columns]`, >= 0.

    Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox4x32-10).
    """
    keys, counters, positions = [], [], []
    with tf.device("CPU"):
        for seed, columns in tables:
            key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
            keys.append(tf.repeat(key, columns))
            counters.append(tf.repeat(counter[None], columns, axis=0))
            positions.append(tf.cast(places, tf.int64)[:, None] * columns + tf.range(columns, dtype=tf.int64))
        return _numbers(tf.concat(keys, 0), tf.concat(counters, 0), tf.concat(positions, 1))


@tf.function(
    input_signature=[
        tf.TensorSpec([None], tf.uint64),
        tf.TensorSpec([None, 2], tf.uint64),
        tf.TensorSpec([None, None], tf.int64),
    ],
    autograph=False,
)
def _numbers(keys, counters, positions):
    """The numbers at positions `[n, columns]`; each column has a key and a first counter of 128 bits."""
    xor = tf.bitwise.bitwise_xor
    blocks = tf.cast(positions // _WORDS, tf.uint64)
    low = counters[:, 0] + blocks
    high = counters[:, 1] + tf.cast(low < blocks, tf.uint64)  # the carry
    (key0, key1), (a, b), (c, d) = _halves(keys), _halves(low), _halves(high)
    for _ in range(_ROUNDS):
        (low0, high0), (low1, high1) = _halves(a * _uint64(_MULTIPLIERS[0])), _halves(c * _uint64(_MULTIPLIERS[1]))
        a, b, c, d = xor(xor(high1, b), key0), low1, xor(xor(high0, d), key1), low0
        key0, key1 = (_halves(key + _uint64(more))[0] for key, more in zip((key0, key1), _INCREMENTS, strict=True))
    words = tf.gather(tf.stack([a, b, c, d], axis=-1), positions % _WORDS, batch_dims=2)
    return tf.cast(tf.bitwise.bitwise_and(words, _uint64(0x7FFFFFFF)), tf.int32)


def _halves(numbers):
    """(low, high) 32 bits of 64, each as uint64."""
    return tf.bitwise.bitwise_and(numbers, _uint64(0xFFFFFFFF)), tf.bitwise.right_shift(numbers, _uint64(32))


def _uint64(number):
    return tf.constant(number, tf.uint64)
