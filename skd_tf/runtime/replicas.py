"""The distribution strategy, and the one collective of a training step."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from skd_tf.errors import input_error
from skd_tf.runtime import cluster, compat, console, devices


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
    if me:
        gpus = len(tf.config.list_physical_devices("GPU"))
        _, count = devices.replicas(strategy, virtual_devices=virtual_devices, gpus=gpus, member=me)
        _require_divisible(batch_size, count)  # before any worker waits
        return cluster.join(me, announce=console.say)
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


def device_kind() -> str:
    """ "GPU" if TensorFlow sees one, else "CPU"."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def sum_over_replicas(tensors: Iterable[Any]) -> list[tf.Tensor]:
    """Sums each tensor over all replicas, with one collective per dtype. For replica context.

    Packing costs one copy; sixty small collectives cost sixty launches.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return list(tensors)
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    summed: list[Any] = [None] * len(tensors)
    for dtype in {tensor.dtype: None for tensor in tensors}:  # a dict, not a set: same order on every worker
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        packed = tf.concat([tf.reshape(tensors[i], [-1]) for i in places], axis=0)
        packed = context.all_reduce(tf.distribute.ReduceOp.SUM, packed)
        parts = tf.split(packed, [tf.size(tensors[i]) for i in places], num=len(places))
        for i, part in zip(places, parts, strict=True):
            summed[i] = tf.reshape(part, tf.shape(tensors[i]))
            summed[i].set_shape(tensors[i].shape)
    return summed


def call_if(
    condition: Any, function: Callable[[Any, Any], Any], gradients: Sequence[tf.Tensor], variables: Sequence[Any]
) -> None:
    """Calls `function(gradients, variables)` in replica context if `condition` is true.

    An optimizer may leave the replica context to update variables. It cannot do so inside a branch, so the branch is then
    built outside of the replica context.

    Args:
      condition: True, or bool `[]`; the same on all replicas.
      function: takes this replica's tensors and the variables; returns nothing.
      gradients: tensors of this replica.
      variables: keras.Variable each.
    """

    def across(strategy, condition, gradients):
        def update():
            strategy.extended.call_for_each_replica(function, args=(gradients, variables))

        _cond(strategy.experimental_local_results(condition)[0], update)

    if condition is True:
        function(gradients, variables)
    elif compat.may_update_in_branch():
        _cond(condition, lambda: function(gradients, variables))
    else:
        tf.distribute.get_replica_context().merge_call(across, args=(condition, gradients))


def _cond(condition, function):
    def true():
        function()
        return True

    tf.cond(condition, true, lambda: False)


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
