"""gradient_scale=student_norm: the gradient times (mean norm of the student's logits over the global batch) / R."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import skd_tf
from skd_tf.distillation import optimizers
from tests.losses import numpy_reference as reference

_CLASSES, _R = 5, 2 * 5**0.5


def _student(seed=0, scale=1.0):
    keras.utils.set_random_seed(seed)
    layer = keras.layers.Dense(_CLASSES, dtype="float64")
    model = keras.Sequential([keras.Input([7], dtype="float64"), layer])
    layer.kernel.assign(layer.kernel * scale)
    return model


def _batch(size=12):
    random = np.random.default_rng(1)
    return random.normal(size=(size, 7)), 3 * random.normal(size=(size, _CLASSES)), random.integers(0, _CLASSES, size)


def _stepped(gradient_scale, strategy=None, *, steps=1, scale=1.0, **how):
    """The student's weights after steps on one batch."""
    x, teacher, y = _batch()
    with (strategy or tf.distribute.get_strategy()).scope():
        distiller = skd_tf.Distiller(
            _student(scale=scale), loss="spherical", temperature=3.0, gradient_scale=gradient_scale
        )
        distiller.compile(optimizers.SGD(0.1, 0.9, l2=0.01), **how)
    data = tf.data.Dataset.from_tensors(({"image": x, "teacher_logits": teacher}, y)).repeat(steps)
    distiller.fit(data.unbatch().batch(len(x)), epochs=1, verbose=0)
    return [np.array(weight) for weight in distiller.student.get_weights()]


def _gradients(weights):
    """dL/dkernel and dL/dbias in float64, L the mean over the batch, by central differences of the reference loss."""
    x, teacher, y = _batch()

    def loss(kernel, bias):
        terms = reference.spherical_kd(x @ kernel + bias, teacher, y, 3.0, _R)
        return np.mean(0.1 * terms["label"] + 0.9 * terms["distill"])

    found = []
    for which in (0, 1):
        gradient = np.zeros_like(weights[which])
        for place in np.ndindex(gradient.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [weight.copy() for weight in weights]
                moved[which][place] += step
                sides.append(loss(*moved))
            gradient[place] = (sides[0] - sides[1]) / 2e-5
        found.append(gradient)
    norm = reference.logit_norm(x @ weights[0] + weights[1]).mean()
    return found, norm / _R


@pytest.mark.parametrize(
    ("kind", "scale"),
    [("student_norm", 0.01), pytest.param("student_norm", 30.0, marks=pytest.mark.slow), ("none", 1.0)],
)
def test_one_step_is_the_rate_times_the_norm_over_the_radius(kind, scale):
    start = [weight.astype(np.float64) for weight in _student(scale=scale).get_weights()]
    gradients, factor = _gradients(start)
    by = factor if kind == "student_norm" else 1.0
    for before, gradient, after in zip(start, gradients, _stepped(kind, scale=scale), strict=True):
        expected = before - 0.1 * (by * gradient + 0.01 * before)  # L2 is no part of the loss and is not scaled
        np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6 * np.abs(expected - before).max())


@pytest.mark.slow
def test_replicas_xla_and_pieces_agree(two_replicas):
    expected = _stepped("student_norm", steps=4)
    routes = {"two replicas": {"strategy": two_replicas}, "XLA": {"jit_compile": True}}
    routes["pieces"] = {"micro_batches": 3}
    for name, how in routes.items():
        for one, other in zip(expected, _stepped("student_norm", steps=4, **how), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8, err_msg=name)


def test_equal_logits_can_leave():
    moved = _stepped("student_norm", scale=0.0)
    assert np.isfinite(moved[0]).all() and np.abs(moved[0]).max() > 1e-3


def test_it_is_saved_and_refused_where_there_is_no_sphere():
    distiller = skd_tf.Distiller(_student(), loss="spherical", gradient_scale="student_norm")
    again = skd_tf.Distiller.from_config(distiller.get_config())
    assert again.objective.gradient_scale == "student_norm"
    with pytest.raises(skd_tf.InputError, match="Leave it out, or use the spherical loss"):
        skd_tf.Distiller(_student(), loss="kd", gradient_scale="student_norm")
    with pytest.raises(skd_tf.InputError, match="none or student_norm for a loss on the sphere"):
        skd_tf.Distiller(_student(), loss="spherical", gradient_scale="norm")
    with pytest.raises(skd_tf.InputError, match="--gradient_scale excludes --loss=kd, which has no sphere"):
        skd_tf.Config(loss="kd", gradient_scale="student_norm")
