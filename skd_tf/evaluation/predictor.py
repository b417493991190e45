"""Predictor: the logits of a whole split, each example once, on all devices of this process, or of all workers."""

import collections
import functools
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf.runtime import cluster
from skd_tf.runtime.console import Progress

BATCH_SIZE = 256


def predictor_of(model: Any) -> "Predictor":
    """The `Predictor` of a model, created and traced once per model."""
    return vars(model).setdefault("_predictor", Predictor(model))  # past Keras' setattr, which would track it


def local_devices(strategy: tf.distribute.Strategy | None) -> tuple[str, ...]:
    """Names of this process's devices in a strategy; none if it has one replica."""
    if strategy is None or strategy.num_replicas_in_sync == 1:
        return ()
    return tuple(strategy.extended.worker_devices)


def accelerators() -> tuple[str, ...]:
    """Names of the GPUs that this process sees; none if there is at most one."""
    names = tuple(device.name for device in tf.config.list_logical_devices("GPU"))
    return names if len(names) > 1 else ()


class Predictor:
    """images uint8 `[n, h, w, c]` -> float32 logits `[n, classes]`; every batch has one size, the last one is padded.

    Each device computes whole batches, so the logits do not depend on the number of devices. While the devices compute,
    the next batches are read.

    Args:
      model: called as `model(images, training=False)`; returns logits.
      batch_size: images in a batch.
      devices: names of the devices that compute, for a Keras model. Those of the strategy that it was built for if None.
    """

    def __init__(self, model: Callable, batch_size: int = BATCH_SIZE, devices: Sequence[str] | None = None) -> None:
        self.batch_size, self._model = batch_size, model
        if devices is None:
            devices = local_devices(getattr(model, "distribute_strategy", None))
        if len(devices) > 1 and hasattr(model, "stateless_call"):
            self._places = [_Place(model, device) for device in devices]
        else:
            self._places = [tf.function(functools.partial(model, training=False), autograph=False)]

    def __call__(
        self, images: Any, *, what: str = "predicting", on_progress: Callable[[int], Any] | None = None
    ) -> np.ndarray:
        """The logits, in the order of `images`.

        Args:
          images: uint8 `[n, h, w, c]`, an array or `DiskImages`.
          what: names the work in the progress line.
          on_progress: called with the number of images done, in place of the progress line.
        """
        done, logits = 0, []
        with Progress(what, len(images), "images") as progress:
            for part in self.stream((images, rows) for rows in self.batches(range(len(images)))):
                done += len(part)
                logits.append(part)
                (on_progress or progress.update)(done)
        return np.concatenate(logits)

    def shared(self, images: Any, *, what: str = "predicting") -> np.ndarray:
        """As calling it, but the workers of a cluster divide the batches. Every worker must call it, and gets all logits.

        A batch is computed whole by one worker, so the logits are those of one worker, bit for bit.
        """
        if cluster.workers() == 1:
            return self(images, what=what)
        parts, done = [], 0
        mine = cluster.share([*self.batches(range(len(images)))])
        with Progress(what, sum(map(len, mine)), "images") as progress:
            for rows, part in zip(mine, self.stream((images, rows) for rows in mine), strict=True):
                parts.append((rows, part))
                done += len(part)
                progress.update(done)
        classes = cluster.max_over_workers(max((part.shape[1] for _, part in parts), default=0))
        logits = np.zeros([len(images), classes], np.float32)
        for rows, part in parts:
            logits[rows.start : rows.stop] = part
        return cluster.sum_over_workers(logits)

    def batches(self, rows: range) -> Iterator[range]:
        """Ranges of at most `batch_size` rows."""
        return (rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size))

    def stream(self, batches: Iterable[tuple[Any, range]]) -> Iterator[np.ndarray]:
        """The logits of each (images, rows of them) in order, float32. A few batches more than devices are in work."""
        free: queue.SimpleQueue = queue.SimpleQueue()
        for place in self._places:
            free.put(place.refreshed() if isinstance(place, _Place) else place)

        def compute(images, rows):
            padded = np.resize(rows, self.batch_size)  # repeats rows: one shape, one graph
            pixels = tf.constant(images[padded])
            forward = free.get()
            try:
                return forward(pixels).numpy()[: len(rows)].astype(np.float32)
            finally:
                free.put(forward)

        working: collections.deque[futures.Future] = collections.deque()
        pool = futures.ThreadPoolExecutor(len(self._places) + 1, thread_name_prefix="predictor")
        try:
            for images, rows in batches:
                working.append(pool.submit(compute, images, rows))
                if len(working) > len(self._places) + 1:
                    yield working.popleft().result()
            while working:
                yield working.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Place:
    """A copy of a Keras model's weights on one device, and the forward pass there."""

    def __init__(self, model, device):
        self._model, self._device = model, device
        self._weights = None
        # TensorFlow warns of retracing by code object; a partial has none, so several models do not add up.
        self._forward = tf.function(functools.partial(self._compute), autograph=False)

    def refreshed(self):
        """Itself, with the weights that the model has at present."""
        with tf.device(self._device):
            trainable, others = self._model.trainable_variables, self._model.non_trainable_variables
            self._weights = tuple([tf.identity(variable.value) for variable in part] for part in (trainable, others))
        return self

    def __call__(self, images):
        with tf.device(self._device):
            return self._forward(*self._weights, tf.identity(images))

    def _compute(self, trainable, others, images):
        with tf.device(self._device):
            return self._model.stateless_call(trainable, others, images, training=False)[0]
