"""The moving average of the student's weights: Keras' own, equal on all replicas, resumed, measured and shipped."""

import functools

import keras
import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.distillation import optimizers
from skd_tf.evaluation import metrics, predictor
from skd_tf.models import deployable
from skd_tf.training import experiment, train_student
from tests.helpers.images import load
from tests.helpers.nets import batches, distance, make_distiller, run, weights_of
from tests.helpers.runs import ALONE, numbers, train

MOMENTUM = 0.75
adamw = functools.partial(keras.optimizers.AdamW, 0.01, 0.01, use_ema=True, ema_momentum=MOMENTUM)
sgd = functools.partial(optimizers.SGD, 0.05, 0.9, use_ema=True, ema_momentum=MOMENTUM)


def averages(distiller):
    return [np.array(average.numpy()) for average in distiller.optimizer._model_variables_moving_average]


@pytest.mark.parametrize("optimizer", [sgd, pytest.param(adamw, marks=pytest.mark.slow)])
def test_it_is_the_average_of_the_weights_after_each_step(optimizer):
    distiller, expected = make_distiller(optimizer=optimizer), None
    for batch in batches(4):
        run(distiller, [batch])
        weights = [w.numpy().astype("float64") for w in distiller.student.trainable_variables]
        expected = expected or weights
        expected = [MOMENTUM * e + (1 - MOMENTUM) * w for e, w in zip(expected, weights, strict=True)]
    for mine, theirs in zip(averages(distiller), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_replicas_as_one(two_replicas):
    one, two = make_distiller(optimizer=sgd), make_distiller(two_replicas, optimizer=sgd)
    for distiller in (one, two):
        run(distiller, batches(3))
    mine, theirs = (np.concatenate([a.ravel() for a in averages(d)]) for d in (one, two))
    assert distance(mine, theirs) < 1e-6
    for average in two.optimizer._model_variables_moving_average:
        parts = two_replicas.experimental_local_results(average.value)
        assert len(parts) == 2 and np.array_equal(parts[0], parts[1])


@pytest.mark.slow
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
    averaged, plain = tmp_path / "averaged", tmp_path / "plain"
    student, digits = train(averaged, ema_momentum=0.9)["student"], load()
    shipped = keras.models.load_model(averaged / "student.keras")
    logits = predictor.Predictor(deployable.without_temperature(shipped)[0])(digits.validation.images)
    accuracy = (logits.argmax(axis=1) == digits.validation.labels).mean()
    assert accuracy == pytest.approx(numbers(averaged)[-1]["val_accuracy"]) == student["val_accuracy"]
    nll = metrics.quality(logits, digits.validation.labels)["nll"]
    assert nll == pytest.approx(numbers(averaged)[-1]["val_nll"], rel=1e-4)
    # The average lags behind the weights, which are those of a run without it.
    config = Config(**ALONE)
    plain.mkdir()
    train_student.train_student(config, experiment.prepare(config, plain), plain)
    rows = [numbers(folder) for folder in (averaged, plain)]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert rows[0][-1]["val_nll"] != rows[1][-1]["val_nll"]
    (averaged / "result.json").unlink()  # all steps are done: it ships the same again
    assert train(averaged, ema_momentum=0.9)["student"]["nll"] == student["nll"]
