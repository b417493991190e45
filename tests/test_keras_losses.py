"""SphericalDistillation in Keras' Distiller: against numpy and skd_tf.Distiller, saved, and on two replicas."""

import contextlib

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
SETTINGS = [
    {},
    {"temperature": 2.0, "radius": 7.0},
    {"temperature": 1.5, "radius": "teacher_sample"},
    {"radius": 3.0, "center": False},
]


def keras_distiller(loss, *, label_weight, strategy=None):
    with strategy.scope() if strategy else contextlib.nullcontext():
        distiller = keras.distillation.Distiller(
            conv_net(2),
            conv_net(1),
            distillation_losses=[loss],
            distillation_loss_weights=[1.0],
            student_loss_weight=label_weight,
        )
        distiller.compile(
            keras.optimizers.SGD(0.05, momentum=0.9), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
    return distiller


def spherical_with_a_raw_label_term(student_logits, teacher_logits, labels, *, temperature, radius):
    terms = losses.spherical_kd(student_logits, teacher_logits, labels, temperature=temperature, radius=radius)
    return terms | losses.cross_entropy(student_logits, None, labels)


def ours(loss="spherical", **settings):
    distiller = skd_tf.Distiller(conv_net(1), conv_net(2), loss, **settings)
    distiller.compile(keras.optimizers.SGD(0.05, momentum=0.9), jit_compile=False)
    return distiller


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_loss_is_the_mean_of_the_numpy_reference(settings):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(6, CLASSES)) + 1, 4 * rng.normal(size=(6, CLASSES))
    loss = SphericalDistillation(**settings)
    expected = numpy_reference.spherical_kd(
        student, teacher, np.zeros(6, int), **{"temperature": 4.0, "radius": RADIUS} | settings
    )["distill"].mean()
    assert float(loss.compute_loss(teacher, student)) == pytest.approx(expected, rel=1e-5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert float(again.compute_loss(teacher, student)) == float(loss.compute_loss(teacher, student))


@pytest.mark.parametrize(("label_weight", "loss"), [(0.0, "spherical"), (0.3, spherical_with_a_raw_label_term)])
def test_it_trains_like_our_own_distiller(label_weight, loss):
    """Without a label term it equals our loss at kd_weight 1, else ours with a label term on the raw logits."""
    ((images, labels),) = batches(1, size=32)
    theirs = keras_distiller(SphericalDistillation(), label_weight=label_weight)
    mine = ours(loss, kd_weight=1.0 - label_weight)
    for distiller in (theirs, mine):
        distiller.fit(images, labels, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert distance(weights_of(mine.student), weights_of(theirs.student)) < 1e-5
    assert distance(weights_of(mine.student), weights_of(conv_net(1))) > 1e-2


def test_only_the_label_term_on_raw_logits_differs():
    ((images, labels),) = batches(1, size=32)
    theirs, mine = keras_distiller(SphericalDistillation(), label_weight=0.3), ours(kd_weight=0.7)
    for distiller in (theirs, mine):
        distiller.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    assert distance(weights_of(mine.student), weights_of(theirs.student)) > 1e-3


def test_two_replicas_make_the_same_update_as_one(two_replicas):
    ((images, labels),) = batches(1, size=16)
    trained = [keras_distiller(SphericalDistillation(), label_weight=0.1, strategy=s) for s in (None, two_replicas)]
    for distiller in trained:
        distiller.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    assert distance(*(weights_of(d.student) for d in trained)) < 1e-5


def test_it_survives_saving_keras_distiller(tmp_path):
    ((images, labels),) = batches(1)
    distiller = keras_distiller(SphericalDistillation(temperature=3.0, radius=5.0, center=False), label_weight=0.1)
    distiller.save(tmp_path / "keras.keras")
    loaded = keras.models.load_model(tmp_path / "keras.keras")
    loss = loaded.distillation_losses[0]
    assert loss.get_config() == {"temperature": 3.0, "radius": 5.0, "center": False}
    expected = distiller.evaluate(images, labels, verbose=0, return_dict=True)
    loaded.compile(
        "sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )  # Keras' Distiller requires it
    assert loaded.evaluate(images, labels, verbose=0, return_dict=True) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"temperature": 0}, "temperature"), ({"radius": "sphere"}, "radius"), ({"radius": "teacher_mean"}, "adapt")],
)
def test_bad_settings_are_input_errors(settings, words):
    with pytest.raises(InputError, match=words):
        SphericalDistillation(**settings)
