"""Schedules against hand-computed numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from skd_tf import schedules
from skd_tf.config import Config
from skd_tf.errors import InputError

LOW, HIGH = (2 - 3**0.5) / 4, (2 + 3**0.5) / 4  # (1 - cos(30 degrees)) / 2, (1 + cos(30 degrees)) / 2
COSINE = [1, HIGH, 0.75, 0.5, 0.25, LOW]


@pytest.mark.parametrize(
    ("lr_schedule", "epochs", "warmup_epochs", "steps_per_epoch", "factors"),
    [
        ("constant", 2, 1, 2, [0.5, 1, 1, 1]),
        ("cosine", 4, 1, 2, [0.5, 1, *COSINE]),
        ("linear", 3, 1, 4, [0.25, 0.5, 0.75, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        # The warm-up does not move the milestones.
        ("multistep:1,3,4:0.5", 5, 0, 2, [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ("multistep:1,3,4:0.5", 5, 2, 2, [0.25, 0.5, 0.375, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]),
        ("multistep:1,3,4", 5, 0, 2, [1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]),
        # A warm-up over the whole run ends at the peak.
        *[(shape, 2, 2, 2, [0.25, 0.5, 0.75, 1]) for shape in ("constant", "cosine", "linear")],
    ],
)
def test_the_learning_rate_is_the_peak_times_factors(lr_schedule, epochs, warmup_epochs, steps_per_epoch, factors):
    config = Config(learning_rate=0.8, lr_schedule=lr_schedule, epochs=epochs, warmup_epochs=warmup_epochs)
    rates = schedules.learning_rate(config, steps_per_epoch)
    assert rates.dtype == np.float64
    assert_allclose(rates, 0.8 * np.array(factors), rtol=1e-12)


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "linear", "multistep:15"])
def test_the_default_warmup_is_five_percent_of_the_run(lr_schedule):
    config = Config(epochs=20, learning_rate=1.0, lr_schedule=lr_schedule, min_warmup_steps=0)
    rates = schedules.learning_rate(config, 10)
    assert schedules.warmup_steps(config, 10) == 10 and rates.max() == 1.0
    assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-14)


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "settings", "steps"),
    [
        (30, 100, {}, 150),  # 5%
        (10, 100, {}, 100),  # at least 100 steps
        (20, 9, {}, 90),  # at most half of the run
        (1, 1, {}, 0),
        (10, 100, {"min_warmup_steps": 0}, 50),
        (10, 100, {"min_warmup_steps": 300}, 300),
        (10, 100, {"warmup_epochs": 0}, 0),
        (10, 100, {"warmup_epochs": 0.5}, 50),  # what the user gives is what runs
    ],
)
def test_a_short_run_warms_up_over_a_least_number_of_steps(epochs, steps_per_epoch, settings, steps):
    config = Config(epochs=epochs, learning_rate=1.0, lr_schedule="constant", **settings)
    assert schedules.warmup_steps(config, steps_per_epoch) == steps
    rates = schedules.learning_rate(config, steps_per_epoch)
    assert_allclose(rates, np.minimum((np.arange(epochs * steps_per_epoch) + 1) / max(steps, 1), 1), rtol=1e-14)


@pytest.mark.parametrize(
    ("spec", "steps_per_epoch", "weights"),
    [
        (0.7, 4, [0.7] * 3),
        ("0.9, 0.5 from epoch 2, 0.1 from epoch 2.5", 4, [0.9] * 8 + [0.5] * 2 + [0.1] * 4),
        ("0.9, 0 from epoch 60", 1, [0.9] * 5),
        ("linear 0 to 8 over 2 epochs", 4, [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]),
        ("cosine 1 to 0 over 3 epochs", 2, [*COSINE, 0, 0]),
    ],
)
def test_the_loss_weight_changes_at_the_start_of_an_epoch_or_ramps_and_stays(spec, steps_per_epoch, weights):
    result = schedules.loss_weight(spec, steps_per_epoch, len(weights))
    assert result.dtype == np.float64
    assert_allclose(result, weights, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    "spec", ["0.9, 0.5", "from epoch 3", "linear 0 to 1", "nan", "-1", "0.9, 0.5 from epoch 0", ""]
)
def test_a_bad_weight_is_an_input_error(spec):
    with pytest.raises(InputError, match="from epoch 60"):
        schedules.loss_weight(spec, 4, 10)


def test_the_table_works_eagerly_and_in_a_graph_and_never_retraces():
    table = schedules.Table(np.array([0.1, 0.2, 0.3]))
    graph = tf.function(table.__call__)
    for step, expected in [(0, 0.1), (2, 0.3), (3, 0.3), (100, 0.3)]:
        step = tf.constant(step, tf.int64)
        assert float(table(step)) == float(graph(step)) == np.float32(expected)
    assert table(0).dtype == tf.float32
    table.assign([0.2, 0.4, 0.6])
    assert float(graph(tf.constant(1, tf.int64))) == np.float32(0.4)
    assert graph.experimental_get_tracing_count() == 1
    copy = type(table).from_config(table.get_config())
    assert [float(copy(step)) for step in range(3)] == [float(table(step)) for step in range(3)]
    again = keras.optimizers.deserialize(keras.optimizers.serialize(keras.optimizers.SGD(table)))
    assert float(again.learning_rate) == np.float32(0.2)


def test_the_table_drives_an_optimizer_on_two_replicas(two_replicas):
    with two_replicas.scope():
        weight = keras.Variable([0.0])
        table = schedules.Table([1.0, 0.5, 0.25])
        optimizer = keras.optimizers.SGD(table)
        optimizer.build([weight])

    @tf.function
    def step():
        # The optimizer sums the gradients over replicas: 1/2 + 1/2.
        two_replicas.run(lambda: optimizer.apply([tf.ones([1]) / 2], [weight]))

    for expected in (-1.0, -1.5, -1.75, -2.0, -5.0):
        if expected == -5.0:
            table.assign([0.0, 0.0, 3.0])
        step()
        copies = two_replicas.experimental_local_results(weight.value)
        assert [float(copy[0]) for copy in copies] == [expected] * 2
    assert step.experimental_get_tracing_count() == 1
