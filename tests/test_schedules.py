"""Schedules against hand-computed numbers."""

import math

import numpy as np
import pytest

from skd_tf import schedules
from skd_tf.config import Config
from skd_tf.errors import InputError


def test_cosine_after_a_linear_warmup():
    config = Config(epochs=4, warmup_epochs=1, learning_rate=0.1, lr_schedule="cosine")
    rates = schedules.learning_rate(config, 5)
    assert rates.dtype == np.float64 and rates.shape == (20,)
    np.testing.assert_allclose(rates[:6], [0.02, 0.04, 0.06, 0.08, 0.1, 0.1], rtol=1e-14)
    np.testing.assert_allclose(rates[10], 0.1 * 0.75, rtol=1e-12)  # a third of the way: cos(60 degrees) = 1/2
    np.testing.assert_allclose(rates[15], 0.1 * 0.25, rtol=1e-12)
    expected = [0.05 * (1 + math.cos(math.pi * (step - 5) / 15)) for step in range(5, 20)]
    np.testing.assert_allclose(rates[5:], expected, rtol=1e-12)
    assert rates[-1] > 0


def test_linear_decays_in_equal_steps_after_the_warmup():
    config = Config(epochs=3, warmup_epochs=1, learning_rate=0.8, lr_schedule="linear")
    hand = [0.2, 0.4, 0.6, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    np.testing.assert_allclose(schedules.learning_rate(config, 4), hand, rtol=1e-12)


def test_the_warmup_does_not_move_multistep_milestones():
    config = Config(epochs=5, learning_rate=1.0, lr_schedule="multistep:1,3,4:0.5", warmup_epochs=0)
    hand = [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    np.testing.assert_array_equal(schedules.learning_rate(config, 2), hand)
    warmed = schedules.learning_rate(config.replace(warmup_epochs=2), 2)
    np.testing.assert_allclose(warmed, np.array(hand) * [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1], rtol=1e-14)


def test_the_default_multistep_factor_is_one_tenth():
    config = Config(epochs=240, lr_schedule="multistep:150,180,210", warmup_epochs=0)
    rates = schedules.learning_rate(config, 1)
    np.testing.assert_allclose(
        rates[[0, 149, 150, 179, 180, 209, 210, 239]] / 0.05, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-12
    )


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "linear", "multistep:15"])
def test_the_default_warmup_is_five_percent_of_the_run(lr_schedule):
    config = Config(epochs=20, learning_rate=1.0, lr_schedule=lr_schedule)
    rates = schedules.learning_rate(config, 10)
    assert schedules.warmup_steps(config, 10) == 10
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-14)
    assert rates.max() == 1.0
    if lr_schedule == "constant":
        np.testing.assert_array_equal(rates[10:], 1.0)


def test_a_warmup_over_the_whole_run_ends_at_the_peak():
    for lr_schedule in ("constant", "cosine", "linear"):
        config = Config(epochs=2, warmup_epochs=2, learning_rate=1.0, lr_schedule=lr_schedule)
        np.testing.assert_allclose(schedules.learning_rate(config, 2), [0.25, 0.5, 0.75, 1.0])


def test_the_loss_weight_changes_at_the_start_of_the_given_epoch():
    weights = schedules.loss_weight("0.9, 0.5 from epoch 2, 0.1 from epoch 2.5", 4, 14)
    np.testing.assert_array_equal(weights, [0.9] * 8 + [0.5] * 2 + [0.1] * 4)
    np.testing.assert_array_equal(schedules.loss_weight(0.7, 4, 3), [0.7] * 3)
    np.testing.assert_array_equal(schedules.loss_weight("0.9, 0 from epoch 60", 1, 5), [0.9] * 5)
    assert weights.dtype == np.float64


def test_loss_weight_ramps_reach_their_end_and_stay():
    linear = schedules.loss_weight("linear 0 to 8 over 2 epochs", 4, 10)
    np.testing.assert_allclose(linear, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8], rtol=1e-14)
    cosine = schedules.loss_weight("cosine 1 to 0 over 3 epochs", 2, 8)
    np.testing.assert_allclose(cosine[[0, 2, 3, 4, 6, 7]], [1, 0.75, 0.5, 0.25, 0, 0], atol=1e-15)


def test_a_bad_weight_is_an_input_error():
    for spec in ("0.9, 0.5", "from epoch 3", "linear 0 to 1", "nan", "-1", "0.9, 0.5 from epoch 0", ""):
        with pytest.raises(InputError, match="from epoch 60"):
            schedules.loss_weight(spec, 4, 10)


def test_the_table_works_eagerly_and_in_a_graph_and_never_retraces():
    import keras
    import tensorflow as tf

    values = np.array([0.1, 0.2, 0.3])
    table = schedules.Table(values)
    traces = []

    @tf.function
    def graph(step):
        traces.append(1)
        return table(step)

    for step, expected in [(0, 0.1), (2, 0.3), (3, 0.3), (100, 0.3)]:
        step = tf.constant(step, tf.int64)
        assert float(table(step)) == float(graph(step)) == np.float32(expected)
    assert table(0).dtype == tf.float32
    table.assign(values * 2)
    assert float(graph(tf.constant(1, tf.int64))) == np.float32(0.4)
    assert len(traces) == 1
    copy = type(table).from_config(table.get_config())
    assert [float(copy(step)) for step in range(3)] == [float(table(step)) for step in range(3)]
    optimizer = keras.optimizers.SGD(table)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert float(again.learning_rate) == np.float32(0.2)


def test_the_table_drives_an_optimizer_on_two_replicas(two_replicas):
    import keras
    import tensorflow as tf

    with two_replicas.scope():
        weight = keras.Variable([0.0])
        table = schedules.Table([1.0, 0.5, 0.25])
        optimizer = keras.optimizers.SGD(table)
        optimizer.build([weight])
    traces = []

    @tf.function
    def step():
        traces.append(1)
        # The optimizer sums the gradients over replicas: 1/2 + 1/2.
        two_replicas.run(lambda: optimizer.apply([tf.ones([1]) / 2], [weight]))

    seen = []
    for _ in range(4):
        step()
        seen.append(float(weight.numpy()[0]))
    assert seen == [-1.0, -1.5, -1.75, -2.0]
    table.assign([0.0, 0.0, 3.0])
    step()
    copies = two_replicas.experimental_local_results(weight.value)
    assert [float(copy.numpy()[0]) for copy in copies] == [-5.0, -5.0]
    assert len(traces) == 1
