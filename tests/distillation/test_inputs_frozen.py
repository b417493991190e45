"""Frozen weights are not statistics: no step averages or assigns them."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.runtime import compat, replicas
from tests.helpers.nets import CLASSES, batches, conv_net, run


def frozen_net():
    """A frozen convolution and a frozen BatchNorm, then a BatchNorm that trains."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.BatchNormalization()]
    layers[0].trainable = layers[1].trainable = False
    table = keras.layers.Normalization(axis=-1, mean=[0.1, 0.2], variance=[1.0, 2.0])
    net = keras.Sequential(
        [keras.Input([6, 6, 2]), table, *layers, keras.layers.Flatten(), keras.layers.Dense(CLASSES)]
    )
    return net, [*layers[0].weights, *layers[1].weights], layers[2].non_trainable_variables


def trained(strategy, *, jit_compile, eager=False, monkeypatch=None):
    with strategy.scope() if strategy else contextlib.nullcontext():
        student, frozen, moving = frozen_net()
        for weight in frozen:  # thirds are rounded when they are averaged
            weight.assign(weight.numpy() + np.float32(1 / 3))
        distiller = Distiller(student, conv_net(2))
        distiller.compile(keras.optimizers.SGD(0.05), jit_compile=jit_compile, run_eagerly=eager)
    before = [[weight.numpy().copy() for weight in part] for part in (frozen, moving)]
    sizes, plain = [], replicas.pack

    def counted(tensors, largest=None):
        tensors = list(tensors)
        sizes.append(len(tensors))
        return plain(tensors, largest)

    monkeypatch.setattr(replicas, "pack", counted)
    run(distiller, batches(3))
    after = [[weight.numpy() for weight in part] for part in (frozen, moving)]
    return before, after, sizes, len(student.trainable_variables)


@pytest.mark.parametrize(
    ("mirrored", "jit_compile"),
    [
        (True, False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((False, False), (False, True), (True, True))),
    ],
)
def test_frozen_weights_stay_and_only_moving_statistics_are_summed(mirrored, jit_compile, two_replicas, monkeypatch):
    strategy = two_replicas if mirrored else None
    before, after, sizes, trainable = trained(strategy, jit_compile=jit_compile, monkeypatch=monkeypatch)
    assert all(np.array_equal(*pair) for pair in zip(before[0], after[0], strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(before[1], after[1], strict=True))
    # The gradients, and the two moving statistics of the BatchNorm that trains.
    assert sizes[:2] == [trainable, 2]


def test_eager_steps_leave_frozen_weights_alone(monkeypatch):
    before, after, _, _ = trained(None, jit_compile=False, eager=True, monkeypatch=monkeypatch)
    assert all(np.array_equal(*pair) for pair in zip(before[0], after[0], strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(before[1], after[1], strict=True))


def test_assignments_inside_functions_and_branches_are_seen():
    model = keras.Sequential([keras.Input([2]), keras.layers.BatchNormalization(), keras.layers.Dense(3)])
    found = {}

    @tf.function(autograph=False)
    def inner(x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: model(x, training=True), lambda: model(x))

    @tf.function(autograph=False)
    def outer(x):
        with compat.assigned_variables(model, model.variables) as is_assigned:
            inner(x)
        found.update({v.path.split("/")[-1]: yes for v, yes in zip(model.variables, is_assigned(), strict=True)})

    outer(tf.ones([4, 2]))
    assert {name for name, yes in found.items() if yes} == {"moving_mean", "moving_variance"}
