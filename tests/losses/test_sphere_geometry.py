"""The sphere's geometry: the highest probability, the second minimum, and the case of two classes."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import Distiller, losses
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.keras_losses import SphericalDistillation
from skd_tf.losses import sphere_geometry
from skd_tf.training import sphere_limits


def loss_of(directions, radius, temperature, kd_weight, center=True):
    """The loss of logits `[n, C]` float64 with label 0, for a teacher as sure of class 0 as the sphere allows."""
    teacher, settings = np.eye(1, directions.shape[1]), {"temperature": temperature, "radius": radius, "center": center}
    terms = losses.spherical_kd(directions, np.repeat(teacher, len(directions), 0), [0] * len(directions), **settings)
    return (1 - kd_weight) * terms["label"] + kd_weight * terms["distill"]


def curvature_opposite_the_label(classes, radius, *, temperature=1.0, kd_weight=0.0, center=True):
    """Second differences of the loss along two great circles through the point opposite the label."""
    opposite = (1 / classes - np.eye(classes)[0]) / math.sqrt(1 - 1 / classes)
    found = []
    for other in ([0, 1, -1], [0, 1, 1, -2]) if classes > 3 else ([0, 1, -1],):
        along, angle = np.zeros(classes), 0.01 / radius
        along[: len(other)] = other / np.linalg.norm(other)
        circle = [math.cos(t) * opposite + math.sin(t) * along for t in (-angle, 0, angle)]
        before, there, after = loss_of(np.array(circle), radius, temperature, kd_weight, center).numpy()
        assert abs(after - before) / (2 * angle) < (radius * angle) ** 2 * radius  # no gradient, to third order
        found.append((before - 2 * there + after) / angle**2)
    assert found[-1] == pytest.approx(found[0], rel=1e-4)
    return found[0]


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(("classes", "radius"), [(4, 2.0), (10, 6.32), (10, 22.0), (100, 20.0), (100, 120.0)])
def test_the_curvature_opposite_the_label_is_the_formula(classes, radius, center):
    k = math.sqrt(classes / (classes - 1))
    label_probability = 1 / (1 + (classes - 1) * math.exp(radius * k))
    expected = (1 - label_probability) * (radius**2 / (classes - 1) - radius * k)
    assert curvature_opposite_the_label(classes, radius, center=center) == pytest.approx(expected, rel=1e-4)
    assert (expected > 0) == (radius > sphere_geometry.second_minimum_radius(classes))


@pytest.mark.parametrize(
    ("classes", "temperature", "kd_weight"),
    [(10, 1.0, 0.9), (10, 2.0, 0.9), (10, 2.0, 0.5), (3, 4.0, 0.9), (4, 4.0, 0.5), (3, 0.5, 0.9), (5, 4.0, 1.0)],
)
def test_a_distill_term_moves_the_second_minimum_with_its_weight_and_temperature(classes, temperature, kd_weight):
    options = {"temperature": temperature, "kd_weight": kd_weight}
    radius = sphere_geometry.second_minimum_radius(classes, label_weight=1 - kd_weight, **options)
    below, above = (curvature_opposite_the_label(classes, factor * radius, **options) for factor in (0.98, 1.02))
    assert below < 0 < above


def curvatures(classes, radii, target):
    """The curvature opposite the label at each radius, with exponents that cannot overflow; `target` is q_y."""
    k = math.sqrt(classes / (classes - 1))
    label = np.exp(-np.logaddexp(0.0, math.log(classes - 1) + radii * k))
    return radii**2 * (1 - label) / (classes - 1) - radii * k * (target - label)


@pytest.mark.parametrize(
    ("classes", "temperature", "kd_weight"), [(1000, 4.0, 0.9), (100, 8.0, 0.9), (1000, 1.0, 0.9), (1000, 1.0, 0.0)]
)
def test_the_second_minimum_of_many_classes_is_where_the_curvature_changes_its_sign(classes, temperature, kd_weight):
    radii = np.linspace(0, 2 * classes * temperature, 200_001)[1:]
    gap = radii * math.sqrt(classes / (classes - 1)) / temperature
    distill = curvatures(classes, radii / temperature, np.exp(-np.logaddexp(0.0, math.log(classes - 1) - gap)))
    total = (1 - kd_weight) * curvatures(classes, radii, 1.0) + kd_weight * temperature**2 * distill
    (place,) = np.flatnonzero((total[:-1] < 0) & (total[1:] >= 0))
    assert (total[place + 1 :] > 0).all()
    found = sphere_geometry.second_minimum_radius(
        classes, temperature=temperature, kd_weight=kd_weight, label_weight=1 - kd_weight
    )
    assert radii[place] <= found * (1 + 1e-9) and found <= radii[place + 1] * (1 + 1e-9)


@pytest.mark.parametrize(("radius", "warned"), [("auto", False), ("5000", True)])
def test_a_run_with_a_thousand_classes_says_what_its_sphere_is(radius, warned):
    config = Config(loss="spherical", temperature=4.0, kd_weight=0.9, radius=radius)
    said = sphere_limits.warnings(config, 63.2456 if radius == "auto" else 5000.0, 1000)
    assert ["can get stuck opposite its label" in line for line in said] == [True] * warned


def test_the_top_probability_is_reached_by_a_one_hot_direction():
    logits = losses.project(tf.constant(np.eye(7)[:1]), 5.0).numpy()[0] / 3.0
    assert sphere_geometry.top_probability(7, 5.0, 3.0) == pytest.approx(np.exp(logits[0]) / np.exp(logits).sum())


def test_two_classes_need_an_uncentred_sphere():
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for loss in ("kd", "cross_entropy"):
        assert Distiller(net, loss=loss).radius is not None
    with pytest.raises(InputError, match=r"Two classes.*--nocenter"):
        Distiller(net, loss="spherical")
    with pytest.raises(InputError, match="Two classes"):
        SphericalDistillation().compute_loss(tf.zeros([1, 2]), tf.zeros([1, 2]))
    Distiller(net, loss="spherical", center=False)
    values = {center: loss_of(np.array([[0.3, 1.2], [0.3, 1.3]]), 2.0, 4.0, 0.9, center) for center in (True, False)}
    assert abs(np.diff(values[True])) < 1e-12 < 1e-3 < abs(np.diff(values[False]))  # a constant cannot train a student
