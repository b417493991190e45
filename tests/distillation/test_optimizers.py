"""SGD against the update rule of torch.optim.SGD in float64, over 20 steps with a changing rate; AdamW and clipping."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import schedules
from skd_tf.config import Config
from skd_tf.distillation import optimizers


def sgd_by_hand(weights, gradients, rates, momentum, nesterov, decay):
    """The update rule in torch.optim.SGD's documentation."""
    w, buffer = weights.astype(np.float64), np.zeros_like(weights, np.float64)
    for gradient, rate in zip(gradients, rates, strict=True):
        g = gradient + decay * w
        buffer = momentum * buffer + g
        w = w - rate * (g + momentum * buffer if nesterov else buffer)
    return w


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_over_twenty_steps(nesterov, momentum):
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=[4, 3]), random.normal(size=[20, 4, 3])
    config = Config(learning_rate=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.05, epochs=2)
    rates = schedules.learning_rate(config, 10)
    assert rates[-1] < rates[2]  # Keras' own SGD differs when the rate changes
    variable = keras.Variable(start, dtype="float64")
    optimizer = optimizers.make_optimizer(config.pick(optimizers.OptimizerSettings), schedules.Table(rates))
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient)], [variable])
    expected = sgd_by_hand(start, gradients, rates.astype(np.float32), momentum, nesterov, 0.05)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-6)
    keras_own = keras.Variable(start, dtype="float64")
    other = keras.optimizers.SGD(schedules.Table(rates), momentum=momentum, nesterov=nesterov, weight_decay=0.05)
    for gradient in gradients:
        other.apply([tf.constant(gradient)], [keras_own])
    if momentum:
        assert np.abs(keras_own.numpy() - expected).max() > 1e-2


def test_adamw_and_clipping_by_global_norm():
    config = Config(optimizer="adamw", learning_rate=0.01, weight_decay=0.1, clip_norm=0.5)
    optimizer = optimizers.make_optimizer(config.pick(optimizers.OptimizerSettings), 0.01)
    variable = keras.Variable([1.0, -2.0])
    gradient = np.array([3.0, 4.0])
    optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
    clipped = gradient * 0.5 / 5.0
    start = np.array([1.0, -2.0])
    expected = start - 0.01 * 0.1 * start - 0.01 * clipped / (np.abs(clipped) + 1e-7)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-4)


def test_the_norm_that_is_clipped_is_that_of_all_gradients():
    settings = optimizers.OptimizerSettings(momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    variables = [keras.Variable(np.zeros(2)), keras.Variable(np.zeros(1))]
    optimizer = optimizers.make_optimizer(settings, 0.5)
    optimizer.apply([tf.constant([3.0, 0.0]), tf.constant([4.0])], variables)  # together of norm 5
    np.testing.assert_allclose(np.concatenate(variables), [-0.3, 0.0, -0.4], rtol=1e-6)
