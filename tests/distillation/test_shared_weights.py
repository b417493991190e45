"""The teacher is never updated: a student that would train its weights is refused."""

import keras
import numpy as np
import pytest

from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from tests.helpers.nets import CLASSES, batches, weights_of

IMAGES, LABELS = batches(1, size=16)[0]


def nets(*, frozen=False, norm_only=False):
    """A student and a teacher on one convolution with BatchNorm, or on one BatchNorm without weights of its own."""
    shared = [
        keras.layers.BatchNormalization(center=False, scale=False, name="shared_norm"),
        *([] if norm_only else [keras.layers.Conv2D(4, 3, name="shared_conv")]),
    ]
    image = keras.Input(IMAGES.shape[1:])
    features = image
    for layer in shared:
        layer.trainable = not frozen
        features = layer(features)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    student = keras.Model(image, keras.layers.Dense(CLASSES, name="student_logits")(pooled))
    return student, keras.Model(image, keras.layers.Dense(CLASSES, name="teacher_logits")(pooled))


@pytest.mark.parametrize(("norm_only", "received"), [(False, "4 common weights"), (True, "2 common weights")])
def test_a_student_that_would_train_weights_of_the_teacher_is_refused(norm_only, received):
    student, teacher = nets(norm_only=norm_only)
    with pytest.raises(InputError, match=rf"training would change the teacher.*{received}, such as shared_"):
        Distiller(student, teacher)
    distiller = Distiller(student)
    with pytest.raises(InputError, match="training would change the teacher"):
        distiller.teacher = teacher
    whole = keras.Sequential([keras.Input(IMAGES.shape[1:]), teacher])
    with pytest.raises(InputError, match="training would change the teacher 2"):
        Distiller(teacher, [keras.models.clone_model(whole), whole])


def test_frozen_layers_may_be_shared_and_the_teacher_stays_as_it_is():
    student, teacher = nets(frozen=True)
    before = weights_of(teacher)
    distiller = Distiller(student, teacher)
    distiller.compile(keras.optimizers.SGD(0.5))
    distiller.fit(IMAGES, LABELS, batch_size=8, verbose=0)
    for old, new in zip(before, weights_of(teacher), strict=True):
        np.testing.assert_array_equal(old, new)


def test_layers_that_are_unfrozen_later_are_found_by_fit():
    student, teacher = nets(frozen=True)
    distiller = Distiller(student, teacher)
    for layer in student.layers:
        layer.trainable = True
    distiller.compile(keras.optimizers.SGD(0.5))
    with pytest.raises(InputError, match="training would change the teacher"):
        distiller.fit(IMAGES, LABELS, batch_size=8, verbose=0)


class Wrapped(keras.Model):
    """A subclassed model around a layer, which is built by its first call."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.flatten = layer, keras.layers.Flatten()

    def call(self, image):
        return self.layer(self.flatten(image))


def test_subclassed_models_that_share_a_layer_are_found_by_fit():
    layer = keras.layers.Dense(CLASSES)
    distiller = Distiller(Wrapped(layer), Wrapped(layer))
    distiller.compile("sgd")
    with pytest.raises(InputError, match="training would change the teacher"):
        distiller.fit(IMAGES, LABELS, batch_size=8, verbose=0)
