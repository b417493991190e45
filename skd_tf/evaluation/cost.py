"""What a model costs: operations, bytes, latency and throughput on this machine."""

import functools
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf.runtime import compat

LATENCY_BATCH = 1
THROUGHPUT_BATCH = 128
_WARM_UP_CALLS = 5
_CALLS = 10, 200  # at least, at most


def flops(model: Any, image_shape: tuple[int, ...]) -> int | None:
    """Floating point operations for one image: 2 for each multiply-add of convolutions and matrix products.

    Counted in the graph that TensorFlow runs. As in papers, work proportional to the number of activations (BatchNorm,
    biases, activation functions, pooling, softmax) is left out. Papers that count a multiply-add as 1 report half.

    Args:
      model: keras.Model or `skd_tf.models.loading.SavedModel`; images `[batch, h, w, c]` to logits.
      image_shape: (h, w, c).

    Returns:
      The number of operations; None if the graph does not show it, as with compiled functions inside a SavedModel, or loops.
    """
    graph = _graph_of(model, image_shape) if isinstance(model, keras.Model) else _inlined_graph_of(model, image_shape)
    if any(op.type in _UNKNOWN for op in graph.get_operations()):
        return None
    counted = [op for op in graph.get_operations() if op.type in _MULTIPLY_ADDS]
    known = all(tensor.shape.is_fully_defined() for op in counted for tensor in (*op.inputs, *op.outputs))
    return (2 * sum(_MULTIPLY_ADDS[op.type](op) for op in counted) or None) if known else None


def _graph_of(model, image_shape):
    """One flat graph, in which inner functions (Keras compiles grouped convolutions as one) leave their operations."""
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with compat.empty_graph("flops").as_default() as graph:
            model(tf.zeros([1, *image_shape]), training=False)
    finally:
        tf.config.run_functions_eagerly(eagerly)
    return graph


def _inlined_graph_of(model, image_shape):
    """The graph of a model that is not Keras', with its functions inlined."""
    forward = tf.function(functools.partial(model, training=False), autograph=False)
    return compat.inlined_graph(forward.get_concrete_function(tf.TensorSpec([1, *image_shape])))


def _convolution(op):
    *window, channels, _ = op.inputs[1].shape  # for a grouped convolution: channels of one group
    return _size(op.outputs[0]) * math.prod(window) * channels


def _transposed_convolution(op):
    *window, channels, _ = op.inputs[1].shape
    return _size(op.inputs[2]) * math.prod(window) * channels


def _depthwise(op):
    height, width = op.inputs[1].shape[:2]
    return _size(op.outputs[0]) * height * width


def _product(op):
    transposed = op.get_attr("transpose_a") if op.type == "MatMul" else op.get_attr("adj_x")
    return _size(op.outputs[0]) * op.inputs[0].shape[-2 if transposed else -1]


def _einsum(op):
    """The sizes of all indices, as each product of two tensors has a multiply-add for every combination of them."""
    operands, sizes = op.get_attr("equation").decode().partition("->")[0].split(","), {}
    for letters, tensor in zip(operands, op.inputs, strict=True):
        before, dots, after = letters.partition("...")
        missing = len(tensor.shape) - len(before) - len(after)
        # The axes of "..." end alike in all operands.
        names = [*before, *(f"...{place}" for place in range(missing, 0, -1) if dots), *after]
        sizes |= {name: max(size, sizes.get(name, 1)) for name, size in zip(names, tensor.shape, strict=True)}
    return math.prod(sizes.values()) if len(operands) > 1 else 0


def _size(tensor):
    return math.prod(tensor.shape)


_MULTIPLY_ADDS = {
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "Conv2DBackpropInput": _transposed_convolution,
    "Conv3DBackpropInputV2": _transposed_convolution,
    "Einsum": _einsum,
    "DepthwiseConv2dNative": _depthwise,
    "MatMul": _product,
    "BatchMatMul": _product,
    "BatchMatMulV2": _product,
}
# How often a loop runs and which branch is taken are not in the graph, and neither is what a function that could not be
# inlined computes.
_UNKNOWN = {"While", "StatelessWhile", "Enter", "PartitionedCall", "StatefulPartitionedCall"}
_UNKNOWN |= {"If", "StatelessIf", "Case", "StatelessCase", "Switch", "RefSwitch", "_SwitchN"}


def file_bytes(path: str | os.PathLike) -> int:
    """The size of a file, or of all files in a folder together, in bytes."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def timing(model: Callable, images: Any, *, seconds: float = 1.0) -> dict[str, dict[str, Any]]:
    """Latency and throughput on this machine: medians and quartiles, without warm-up.

    Args:
      model: images to logits.
      images: uint8 `[n, h, w, c]`; use real ones.
      seconds: time to spend on each of the two, without warm-up.

    Returns:
      {"latency_ms", "images_per_second"}, each {"median", "quartiles": [low, high], "batch", "calls"}.
    """
    forward = tf.function(functools.partial(model, training=False), autograph=False)
    latency, throughput = (
        _call_seconds(forward, images, batch, seconds) for batch in (LATENCY_BATCH, THROUGHPUT_BATCH)
    )
    return {
        "latency_ms": _spread(1e3 * latency, LATENCY_BATCH),
        "images_per_second": _spread(THROUGHPUT_BATCH / throughput, THROUGHPUT_BATCH),
    }


def latency(model: Callable, images: Any, *, seconds: float = 0.3) -> dict[str, Any]:
    """The "latency_ms" of `timing` alone."""
    forward = tf.function(functools.partial(model, training=False), autograph=False)
    return _spread(1e3 * _call_seconds(forward, images, LATENCY_BATCH, seconds), LATENCY_BATCH)


def _call_seconds(forward, images, batch, seconds):
    """The seconds of each call, from images in memory to logits in memory."""
    batch = tf.constant(images[np.arange(batch) % len(images)])
    for _ in range(_WARM_UP_CALLS):
        forward(batch).numpy()
    taken, end = [], time.perf_counter() + seconds
    while len(taken) < _CALLS[0] or (time.perf_counter() < end and len(taken) < _CALLS[1]):
        start = time.perf_counter()
        forward(batch).numpy()
        taken.append(time.perf_counter() - start)
    return np.array(taken)


def _spread(values, batch):
    low, median, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return {"median": median, "quartiles": [low, high], "batch": batch, "calls": len(values)}
