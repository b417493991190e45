"""What a model costs: operations, bytes, and time on this machine."""

import functools
import math
import pathlib
import time

import keras
import numpy as np
import tensorflow as tf

LATENCY_BATCH = 1
THROUGHPUT_BATCH = 128
_WARM_UP_CALLS = 5
_CALLS = 10, 200  # at least, at most


def flops(model, image_shape):
    """Floating point operations for one image: 2 for each multiply-add of convolutions and matrix products.

    Counted in the graph that TensorFlow runs. What is linear in the pixels (BatchNorm, biases, activations, pooling, the
    softmax) is left out, as papers do; those that give "FLOPs" or "MACs" without the 2 mean half.

    Args:
      model: images `[batch, h, w, c]` to logits.
      image_shape: (h, w, c).

    Returns:
      int; None where the graph does not tell, as with compiled functions inside a SavedModel.
    """
    graph = _graph_of(model, image_shape) if isinstance(model, keras.Model) else _inlined_graph_of(model, image_shape)
    counted = [op for op in graph.get_operations() if op.type in _MULTIPLY_ADDS]
    known = all(op.outputs[0].shape.is_fully_defined() for op in counted)
    return (2 * sum(_MULTIPLY_ADDS[op.type](op) for op in counted) or None) if known else None


def _graph_of(model, image_shape):
    """One flat graph: functions inside, as the compiled one of Keras' grouped convolution, leave their operations in it."""
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        with tf.__internal__.FuncGraph("flops").as_default() as graph:
            model(tf.zeros([1, *image_shape]), training=False)
    finally:
        tf.config.run_functions_eagerly(eagerly)
    return graph


def _inlined_graph_of(model, image_shape):
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    forward = tf.function(functools.partial(model, training=False), autograph=False)
    return convert_variables_to_constants_v2(forward.get_concrete_function(tf.TensorSpec([1, *image_shape]))).graph


def _convolution(op):
    height, width, channels, _ = op.inputs[1].shape  # of a grouped one: the channels of one group
    return _size(op.outputs[0]) * height * width * channels


def _depthwise(op):
    height, width = op.inputs[1].shape[:2]
    return _size(op.outputs[0]) * height * width


def _product(op):
    transposed = op.get_attr("transpose_a") if op.type == "MatMul" else op.get_attr("adj_x")
    return _size(op.outputs[0]) * op.inputs[0].shape[-2 if transposed else -1]


def _size(tensor):
    return math.prod(tensor.shape)


_MULTIPLY_ADDS = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "MatMul": _product,
    "BatchMatMul": _product,
    "BatchMatMulV2": _product,
}


def file_bytes(path):
    """Bytes of a file, or of all files in a folder."""
    path = pathlib.Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def timing(model, images, *, seconds=1.0):
    """Latency and throughput on this machine: medians with quartiles, warm-up excluded.

    Args:
      model: images to logits.
      images: uint8 `[n, h, w, c]`, real ones.
      seconds: for each of the two, once warm.

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


def _call_seconds(forward, images, batch, seconds):
    """Seconds of each call, from the images in memory to the logits in memory."""
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
