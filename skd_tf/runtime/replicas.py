"""The distribution strategy, and the one collective of a training step."""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from skd_tf.errors import input_error
from skd_tf.runtime import cluster, compat, console, devices

_XLA_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def make_strategy(
    strategy: str = "auto", *, virtual_devices: int = 0, batch_size: int | None = None
) -> tf.distribute.Strategy:
    """The strategy that `--strategy`, `--virtual_devices` and TF_CONFIG ask for.

    Virtual devices and a cluster must be set up before TensorFlow starts its devices.

    Args:
      strategy: as in `Config`.
      virtual_devices: logical devices to split the first GPU into, or the CPU if there is no GPU; 0 leaves it whole.
      batch_size: the global batch, checked against the number of replicas; None checks nothing.

    Raises:
      InputError: the devices have started with other settings, the replicas do not divide the batch, or TF_CONFIG is bad.
      WorkerLost: a worker of the cluster never came.
    """
    kind, me = device_kind(), cluster.member(strategy)
    if me or "KERASTUNER_TUNER_ID" in os.environ:
        _grow_memory()
    if me:
        gpus = len(tf.config.list_physical_devices("GPU"))
        _, count = devices.replicas(strategy, virtual_devices=virtual_devices, gpus=gpus, member=me)
        _require_divisible(batch_size, count)  # before any worker waits
        return cluster.join(me, announce=console.say_on_every_worker)
    if virtual_devices:
        _split_device(kind, virtual_devices)
    names = [device.name.replace("/device:", "") for device in tf.config.list_logical_devices(kind)]
    is_mirrored = strategy == "mirrored" or (strategy == "auto" and len(names) > 1)
    chosen = _mirrored(tuple(names)) if is_mirrored else tf.distribute.get_strategy()
    _require_divisible(batch_size, chosen.num_replicas_in_sync)
    return chosen


def _require_divisible(batch_size, count):
    if batch_size is not None:
        devices.per_replica_batch(batch_size, count)


@functools.cache
def _mirrored(names):
    """One strategy per set of devices: two would number their collectives alike, and TensorFlow would mix them up."""
    return tf.distribute.MirroredStrategy(list(names))


def set_determinism(setting: str) -> None:
    """Does what `--deterministic` asks for, for the whole process; call it before any operation runs.

    Args:
      setting: "true", or "auto" or "false", which change nothing.
    """
    if setting != "true":
        return
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    os.environ["TF_CUDNN_USE_AUTOTUNE"] = "0"
    flags = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([*flags, *(flag for flag in _XLA_FLAGS if flag not in flags)])


@contextlib.contextmanager
def without_tensor_float_32() -> Iterator[None]:
    """Inside, a GPU computes float32 products in float32, which it may otherwise round to 10 bits (TF32)."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def determinism() -> str:
    """Whether the same run gives the same numbers, in words, as this process is set up."""
    if compat.op_determinism():
        return "yes, with deterministic kernels, without TF32 and autotuning"
    if device_kind() == "CPU":
        return "yes, on this kind of CPU"
    return "no: a GPU's fastest kernels differ by rounding from run to run (--deterministic=true)"


def arithmetic(precision: str) -> str:
    """The kind of device and the dtype that a network computes in here, such as "GPU in tensorfloat32"."""
    kind = device_kind()
    rounds = kind == "GPU" and precision == "float32" and tf.config.experimental.tensor_float_32_execution_enabled()
    return f"{kind} in {'tensorfloat32' if rounds else precision}"


def device_kind() -> str:
    """ "GPU" if TensorFlow sees one, else "CPU"."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def prefetched(dataset: tf.data.Dataset, device: str | None = None) -> tf.data.Dataset:
    """The dataset, whose next batches are copied to a device while a step runs.

    Args:
      dataset: of batches.
      device: such as "/GPU:0"; None: the first GPU. Without one, the dataset is returned as it is.
    """
    if device is None and device_kind() == "CPU":
        return dataset
    return dataset.apply(tf.data.experimental.prefetch_to_device(device or "/GPU:0", buffer_size=2))


def this_replica() -> int:
    """The number of this replica among those of all workers, from 0. For replica context."""
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))


