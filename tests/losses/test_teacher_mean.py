"""Losses of several teachers: the target is the weighted mean of their softmaxes at the temperature."""

import numpy as np
import pytest

from skd_tf import losses
from skd_tf.errors import InputError
from skd_tf.losses import LOSSES
from skd_tf.losses.names import LOSS_FACTS
from tests.losses import numpy_reference
from tests.losses.loss_cases import CASES, assert_terms_close, batch, gradients, terms

WEIGHTS = (2.0, 1.0, 5.0)
OF_SEVERAL = [case for case in CASES if LOSS_FACTS[case[0]].takes_several_teachers]
FIRST = [next(case for case in OF_SEVERAL if case[0] == name) for name in dict.fromkeys(name for name, _ in OF_SEVERAL)]


def several(size=6, classes=10):
    """Logits of a student and of three teachers with very different norms, and labels."""
    student, teacher, labels = batch(classes, size)
    others = np.random.default_rng(1).normal(size=(2, size, classes)) * [[[8.0]], [[0.5]]]
    return student, np.stack([teacher, *others], axis=1), labels


def reference(case, student, teachers, labels):
    """The loss of one teacher whose softmax at the temperature is the mean of all."""
    name, settings = case
    student, teachers = (np.asarray(logits, "float64") for logits in (student, teachers))
    temperature, center, radius = settings["temperature"], settings.get("center", True), settings.get("radius")
    shares, each = np.array(WEIGHTS) / sum(WEIGHTS), np.moveaxis(teachers, 1, 0)
    if name == "spherical":
        if radius == "teacher_sample":  # the mean norm of the image's teachers
            norms = [numpy_reference.logit_norm(logits, center) for logits in each]
            radius = np.einsum("m,mb->b", shares, norms)[:, None]
        student, *each = (radius * numpy_reference.project(logits, 1.0, center) for logits in (student, *each))
    elif name == "logit_standardization":
        labelled = numpy_reference.label_terms(student, labels)
        student, *each = (numpy_reference.standardize(logits) for logits in (student, *each))
    softmaxes = [[numpy_reference.softmax(row / temperature) for row in logits] for logits in each]
    mean = temperature * np.log(np.einsum("m,mbc->bc", shares, softmaxes))
    if name == "logit_standardization":
        return numpy_reference.kd(student, mean, labels, temperature) | {"label": labelled}
    if name == "spherical":
        return numpy_reference.kd(student, mean, labels, temperature)
    return getattr(numpy_reference, name)(student, mean, labels, **settings)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[] if case in FIRST else [pytest.mark.slow]) for case in OF_SEVERAL], ids=str
)
def test_the_target_is_the_mean_of_softmaxes(case):
    name, settings = case
    student, teachers, labels = several()
    weighted = settings | {"teacher_weights": WEIGHTS}
    expected = reference(case, student, teachers, labels)
    assert_terms_close(terms(name, weighted, student, teachers, labels), expected, rtol=1e-6, atol=1e-9)
    half = student.astype("float32"), teachers.astype("float16"), labels
    found = terms(name, weighted, *half)
    assert_terms_close(found, reference(case, *half), rtol=1e-4, atol=5e-5)
    assert all(value.dtype == "float32" for value in found.values())
    of_logits = np.einsum("m,bmc->bc", np.array(WEIGHTS) / sum(WEIGHTS), teachers)
    assert np.abs(terms(name, settings, student, of_logits, labels)["distill"] - expected["distill"]).max() > 1e-3
    for term, gradient in gradients(name, weighted, student, teachers, labels).items():
        numeric = numpy_reference.numeric_gradient(
            lambda s, term=term: reference(case, s, teachers, labels)[term].sum(), student
        )
        np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-7, err_msg=term)


def test_equal_teachers_are_one_and_weights_have_no_scale():
    student, teachers, labels = several()
    twice = np.stack([teachers[:, 0]] * 2, axis=1)
    for name, settings in OF_SEVERAL:
        one = terms(name, settings, student, teachers[:, 0], labels)
        for weights in (None, (3.0, 1.0)):
            found = terms(name, settings | {"teacher_weights": weights}, student, twice, labels)
            assert_terms_close(found, one, rtol=1e-9, atol=1e-12)
        equal = terms(name, settings, student, teachers, labels)
        scaled = terms(name, settings | {"teacher_weights": (7, 7, 7)}, student, teachers, labels)
        assert_terms_close(equal, scaled, rtol=0)


def test_extreme_logits_give_finite_values():
    rows = np.array(
        [np.zeros(100), np.full(100, -1e6), 1e6 * np.eye(100)[3], np.random.default_rng(0).normal(size=100)]
    )
    teachers = np.stack([np.repeat(rows, 4, axis=0), np.tile(rows, (4, 1))], axis=1).astype("float32")
    student, labels = np.tile(rows, (4, 1)).astype("float32"), np.arange(16) % 5 - 1
    for name, settings in OF_SEVERAL:
        settings = settings | {"teacher_weights": (1e-6, 1.0)}
        assert all(np.isfinite(v).all() for v in terms(name, settings, student, teachers, labels).values())
        assert all(np.isfinite(v).all() for v in gradients(name, settings, student, teachers, labels).values())


def test_what_does_not_fit_is_one_line():
    student, teachers, labels = several()
    for name in ("rld", "wttm"):
        with pytest.raises(InputError, match=r"takes one teacher.*teacher_logits.shape=\(6, 3, 10\)"):
            LOSSES[name].function(student, teachers, labels)
    for weights in ((1.0, 2.0), (1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0), (1.0, float("inf"), 1.0)):
        with pytest.raises(InputError, match=r"3 numbers > 0"):
            losses.kd(student, teachers, labels, teacher_weights=weights)
