"""What a Distiller takes as x: images, or {"image": ..., "teacher_logits": ...}."""

import numpy as np
import tensorflow as tf

from skd_tf import replicas


def image_of(x):
    return x["image"] if isinstance(x, dict) else x


def given_logits(x):
    return as_logits(x["teacher_logits"]) if isinstance(x, dict) and "teacher_logits" in x else None


def as_logits(output):
    """Half precision ends here: loss, softmax, norms and measurements are float32 (float64 stays)."""
    return output if output.dtype == tf.float64 else tf.cast(output, tf.float32)


def global_batch(image, replica_count):
    """Examples in the global batch. A static shape is the same on every replica; a ragged one has to be asked for."""
    if image.shape[0] is not None:
        return image.shape[0] * replica_count
    return replicas.sum_over_replicas([tf.shape(image)[0]])[0]


def batches_of_x(data):
    if isinstance(data, (np.ndarray, tf.Tensor)):
        return (data[i : i + 256] for i in range(0, len(data), 256))
    if isinstance(data, dict):
        count = len(data["image"])
        return ({k: v[i : i + 256] for k, v in data.items()} for i in range(0, count, 256))
    return (batch[0] if isinstance(batch, (tuple, list)) else batch for batch in data)
