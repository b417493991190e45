"""The update of all weights as one vector equals Keras' update of each variable, bit for bit but for SGD, and nothing changes unless finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import schedules
from skd_tf.distillation import optimizers, update
from skd_tf.runtime import replicas

SHAPES = [(3, 3, 2, 4), (4,), (), (4, 5)]
CASES = {
    "sgd": lambda rate: optimizers.SGD(rate, l2=5e-4),
    "sgd plain": lambda rate: optimizers.SGD(rate, momentum=0.0),
    "sgd nesterov": lambda rate: optimizers.SGD(rate, nesterov=True, l2=5e-4, global_clipnorm=1.0),
    "sgd ema": lambda rate: optimizers.SGD(rate, use_ema=True, ema_momentum=0.9, clipnorm=0.5, weight_decay=0.01),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.05),
    "adamw ema": lambda rate: keras.optimizers.AdamW(rate, use_ema=True, global_clipnorm=1.0),
    "lion": keras.optimizers.Lion,
}


def made(optimizer, dtype="float32"):
    random = np.random.default_rng(0)
    weights = [keras.Variable(random.normal(size=shape), dtype=dtype) for shape in SHAPES]
    optimizer = optimizer(schedules.Table(np.linspace(0.1, 0.01, 5)))
    optimizer.build(weights)
    return optimizer, weights


def gradients_of(step, scale=1.0, dtype="float32"):
    random = np.random.default_rng(step + 1)
    return [tf.constant(scale * random.normal(size=shape), dtype) for shape in SHAPES]


def state(optimizer, weights):
    return [variable.numpy().copy() for variable in [*weights, *optimizer.variables]]


def same(one, other):
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("largest", [None, 5])  # 5: some weights are a vector of their own
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
@pytest.mark.parametrize("name", CASES)
def test_vectors_equal_keras_own_update(name, dtype, largest):
    plain, flat = made(CASES[name], dtype), made(CASES[name], dtype)
    for step in range(4):
        gradients = gradients_of(step, dtype=dtype)
        plain[0].apply(gradients, plain[1])  # eager: a graph may reorder sums
        packed = replicas.pack(gradients, largest)
        assert len(packed) == 1 or largest
        update.apply(flat[0], packed, flat[1], True, flat=True, largest=largest)
        if name == "sgd":  # the order of a sum of three differs, see `update._sgd`
            for one, other in zip(state(*plain), state(*flat), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-6)
        else:
            assert same(state(*plain), state(*flat)), step
    assert update._has_flat_rule(*flat) == (name not in ("lion", "sgd ema"))


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_nothing_changes_unless_finite(name, flat):
    optimizer, weights = made(CASES[name])
    gradients = replicas.pack(gradients_of(0))
    update.apply(optimizer, gradients, weights, tf.constant(True), flat=flat)
    before = state(optimizer, weights)
    update.apply(optimizer, [gradients[0] * np.nan], weights, tf.constant(False), flat=flat)
    assert same(before, state(optimizer, weights))
    update.apply(optimizer, gradients, weights, tf.constant(True), flat=flat)
    assert not same(before, state(optimizer, weights))


@pytest.mark.parametrize("flat", [True, False])
def test_loss_scaling_equals_that_of_keras(flat):
    def scaled(rate):
        return keras.optimizers.LossScaleOptimizer(optimizers.SGD(rate), initial_scale=8.0, dynamic_growth_steps=2)

    keras_own, ours = made(scaled), made(scaled)
    for step in range(7):
        gradients = gradients_of(step, np.inf if step in (1, 2, 5) else 8.0)
        keras_own[0].apply(gradients, keras_own[1])
        finite = tf.reduce_all(tf.math.is_finite(replicas.pack(gradients)[0]))
        update.apply(ours[0], replicas.pack(gradients), ours[1], finite, flat=flat)
        assert same(state(*keras_own), state(*ours)), step


def test_settings_that_treat_variables_apart_keep_keras_own_update():
    def excluding(rate):
        optimizer = keras.optimizers.AdamW(rate)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer

    for special in (excluding, lambda rate: keras.optimizers.AdamW(rate, amsgrad=True), keras.optimizers.Adam):
        assert not update._has_flat_rule(*made(special))
    optimizer, weights = made(CASES["sgd"])
    weights[0].constraint = keras.constraints.NonNeg()
    assert not update._has_flat_rule(optimizer, weights)
