"""The projection onto the sphere, and every fact that follows from the formula of the spherical loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from skd_tf import losses
from skd_tf.errors import InputError
from tests.losses import numpy_reference
from tests.losses.loss_cases import CASES, assert_terms_close, batch, gradients, terms

each_sphere = pytest.mark.parametrize("settings", [settings for name, settings in CASES if name == "spherical"])


@pytest.mark.parametrize("center", [True, False])
def test_project_puts_every_row_on_the_sphere(center):
    logits = batch()[0]
    for radius in (7.0, np.arange(1.0, 7.0)[:, None]):
        projected = losses.project(logits, radius, center=center).numpy()
        assert_allclose(projected, radius * numpy_reference.project(logits, 1.0, center), rtol=1e-12)
        assert_allclose(np.linalg.norm(projected / radius, axis=1), 1.0, rtol=1e-12)
    norms = losses.logit_norm(logits, center=center).numpy()
    assert_allclose(norms, numpy_reference.logit_norm(logits, center), rtol=1e-12)


@pytest.mark.parametrize("center", [True, False])
def test_project_ignores_the_scale_over_fifty_orders_of_magnitude(center):
    logits = batch(100)[0].astype("float32")
    expected = losses.project(logits, 20.0, center=center).numpy()
    for exponent in range(-24, 31, 6):
        scale = np.float32(10.0**exponent)
        assert_allclose(losses.project(scale * logits, 20.0, center=center), expected, rtol=2e-5, atol=2e-6)
        norms = losses.logit_norm(scale * logits, center=center)
        assert_allclose(norms, scale * numpy_reference.logit_norm(logits, center), rtol=1e-5)


def test_project_keeps_small_differences_between_large_logits():
    logits = np.float32(2.0**20) + np.tile(np.arange(100, dtype="float32"), (2, 1))
    expected = numpy_reference.project(logits, 20.0)
    assert_allclose(losses.project(logits, 20.0), expected, rtol=1e-5, atol=1e-6)


def test_the_authors_layer_norm_is_a_projection():
    logits, m, classes = batch(100)[0], 2.0, 100
    population = (logits - logits.mean(1, keepdims=True)) / np.sqrt(logits.var(1, keepdims=True) + 1e-7)
    radius = losses.resolve_radius("auto", classes)
    assert radius == m * np.sqrt(classes) == 20.0
    assert_allclose(losses.project(logits, radius), population * m, rtol=1e-7)
    normalization = keras.layers.LayerNormalization(center=False, scale=False, epsilon=1e-12)
    stock = keras.layers.Rescaling(m)(normalization(logits.astype("float32")))
    assert_allclose(losses.project(logits, radius), stock, rtol=1e-5, atol=1e-5)
    stock = keras.layers.Rescaling(radius)(keras.layers.UnitNormalization()(logits.astype("float32")))
    assert_allclose(losses.project(logits, radius, center=False), stock, rtol=1e-5, atol=1e-5)


@each_sphere
def test_the_spherical_loss_ignores_the_scale_of_the_student(settings):
    student, teacher, labels = batch()
    expected = terms("spherical", settings, student, teacher, labels)
    scaled = student * np.logspace(-6, 6, 6)[:, None]
    assert_terms_close(terms("spherical", settings, scaled, teacher, labels), expected, rtol=1e-10)
    if not settings.get("center", True):
        shifted = terms("spherical", settings, student + 3.0, teacher, labels)
        assert np.all(np.abs(shifted["distill"] - expected["distill"]) > 1e-3)


@each_sphere
def test_the_gradient_is_tangent_to_the_sphere_and_shrinks_with_the_students_norm(settings):
    student, teacher, labels = batch()
    center = settings.get("center", True)
    scale = np.array([[0.01], [0.5], [1.0], [2.0], [30.0], [1e4]])
    scaled = gradients("spherical", settings, scale * student, teacher, labels)
    for term, gradient in gradients("spherical", settings, student, teacher, labels).items():
        directions = np.stack([numpy_reference.direction(row, center) for row in student])
        assert_allclose(np.sum(gradient * directions, axis=1), 0.0, atol=1e-12)
        sums = np.abs(gradient.sum(axis=1)[:-1])
        assert np.all(sums < 1e-12) if center else np.all(sums > 1e-4)
        assert_allclose(scaled[term] * scale, gradient, rtol=1e-9, atol=1e-12)


def test_the_sphere_and_logit_standardization_give_the_same_distributions():
    """SKD at T = 4, m = 2 equals tau = 2, except that their std is unbiased: tau is 2 * sqrt((n - 1) / n)."""
    student, teacher, labels = batch(100)
    sphere = terms("spherical", {"temperature": 4.0, "radius": 20.0}, student, teacher, labels)["distill"] / 4.0**2
    tau = 2.0 * np.sqrt(99 / 100)
    standardized = terms("logit_standardization", {"temperature": tau}, student, teacher, labels)["distill"] / tau**2
    assert_allclose(sphere, standardized, rtol=1e-9)


def test_an_all_equal_row_still_has_a_gradient():
    for value in (0.0, 0.1, 1e6):
        rows = np.full((1, 100), value, "float32")
        assert not np.any(losses.project(rows, 20.0)) and losses.logit_norm(rows).numpy() == 0.0
        gradient = gradients("spherical", {"radius": 20.0}, rows, batch(100)[1][:1], [3])["label"]
        assert 1e-3 < np.linalg.norm(gradient) < 1e3


def test_readout():
    logits = batch()[0]
    np.testing.assert_array_equal(losses.readout(logits, "raw", None, True), logits)
    for center in (True, False):
        sphere = losses.readout(tf.cast(logits, "float32"), "sphere", 6.3, center)
        assert_allclose(sphere, numpy_reference.project(logits, 6.3, center), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="raw, sphere"):
        losses.readout(logits, "cube")


def test_resolve_radius():
    assert losses.resolve_radius("auto", 10) == pytest.approx(6.3245553)
    assert losses.resolve_radius("20.6", 10) == losses.resolve_radius(20.6, 10) == 20.6
    for name in ("teacher_mean", "teacher_sample"):
        assert losses.resolve_radius(name, 10) == name
    for wrong in (0, -1.0, "none", None, float("nan"), float("inf")):
        with pytest.raises(InputError, match="auto, teacher_mean or teacher_sample"):
            losses.resolve_radius(wrong, 10)
    with pytest.raises(InputError, match="resolve_radius"):
        losses.project(batch()[0], "auto")
