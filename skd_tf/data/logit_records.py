"""One image's teacher logits as bytes of a fixed length: all of them, or the largest with the mean and norm of all."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

_LOW_SHARE = 0.125  # of the classes that a top-k record leaves out; tools/benchmarks/top_logits.py compares shares
_NO_OVERFLOW = 2**15  # up to this number of classes, a product of two of their numbers fits int32


@dataclasses.dataclass(frozen=True)
class LogitRecord:
    """The layout of a record.

    A record of all logits holds them in `dtype`. A top-k record holds the `top` largest logits in `dtype`, their
    classes as uint16 (uint32 from 65,537 classes on), and mean and Euclidean norm of all logits as float32.

    Attributes:
      classes: number of logits of an image.
      dtype: of the logits, "float16" or "float32".
      top: how many of the largest logits are kept; 0 keeps all.
    """

    classes: int
    dtype: str
    top: int = 0

    @functools.cached_property
    def layout(self) -> np.dtype:
        """The record as a numpy dtype."""
        if not self.top:
            return np.dtype([("logits", self.dtype, (self.classes,))])
        class_dtype = np.uint16 if self.classes <= 2**16 else np.uint32
        fields = [
            ("moments", np.float32, (2,)),
            ("logits", self.dtype, (self.top,)),
            ("classes", class_dtype, (self.top,)),
        ]
        return np.dtype(fields)

    @property
    def bytes(self) -> int:
        """Length of a record."""
        return self.layout.itemsize

    def encode(self, logits: np.ndarray) -> np.ndarray:
        """float `[n, classes]` -> uint8 `[n, bytes]`. Values that do not fit the dtype become infinite."""
        records = np.zeros(len(logits), self.layout)
        with np.errstate(over="ignore"):
            if self.top:
                classes = np.argpartition(logits, -self.top, axis=1)[:, -self.top :]
                classes.sort(axis=1)
                exact = logits.astype(np.float64)
                records["classes"] = classes
                records["logits"] = np.take_along_axis(logits, classes, axis=1)
                records["moments"] = np.stack([exact.mean(axis=1), np.linalg.norm(exact, axis=1)], axis=1)
            else:
                records["logits"] = logits
        return records.view(np.uint8).reshape(len(logits), self.bytes)

    def fits(self, records: np.ndarray) -> bool:
        """Whether all numbers in encoded records are finite."""
        fields = records.view(self.layout)
        return all(np.isfinite(fields[name]).all() for name in self.layout.names if name != "classes")

    def decode(self, records: tf.Tensor) -> tf.Tensor:
        """uint8 `[n, bytes]` -> logits `[n, classes]`: in the record's dtype, float32 from a top-k record."""
        if not self.top:
            return tf.ensure_shape(self._field(records, "logits"), [None, self.classes])
        logits, classes, moments = (self._field(records, name) for name in ("logits", "classes", "moments"))
        return rebuild(tf.cast(logits, tf.float32), tf.cast(classes, tf.int32), moments, self.classes)

    def _field(self, records, name):
        dtype, offset = self.layout.fields[name]
        base, (count,) = dtype.subdtype
        parts = tf.reshape(records[:, offset : offset + dtype.itemsize], [-1, count, base.itemsize])
        return tf.bitcast(parts, tf.as_dtype(base))


def rebuild(
    logits: tf.Tensor, classes: tf.Tensor, moments: tf.Tensor, count: int, low_share: float = _LOW_SHARE
) -> tf.Tensor:
    """Logits of all classes, given the k largest and the mean and norm of all.

    The kept logits are exact. The other R = count - k share what is left of mean and norm: their mean is
    mu = (count mean - sum(kept)) / R, their variance s^2 = (norm^2 - sum(kept^2)) / R - mu^2. They take two values,
    mu - s sqrt((R - m) / m) for m classes and mu + s sqrt(m / (R - m)) for the others, which has this mean and variance
    for every m. m is `low_share` R, or fewer, so that none is above the smallest kept logit; m = 1 always satisfies
    that, by Samuelson's inequality. Which classes are low depends on the record alone, and differs from one to the next.

    Args:
      logits: float32 `[n, k]`.
      classes: int32 `[n, k]`, of the logits.
      moments: float32 `[n, 2]`, mean and Euclidean norm of all logits.
      count: number of classes.
      low_share: of the R classes, at most this share is low.

    Returns:
      float32 `[n, count]`; mean and norm equal `moments` to rounding.
    """
    n, kept = tf.shape(logits)[0], logits.shape[1]
    rest = count - kept
    places = tf.stack([tf.repeat(tf.range(n), kept), tf.reshape(classes, [-1])], axis=1)
    values = tf.scatter_nd(places, tf.reshape(logits, [-1]), [n, count])
    if not rest:
        return values
    exact, (mean, norm) = tf.cast(logits, tf.float64), tf.unstack(tf.cast(moments, tf.float64), axis=1)
    mu = (count * mean - tf.reduce_sum(exact, 1)) / rest
    spread = tf.sqrt(tf.maximum((norm**2 - tf.reduce_sum(exact**2, 1)) / rest - mu**2, 0.0))
    room = tf.maximum(tf.reduce_min(exact, 1) - mu, 0.0) / tf.maximum(spread, 1e-30)
    fewest = tf.minimum(rest * room**2 / (1.0 + room**2), low_share * rest)
    low = tf.clip_by_value(tf.floor(fewest), 1.0, max(rest - 1, 1))
    high_value = mu + spread * tf.sqrt(low / tf.maximum(rest - low, 1.0))
    low_value = mu - spread * tf.sqrt((rest - low) / low) if rest > 1 else mu
    # Class number i of the rest is low if (i + shift) low mod R < low: exactly `low` of them, evenly spaced.
    is_rest = 1 - tf.scatter_nd(places, tf.ones([n * kept], tf.int32), [n, count])
    shift = tf.bitcast(moments[:, 0], tf.int32) & 0xFFFF
    number, low = tf.cumsum(is_rest, axis=1) + (shift % rest)[:, None], tf.cast(low, tf.int32)[:, None]
    filled = tf.where(
        (number * low) % rest < low, tf.cast(low_value, tf.float32)[:, None], tf.cast(high_value, tf.float32)[:, None]
    )
    return tf.ensure_shape(tf.where(is_rest == 1, filled, values), [None, count])
