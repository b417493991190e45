"""Micro-batches need less memory and change nothing else: equal to the undivided batch to rounding."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import schedules
from skd_tf.config import Config
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from tests.helpers.nets import CLASSES, batches, conv_net, distance, weights_of


def trained(strategy, micro_batches, *, steps, dtype, cached=False, jit_compile=False, regularizer=0.0):
    """A student with clipping, EMA, a scheduled rate and a regularizer."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        student, teacher = (conv_net(seed, dtype=dtype) for seed in (1, 2))
        student.layers[0].kernel.regularizer = keras.regularizers.L2(regularizer)
        distiller = Distiller(student, None if cached else teacher, "kd")
        rates = schedules.Table(np.linspace(0.1, 0.01, 20))
        settings = optimizers.OptimizerSettings(clip_norm=0.5, ema_momentum=0.9)
        distiller.compile(
            optimizers.make_optimizer(settings, rates),
            jit_compile=jit_compile,
            micro_batches=micro_batches,
            metrics=["sparse_categorical_accuracy"],
        )
        for metric in distiller.metrics[1:]:
            metric.build(tf.zeros([16], tf.int32), tf.zeros([16, CLASSES]))
    images, labels = (np.concatenate(parts) for parts in zip(*batches(steps, 16, dtype=dtype), strict=True))
    x = {"image": images, "teacher_logits": teacher(images).numpy()} if cached else images
    count = distiller.distribute_strategy.num_replicas_in_sync
    data = tf.data.Dataset.from_tensor_slices((x, labels)).batch(16 // count, drop_remainder=True)
    iterator = iter(distiller.distribute_strategy.distribute_datasets_from_function(lambda _: data))
    distiller.run_steps(iterator, steps)
    average = np.concatenate([v.numpy().ravel() for v in distiller.optimizer._model_variables_moving_average])
    values = distiller.means.result(), float(distiller.metrics[1].result()["sparse_categorical_accuracy"])
    return weights_of(student), average, values


@pytest.mark.parametrize(
    ("mirrored", "cached", "divided"),
    [
        (False, False, (3,)),  # it leaves a smaller last piece
        pytest.param(False, False, (4, 3), marks=pytest.mark.slow),
        pytest.param(True, True, (4, 3), marks=pytest.mark.slow),
        pytest.param(False, True, (4, 3), marks=pytest.mark.slow),
        pytest.param(True, False, (4, 3), marks=pytest.mark.slow),
    ],
)
def test_twenty_steps_in_float64_agree_to_rounding(mirrored, cached, divided, two_replicas):
    strategy = two_replicas if mirrored else None
    settings = {"steps": 20, "dtype": "float64", "cached": cached}
    whole = trained(strategy, 1, **settings)
    for pieces in divided:
        weights, average, (means, accuracy) = trained(strategy, pieces, **settings)
        assert distance(whole[0], weights) < 1e-10 and distance(whole[1], average) < 1e-10
        assert means == pytest.approx(whole[2][0], rel=1e-6) and accuracy == pytest.approx(whole[2][1])


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_in_float32_agrees_to_rounding(jit_compile):
    whole, pieces = (trained(None, m, steps=1, dtype="float32", jit_compile=jit_compile)[0] for m in (1, 4))
    assert distance(whole, pieces) < 1e-5


@pytest.mark.slow
def test_a_last_batch_of_few_images_has_fewer_pieces():
    """As that of fit over an array; and a batch of fewer images than pieces."""
    images, labels = (np.concatenate(parts) for parts in zip(*batches(1, 17, dtype="float64"), strict=True))
    students, weights = [], np.arange(17.0) % 5
    for pieces in (1, 3, 32):  # of the first batch, 3 pieces have 6, 6 and 4 images
        distiller = Distiller(conv_net(1, dtype="float64"), conv_net(2, dtype="float64"), "kd")
        distiller.compile(keras.optimizers.SGD(0.1), jit_compile=False, micro_batches=pieces)
        distiller.fit(images, labels, batch_size=16, sample_weight=weights, shuffle=False, verbose=0)
        students.append(weights_of(distiller.student))
    assert all(distance(students[0], other) < 1e-10 for other in students[1:])


@pytest.mark.slow
def test_a_regularizer_counts_once():
    results = {
        (m, factor): trained(None, m, steps=3, dtype="float64", regularizer=factor)[0]
        for m in (1, 4)
        for factor in (0.0, 0.1)
    }
    assert distance(results[1, 0.1], results[4, 0.1]) < 1e-10 and distance(results[1, 0.1], results[1, 0.0]) > 1e-4


def test_a_batch_that_cannot_be_divided_is_refused():
    unknown = tf.data.Dataset.from_tensor_slices(batches(1, size=16)[0]).batch(16)
    distiller = Distiller(conv_net(1), conv_net(2), "kd")
    distiller.compile("sgd", micro_batches=4)
    with pytest.raises(InputError, match=r"batches of a fixed size.*an unknown number.*drop_remainder=True"):
        distiller.run_steps(iter(unknown), 1)
    with pytest.raises(InputError, match=r"micro_batches.*at most --batch_size=8"):
        Config(loss="cross_entropy", batch_size=8, micro_batches=16)
