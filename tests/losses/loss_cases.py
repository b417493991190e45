"""Cases and helpers shared by the tests of the losses."""

import numpy as np
import tensorflow as tf

from skd_tf.losses import LOSSES

CASES = [
    ("spherical", {"temperature": 4.0, "radius": 20.0}),
    ("spherical", {"temperature": 1.0, "radius": 6.3, "center": True}),
    ("spherical", {"temperature": 2.0, "radius": 9.0, "center": False}),
    ("spherical", {"temperature": 4.0, "radius": "teacher_sample"}),
    ("spherical", {"temperature": 1.5, "radius": "teacher_sample", "center": False}),
    ("kd", {"temperature": 4.0}),
    ("kd", {"temperature": 1.0}),
    ("cross_entropy", {}),
    ("logit_standardization", {"temperature": 2.0}),
    ("dkd", {"temperature": 4.0, "alpha": 1.0, "beta": 8.0}),
    ("dkd", {"temperature": 1.0, "alpha": 0.5, "beta": 2.0}),
    ("dist", {"temperature": 4.0}),
    ("dist", {"temperature": 1.0}),
    ("rld", {"temperature": 4.0, "alpha": 1.0, "beta": 8.0}),
    ("rld", {"temperature": 1.0, "alpha": 0.5, "beta": 2.0, "confidence_temperature": 3.0}),
    ("wttm", {"exponent": 0.2}),
    ("wttm", {"exponent": 1.0, "weighted": 0.0}),
]


def batch(classes=10, size=6, seed=0):
    """Uncentred student and teacher logits, and labels of which the last is -1 (unlabelled)."""
    rng = np.random.default_rng(seed)
    student, teacher = 0.5 + 2 * rng.normal(size=(size, classes)), 3 * rng.normal(size=(size, classes)) - 1
    return student, teacher, np.append(rng.integers(0, classes, size - 1), -1)


def terms(name, settings, student, teacher, labels):
    return {term: value.numpy() for term, value in LOSSES[name].function(student, teacher, labels, **settings).items()}


def gradients(name, settings, student, teacher, labels):
    """The gradient of each term, summed over the batch, with respect to the student's logits. The teacher gets none."""
    student, teacher = tf.convert_to_tensor(student), tf.convert_to_tensor(teacher)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([student, teacher])
        result = LOSSES[name].function(student, teacher, labels, **settings)
    assert all(tape.gradient(value, teacher) is None for value in result.values())
    return {term: tape.gradient(value, student).numpy() for term, value in result.items()}


def assert_terms_close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for term, value in first.items():
        np.testing.assert_allclose(value, second[term], **tolerance, err_msg=term)
