"""One image's teacher logits as bytes of a fixed length: all of them, or the largest with the mean and norm of all."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

# Of top-k records; part of the cache's key. Format 1 took mean and norm before the logits were rounded to the dtype.
TOP_FORMAT = 2


@dataclasses.dataclass(frozen=True)
class LogitRecord:
    """The layout of a record.

    A record of all logits holds them in `dtype`. A top-k record holds the `top` largest logits in `dtype`, their
    classes as uint16 (uint32 from 65,537 classes on), and mean and Euclidean norm of all logits as float32. All of it is
    computed from the logits in `dtype`, so a record of all logits and the network itself give the same top-k record.

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
            logits = logits.astype(self.dtype)
            if self.top:
                in_float32 = logits.astype(np.float32)  # partitions twice as fast as float16
                classes = np.argpartition(in_float32, -self.top, axis=1)[:, -self.top :]
                classes.sort(axis=1)
                exact = logits.astype(np.float64)
                records["classes"] = classes
                records["logits"] = np.take_along_axis(logits, classes, axis=1)
                records["moments"] = np.stack([exact.mean(axis=1), np.linalg.norm(exact, axis=1)], axis=1)
            else:
                records["logits"] = logits
        return records.view(np.uint8).reshape(len(logits), self.bytes)

    def all_logits(self, records: np.ndarray) -> np.ndarray:
        """Encoded records of all logits -> `[n, classes]` in their dtype."""
        return records.view(self.layout)["logits"].reshape(len(records), self.classes)

    def fits(self, records: np.ndarray) -> bool:
        """Whether all numbers in encoded records are finite."""
        fields = records.view(self.layout)
        return all(np.isfinite(fields[name]).all() for name in self.layout.names or () if name != "classes")

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


def rebuild(logits: tf.Tensor, classes: tf.Tensor, moments: tf.Tensor, count: int) -> tf.Tensor:
    """Logits of all classes, given the k largest and the mean and norm of all.

    The kept logits are exact. The other R = count - k have the mean mu = (count mean - sum(kept)) / R and the variance
    s^2 = (norm^2 - sum(kept^2)) / R - mu^2. One of them becomes mu - s sqrt(R - 1), the others mu + s / sqrt(R - 1), which
    has this mean and variance; by Samuelson's inequality none is above the smallest kept logit. Which class is the low one
    depends on the record alone and differs from one to the next. Spreading the variance over more classes gives targets that
    are further from the full ones.

    Args:
      logits: float32 `[n, k]`.
      classes: int32 `[n, k]`, of the logits.
      moments: float32 `[n, 2]`, mean and Euclidean norm of all logits.
      count: number of classes, at least k + 2.

    Returns:
      float32 `[n, count]`; mean and norm equal `moments` to rounding.
    """
    n, kept = tf.shape(logits)[0], logits.shape[1]
    rest = count - kept
    places = tf.stack([tf.repeat(tf.range(n), kept), tf.reshape(classes, [-1])], axis=1)
    values = tf.scatter_nd(places, tf.reshape(logits, [-1]), [n, count])
    is_rest = 1 - tf.scatter_nd(places, tf.ones([n * kept], tf.int32), [n, count])
    exact, (mean, norm) = tf.cast(logits, tf.float64), tf.unstack(tf.cast(moments, tf.float64), axis=1)
    mu = (count * mean - tf.reduce_sum(exact, 1)) / rest
    spread = tf.sqrt(tf.maximum((norm**2 - tf.reduce_sum(exact**2, 1)) / rest - mu**2, 0.0))
    low, others = mu - spread * (rest - 1) ** 0.5, mu + spread / (rest - 1) ** 0.5
    low, others = (tf.cast(value, tf.float32)[:, None] for value in (low, others))
    which = (tf.bitcast(moments[:, 0], tf.int32) & 0xFFFFFF) % rest  # the last bits of the mean are as good as random
    is_low = tf.equal(tf.cumsum(is_rest, axis=1) - 1, which[:, None])
    filled = tf.where(is_low, low, others)
    return tf.ensure_shape(tf.where(is_rest == 1, filled, values), [None, count])