LARGE = 65_536  # elements: above, copying a tensor into a vector costs more than the operations that it saves


def pack(tensors: Iterable[Any], largest: int | None = None) -> list[tf.Tensor]:
    """All tensors in one vector per dtype, in their order; dtypes are in the order in which they first appear.

    Args:
      tensors: tensors or variables of static shapes.
      largest: tensors of more elements are not copied: each stays a vector of its own. None copies all.
    """
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    vectors = []
    for places in _groups(tensors, largest):
        flat = [tf.reshape(t, [-1]) if t.shape.rank != 1 else t for t in (tensors[place] for place in places)]
        vectors.append(flat[0] if len(flat) == 1 else tf.concat(flat, axis=0))
    return vectors


def unpack(vectors: Sequence[tf.Tensor], like: Sequence[Any], largest: int | None = None) -> list[tf.Tensor]:
    """The tensors that `pack` made the vectors of.

    Args:
      vectors: from `pack`.
      like: tensors or variables with the shapes and dtypes of those that were packed.
      largest: as for `pack`.
    """
    tensors: list[Any] = [None] * len(like)
    for vector, places in zip(vectors, _groups(like, largest), strict=True):
        shapes = [tf.TensorShape(like[place].shape) for place in places]
        parts = [vector] if len(places) == 1 else tf.split(vector, [shape.num_elements() for shape in shapes])
        for place, part, shape in zip(places, parts, shapes, strict=True):
            tensors[place] = part if shape.rank == 1 else tf.reshape(part, shape)
    return tensors


def _groups(tensors, largest):
    """The places of the tensors that share a vector, in the order of the vectors."""
    groups: dict[Any, list[int]] = {}  # a dict, not a set: same order on every worker
    for place, tensor in enumerate(tensors):
        alone = largest is not None and tf.TensorShape(tensor.shape).num_elements() > largest
        groups.setdefault((tf.as_dtype(tensor.dtype), place if alone else None), []).append(place)
    return list(groups.values())


def sum_over_replicas(tensors: Iterable[Any]) -> list[tf.Tensor]:
    """Sums each tensor over all replicas, with one collective per dtype. For replica context.

    Packing costs one copy; sixty small collectives cost sixty launches.

    Args:
      tensors: of static shapes.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return list(tensors)
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    return unpack([context.all_reduce(tf.distribute.ReduceOp.SUM, vector) for vector in pack(tensors)], tensors)


def unless_empty(image: tf.Tensor, sums: Sequence[Any], statistics: Sequence[Any], before: Sequence[Any]) -> list[Any]:
    """What a replica adds to the batch: `sums` and `statistics`, or zeros and `before` if it got no examples.

    Keras' fit() gives some replicas no examples when the last batch is smaller than their number.

    Args:
      image: `[examples, h, w, c]` of this replica.
      sums: tensors that are sums over the examples.
      statistics: tensors after the step, such as BatchNorm's moving statistics.
      before: the same tensors before the step.
    """
    if image.shape[0]:
        return [*sums, *statistics]
    has_examples = tf.shape(image)[0] > 0
    otherwise = [*map(tf.zeros_like, sums), *before]
    return [tf.where(has_examples, *pair) for pair in zip([*sums, *statistics], otherwise, strict=True)]


def _grow_memory():
    """Lets each GPU's memory grow with use: several processes may share it, and the first would take all of it."""
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # TensorFlow has already started its devices
            tf.config.experimental.set_memory_growth(gpu, True)


def _split_device(kind, count):
    device = tf.config.list_physical_devices(kind)[0]
    options = {"memory_limit": 1024} if kind == "GPU" else {}
    try:
        tf.config.set_logical_device_configuration(
            device, [tf.config.LogicalDeviceConfiguration(**options) for _ in range(count)]
        )
    except RuntimeError as error:
        started = len(tf.config.list_logical_devices(kind))
        if started != count:
            raise input_error(
                "TensorFlow has already started its devices",
                expected=f"{count} logical devices",
                received=f"virtual_devices={count} with {started} started",
                remedy="Set it before anything else uses TensorFlow",
            ) from error
