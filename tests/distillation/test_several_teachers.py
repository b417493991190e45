"""A Distiller with several teachers: live and given, on replicas, with XLA, saved, and what is refused."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.distillation.objective import Objective
from skd_tf.errors import InputError
from skd_tf.losses import Loss, spherical_kd, wttm
from tests.helpers.nets import CLASSES, batches, conv_net, distance, run, weights_of
from tests.losses import numpy_reference

WEIGHTS = (3.0, 1.0)
DATA = batches(3)


def make(teacher, strategy=None, *, jit_compile=False, **settings):
    with (strategy or tf.distribute.get_strategy()).scope():
        distiller = Distiller(conv_net(1), teacher() if teacher is two else teacher, **{"loss": "spherical"} | settings)
        distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=jit_compile)
    return distiller


def two():
    return [conv_net(2), conv_net(3)]


def with_logits(data, teachers):
    images, labels = (np.concatenate([batch[i] for batch in data]) for i in (0, 1))
    logits = np.stack([teacher(images).numpy() for teacher in teachers], axis=1)
    return {"image": images, "teacher_logits": logits}, labels


def test_a_step_learns_from_the_mean_of_softmaxes():
    distiller = make(two, teacher_weights=WEIGHTS, temperature=2.0, radius=5.0)
    images, labels = DATA[0]
    student, *each = (net(images).numpy().astype("float64") for net in (distiller.student, *distiller.teachers))
    softened = [[numpy_reference.softmax(row / 2) for row in numpy_reference.project(z, 5.0)] for z in each]
    mean = 2 * np.log(0.75 * np.array(softened[0]) + 0.25 * np.array(softened[1]))
    expected = numpy_reference.kd(numpy_reference.project(student, 5.0), mean, labels, 2.0)["distill"].mean()
    found = {name: float(value) for name, value in run(distiller, DATA[:1]).items()}
    assert found["distill_loss"] == pytest.approx(expected, rel=1e-5)
    norm = 0.75 * numpy_reference.logit_norm(each[0]) + 0.25 * numpy_reference.logit_norm(each[1])
    assert found["teacher_logit_norm"] == pytest.approx(norm.mean(), rel=1e-5)


def test_together_teachers_say_the_class_of_the_mean_of_their_softmaxes():
    random = np.random.default_rng(0)
    student, first, second = random.normal(size=(3, 200, CLASSES)) * 2
    labels = random.integers(0, CLASSES, 200)
    objective = Objective("kd", center=True, label_smoothing=0.0, teacher_weights=WEIGHTS)
    numbers = {"temperature": 4.0, "radius": 1.0, "readout_radius": 1.0, "kd_weight": 1.0, "label_weight": 0.0}
    _, sums, counts = objective(student, tf.constant(np.stack([first, second], axis=1)), tf.constant(labels), **numbers)
    found = dict(zip(objective.mean_names, (sums / counts).numpy(), strict=True))
    one, other = (np.array([*map(numpy_reference.softmax, logits)]) for logits in (first, second))
    answers = (0.75 * one + 0.25 * other).argmax(axis=1)
    others = (one + other, 3 * first + second)  # the weights are ignored; the mean is that of logits
    assert all((answers != wrong.argmax(axis=1)).any() for wrong in others)
    assert found["teacher_accuracy"] == pytest.approx((answers == labels).mean())
    assert found["agreement"] == pytest.approx((answers == student.argmax(axis=1)).mean())


@pytest.mark.slow
def test_given_logits_and_two_replicas_train_alike(two_replicas):
    settings = {"teacher_weights": WEIGHTS, "radius": "teacher_sample"}
    trained = {}
    x, y = with_logits(DATA, two())
    for name, strategy in (("one", None), ("two", two_replicas), ("given", None)):
        distiller = make(None if name == "given" else two, strategy, **settings)
        if name == "given":
            distiller.adapt({name: part[:8] for name, part in x.items()})
            distiller.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        else:
            distiller.adapt(DATA[0][0])
            run(distiller, DATA)
        trained[name] = weights_of(distiller.student)
    assert all(distance(trained["one"], other) < 1e-6 for other in trained.values())


@pytest.mark.slow
def test_xla_and_pieces_train_alike():
    settings = {"teacher_weights": WEIGHTS, "radius": "teacher_sample"}
    x, y = with_logits(DATA, two())
    trained = []
    for options in ({}, {"jit_compile": True}, {"micro_batches": 2}):
        distiller = make(two, **settings)
        distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), **options)
        distiller.fit(x["image"], y, batch_size=8, shuffle=False, verbose=0)
        trained.append(weights_of(distiller.student))
    assert all(distance(trained[0], other) < 1e-6 for other in trained)


def test_equal_teachers_are_one_and_a_list_of_one_is_that_teacher():
    assert isinstance(make([conv_net(2)]).teacher, keras.Model)
    one, both = make(conv_net(2), loss="kd"), make([conv_net(2), conv_net(2)], loss="kd")
    for distiller in (one, both):
        run(distiller, DATA)
    assert distance(weights_of(one.student), weights_of(both.student)) < 1e-6


def test_teachers_are_invisible_settable_and_their_weights_are_saved(tmp_path):
    distiller = make(two, teacher_weights=WEIGHTS)
    assert len(distiller.weights) == len(make(None).weights)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    assert loaded.teacher is None and loaded.objective.teacher_weights == WEIGHTS
    assert "teacher_weights" not in make(conv_net(2)).get_config()
    loaded.teacher = two()
    images = tf.constant(DATA[0][0])
    assert np.array_equal(loaded._teacher_logits_of(images), distiller._teacher_logits_of(images))


def test_each_teacher_may_return_probabilities():
    softmax = keras.Sequential([conv_net(3), keras.layers.Softmax()])
    with pytest.warns(UserWarning, match="returns probabilities"):
        distiller = make([conv_net(2), softmax], loss="kd")
    x, y = with_logits(DATA[:1], two())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        raw = make(two, loss="kd")
    found, expected = (tf.nn.softmax(each._teacher_logits_of(tf.constant(x["image"]))) for each in (distiller, raw))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    x["teacher_logits"][:, 1] = tf.nn.softmax(x["teacher_logits"][:, 1])
    with pytest.raises(InputError, match="logits are probabilities"):
        make(None, loss="kd").fit(x, y, batch_size=8, verbose=0)


def your_own(student_logits, teacher_logits, labels, *, temperature=4.0):
    return wttm(student_logits, teacher_logits, labels)


def of_several(student_logits, teacher_logits, labels, *, radius=2.0, teacher_weights):
    return spherical_kd(student_logits, teacher_logits, labels, radius=radius, teacher_weights=teacher_weights)


def test_what_does_not_fit_is_refused_in_one_line():
    other = keras.Sequential([keras.Input([6, 6, 2]), keras.layers.Flatten(), keras.layers.Dense(CLASSES + 2)])
    cases = [
        ({"teacher": two(), "loss": "rld"}, "takes one teacher.*spherical, kd.*teacher_weights.*2 teachers"),
        ({"teacher": two(), "loss": your_own}, "takes one teacher"),
        ({"teacher": None, "loss": "wttm", "teacher_weights": WEIGHTS}, "takes one teacher"),
        ({"teacher": two(), "teacher_weights": (1.0, 2.0, 3.0)}, "2 numbers > 0.*teacher_weights=1,2,3"),
        ({"teacher": two(), "teacher_weights": (1.0, 0.0)}, "2 numbers > 0.*teacher_weights=1,0"),
        ({"teacher": conv_net(2), "teacher_weights": WEIGHTS}, "1 number > 0"),
        ({"teacher": [conv_net(2), other]}, "different classes.*7 from the teacher"),
    ]
    for settings, words in cases:
        with pytest.raises(InputError, match=words):
            Distiller(conv_net(1), **settings)
    x, y = with_logits(DATA, [*two(), conv_net(4)])
    for settings, words in (({"loss": "wttm"}, "takes one teacher"), ({"teacher_weights": WEIGHTS}, "3 numbers > 0")):
        with pytest.raises(InputError, match=words):
            make(None, **settings).fit(x, y, batch_size=8, verbose=0)
    make(two, loss="cross_entropy", teacher_weights=WEIGHTS)  # which uses none of them
    objective = Objective(Loss(of_several, "raw", True, {}), center=True, label_smoothing=0.0)
    numbers = {"temperature": 4.0, "radius": 2.0, "readout_radius": 2.0, "kd_weight": 1.0, "label_weight": 0.0}
    teachers = x["teacher_logits"]
    for logits in (teachers, teachers[:, 0]):  # the weights of one teacher are None
        loss, _, _ = objective(teachers[:, 1], tf.constant(logits), tf.constant(y), **numbers)
        expected = spherical_kd(teachers[:, 1], logits, y, radius=2.0)["distill"]
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
