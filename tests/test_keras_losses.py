"""SphericalDistillation in Keras' Distiller: against numpy and skd_tf.Distiller, saved, and on two replicas."""

import contextlib
import functools

import keras
import numpy as np
import pytest

import skd_tf
from skd_tf import losses
from skd_tf.errors import InputError
from skd_tf.keras_losses import SphericalDistillation
from tests.helpers.nets import CLASSES, batches, conv_net, distance, weights_of
from tests.losses import numpy_reference

RADIUS = 2 * CLASSES**0.5
COMPILED = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}


def keras_distiller(label_weight, strategy=None, **settings):
    with strategy.scope() if strategy else contextlib.nullcontext():
        weights = {"distillation_loss_weights": [1.0], "student_loss_weight": label_weight}
        loss = SphericalDistillation(**settings)
        distiller = keras.distillation.Distiller(conv_net(2), conv_net(1), distillation_losses=[loss], **weights)
        distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), **COMPILED)
    return distiller


def spherical_with_a_raw_label_term(student_logits, teacher_logits, labels, *, temperature, radius):
    terms = losses.spherical_kd(student_logits, teacher_logits, labels, temperature=temperature, radius=radius)
    return terms | losses.cross_entropy(student_logits, None, labels)


def trained_weights(distiller, size=32, epochs=2):
    ((images, labels),) = batches(1, size=size)
    distiller.fit(images, labels, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return weights_of(distiller.student)


@pytest.mark.parametrize(
    ("temperature", "radius", "center"),
    [(4.0, RADIUS, True), (2.0, 7.0, True), (1.5, "teacher_sample", True), (4.0, 3.0, False)],
)
def test_the_loss_is_the_mean_of_the_numpy_reference(temperature, radius, center):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(6, CLASSES)) + 1, 4 * rng.normal(size=(6, CLASSES))
    settings = {"temperature": temperature, "radius": radius, "center": center}
    expected = numpy_reference.spherical_kd(student, teacher, np.zeros(6, int), **settings)["distill"].mean()
    loss = SphericalDistillation() if radius == RADIUS else SphericalDistillation(**settings)  # RADIUS is the default
    assert float(loss.compute_loss(teacher, student)) == pytest.approx(expected, rel=1e-5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert float(again.compute_loss(teacher, student)) == float(loss.compute_loss(teacher, student))


@functools.cache
def weights_by_keras(label_weight):
    return trained_weights(keras_distiller(label_weight))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label_weight", "loss", "equal"),
    [
        pytest.param(0.0, "spherical", True, marks=pytest.mark.slow),
        (0.3, spherical_with_a_raw_label_term, True),
        (0.3, "spherical", False),
    ],
)
def test_only_the_label_term_on_raw_logits_differs_from_our_own_distiller(label_weight, loss, equal):
    distiller = skd_tf.Distiller(conv_net(1), conv_net(2), loss, kd_weight=1.0 - label_weight)
    distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    mine = trained_weights(distiller)
    difference = distance(mine, weights_by_keras(label_weight))
    assert difference < 1e-5 if equal else difference > 1e-3
    assert distance(mine, weights_of(conv_net(1))) > 1e-2


@pytest.mark.slow
def test_two_replicas_make_the_same_update_as_one(two_replicas):
    trained = [trained_weights(keras_distiller(0.1, on), size=16, epochs=1) for on in (None, two_replicas)]
    assert distance(*trained) < 1e-5


def test_it_survives_saving_keras_distiller(tmp_path):
    settings = {"temperature": 3.0, "radius": 5.0, "center": False}
    ((images, labels),) = batches(1)
    distiller = keras_distiller(0.1, **settings)
    distiller.save(tmp_path / "keras.keras")
    loaded = keras.models.load_model(tmp_path / "keras.keras")
    assert loaded.distillation_losses[0].get_config() == settings
    loaded.compile("sgd", **COMPILED)  # Keras' Distiller requires it
    one, other = (d.evaluate(images, labels, verbose=0, return_dict=True) for d in (distiller, loaded))
    assert other == pytest.approx(one)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"temperature": 0}, "temperature"), ({"radius": "sphere"}, "radius"), ({"radius": "teacher_mean"}, "adapt")],
)
def test_bad_settings_are_input_errors(settings, words):
    with pytest.raises(InputError, match=words):
        SphericalDistillation(**settings)
