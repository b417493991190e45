"""The objective of one batch, by hand: which examples count in which value, and which weights multiply what."""

import numpy as np
import pytest

from skd_tf.distillation.objective import Objective
from tests.losses import numpy_reference

CLASSES, SIZE = 5, 12


@pytest.mark.parametrize("center", [True, False])
def test_unlabelled_images_sample_weights_smoothing_and_features(center):
    random = np.random.default_rng(0)
    student, teacher = 1 + 2 * random.normal(size=(2, SIZE, CLASSES))
    labels = np.where(np.arange(SIZE) % 3 == 0, -1, (student + 3 * random.normal(size=student.shape)).argmax(axis=1))
    weights, feature = random.uniform(0, 2, size=(2, SIZE))
    objective = Objective("kd", center=center, label_smoothing=0.2, features=True)
    numbers = {"temperature": 2.0, "radius": 1.0, "readout_radius": 1.0, "kd_weight": 0.7, "label_weight": 0.4}
    given = student, teacher, labels, weights
    loss, sums, counts = objective(*given, **numbers, feature=feature, feature_weight=3.0)

    known, answers, guesses = labels >= 0, student.argmax(axis=1), teacher.argmax(axis=1)
    targets = known[:, None] * (0.8 * np.eye(CLASSES)[labels] + 0.2 / CLASSES)
    label = weights * numpy_reference.label_terms(student, targets)
    distill = weights * numpy_reference.kd(student, teacher, labels, 2.0)["distill"]
    expected = 0.4 * label + 0.7 * distill + 3 * weights * feature
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    means = {
        "loss": expected.mean(),
        "label_loss": label[known].mean(),
        "accuracy": (answers == labels)[known].mean(),
        "student_logit_norm": numpy_reference.logit_norm(student, center).mean(),
        "distill_loss": distill.mean(),
        "agreement": (answers == guesses).mean(),
        "teacher_accuracy": (guesses == labels)[known].mean(),
        "teacher_logit_norm": numpy_reference.logit_norm(teacher, center).mean(),
        "feature_loss": (weights * feature).mean(),
    }
    assert all(0 < means[name] < 1 for name in ("accuracy", "agreement", "teacher_accuracy"))
    assert dict(zip(objective.mean_names, (sums / counts).numpy(), strict=True)) == pytest.approx(means, rel=1e-6)
