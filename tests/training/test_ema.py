"""The moving average of the student's weights: Keras' own, measured and shipped, resumed bit for bit, alike on replicas."""

import functools
import json

import keras
import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.distillation import optimizers
from skd_tf.evaluation import predictor
from skd_tf.training import experiment
from skd_tf.training.checkpoints import Checkpoints, state_of
from tests.helpers.nets import batches, distance, make_distiller, run, weights_of

MOMENTUM = 0.75
adamw = functools.partial(keras.optimizers.AdamW, 0.01, 0.01, use_ema=True, ema_momentum=MOMENTUM)
sgd = functools.partial(optimizers.SGD, 0.05, 0.9, use_ema=True, ema_momentum=MOMENTUM)


def averages(distiller):
    return [np.array(average.numpy()) for average in distiller.optimizer._model_variables_moving_average]


@pytest.mark.parametrize("optimizer", [sgd, adamw])
def test_it_is_the_average_of_the_weights_after_each_step(optimizer):
    distiller, expected = make_distiller(optimizer=optimizer), None
    for batch in batches(4):
        run(distiller, [batch])
        weights = [w.numpy().astype("float64") for w in distiller.student.trainable_variables]
        if expected is None:
            expected = weights
        expected = [MOMENTUM * e + (1 - MOMENTUM) * w for e, w in zip(expected, weights, strict=True)]
    for mine, theirs in zip(averages(distiller), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


def test_two_replicas_as_one(two_replicas):
    one, two = make_distiller(optimizer=sgd), make_distiller(two_replicas, optimizer=sgd)
    for distiller in (one, two):
        run(distiller, batches(3))
    mine, theirs = (np.concatenate([a.ravel() for a in averages(d)]) for d in (one, two))
    assert distance(mine, theirs) < 1e-6
    for average in two.optimizer._model_variables_moving_average:
        parts = two_replicas.experimental_local_results(average.value)
        assert len(parts) == 2 and np.array_equal(parts[0], parts[1])


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_restored_run_goes_on_bit_for_bit(tmp_path, replicas, two_replicas):
    strategy, data = two_replicas if replicas == 2 else None, batches(5)
    straight, first, second = (make_distiller(strategy, batch_norm=True, optimizer=sgd) for _ in range(3))
    run(straight, data)
    run(first, data[:3])
    files = Checkpoints(tmp_path)
    files.save(first, 3)
    files.close()
    assert Checkpoints(tmp_path).restore(second, pytest.fail)[0] == 3
    run(second, data[3:])
    one, other = ({name: np.asarray(v) for name, v in state_of(d).items()} for d in (straight, second))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert all(np.array_equal(a, b) for a, b in zip(averages(straight), averages(second), strict=True))


def test_it_is_inside_for_a_while_only_and_without_it_nothing_happens():
    distiller = make_distiller(optimizer=sgd)
    run(distiller, batches(3))
    before = weights_of(distiller.student)
    with pytest.raises(ZeroDivisionError), optimizers.averaged(distiller):
        inside = [w.numpy() for w in distiller.student.trainable_variables]
        assert all(np.array_equal(a, b) for a, b in zip(inside, averages(distiller), strict=True))
        assert distance(before, weights_of(distiller.student)) > 1e-3
        raise ZeroDivisionError
    assert np.array_equal(before, weights_of(distiller.student))
    plain = make_distiller()
    run(plain, batches(1))
    before = weights_of(plain.student)
    with optimizers.averaged(plain):
        assert np.array_equal(before, weights_of(plain.student))
    optimizers.take_average(plain)
    assert np.array_equal(before, weights_of(plain.student))


def test_it_is_what_is_measured_and_shipped_and_the_run_resumes(tmp_path):
    from skd_tf import data

    settings = {"student": "cnn_2", "epochs": 3, "batch_size": 100, "learning_rate": 0.1, "strategy": "one_device"}
    config = Config(loss="cross_entropy", ema_momentum=0.9, report=False, **settings)
    result = experiment.run(config, tmp_path / "run")
    digits = data.load(config.pick(data.DataSettings))
    shipped = keras.models.load_model(tmp_path / "run" / "student.keras")
    logits = predictor.Predictor(shipped)(digits.validation.images)
    accuracy = (logits.argmax(axis=1) == digits.validation.labels).mean()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert accuracy == pytest.approx(rows[-1]["val_accuracy"]) == result["student"]["val_accuracy"]
    # The average lags behind the weights, which are those of a run without it.
    plain = experiment.run(config.replace(ema_momentum=0.0), tmp_path / "plain")
    assert plain["student"]["nll"] != result["student"]["nll"]
    losses = [json.loads(line)["loss"] for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    assert losses == [row["loss"] for row in rows]
    # Finished but for its result: it ships the same again.
    (tmp_path / "run" / "result.json").unlink()
    assert experiment.run(config, tmp_path / "run")["student"]["nll"] == result["student"]["nll"]
