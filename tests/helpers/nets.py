"""Small networks, data and Distillers that several tests share."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.models.sync_batch_norm import synchronized

CLASSES = 5


def conv_net(seed=0, *, batch_norm=False, dtype="float32", name=None):
    """Two convolutions and a linear layer; BatchNorm is optional."""
    init = [keras.initializers.HeNormal(seed=1000 * seed + i) for i in range(3)]
    layers = [keras.Input([6, 6, 2], dtype=dtype)]
    for i, width in enumerate((4, 6)):
        layers.append(keras.layers.Conv2D(width, 3, padding="same", kernel_initializer=init[i], dtype=dtype))
        if batch_norm:
            layers.append(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=dtype))
        layers.append(keras.layers.ReLU(dtype=dtype))
    layers.append(keras.layers.GlobalAveragePooling2D(dtype=dtype))
    layers.append(keras.layers.Dense(CLASSES, kernel_initializer=init[2], dtype=dtype))
    return keras.Sequential(layers, name=name)


def batches(count=3, size=8, seed=0, dtype="float32"):
    """`count` batches of (images `[size, 6, 6, 2]`, class numbers `[size]`)."""
    random = np.random.default_rng(seed)
    return [
        (random.normal(size=[size, 6, 6, 2]).astype(dtype), random.integers(0, CLASSES, size).astype("int32"))
        for _ in range(count)
    ]


def weights_of(model):
    """All weights in one float64 vector."""
    return np.concatenate([np.asarray(w).ravel() for w in model.get_weights()]).astype(np.float64)


def distance(one, other):
    """||w1 - w2|| / ||w1|| over all weights."""
    return np.linalg.norm(one - other) / np.linalg.norm(one)


def make_distiller(
    strategy=None,
    *,
    batch_norm=False,
    synchronize=False,
    dtype="float32",
    optimizer=None,
    jit_compile=False,
    **settings,
):
    """A compiled Distiller of two `conv_net`s, spherical unless told otherwise; `settings` are its arguments, `optimizer` makes one."""
    settings = {"loss": "spherical"} | settings
    with strategy.scope() if strategy else contextlib.nullcontext():
        student, teacher = (conv_net(seed, batch_norm=batch_norm, dtype=dtype) for seed in (1, 2))
        distiller = Distiller(synchronized(student) if synchronize else student, teacher, **settings)
        distiller.compile(
            optimizer() if optimizer else keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=jit_compile
        )
    return distiller


def run(distiller, data, *, steps_per_call=1):
    """Trains on the batches in order with `run_steps`; returns the means over them."""
    images, labels = (np.concatenate([batch[i] for batch in data]) for i in (0, 1))
    strategy = distiller.distribute_strategy
    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = dataset.batch(len(data[0][1]) // strategy.num_replicas_in_sync, drop_remainder=True)
    share = lambda context: dataset.shard(context.num_input_pipelines, context.input_pipeline_id)  # noqa: E731
    iterator = iter(strategy.distribute_datasets_from_function(share))
    left = len(data)
    while left:
        steps = min(steps_per_call, left)
        distiller.run_steps(iterator, steps)
        left -= steps
    return distiller.means.result()
