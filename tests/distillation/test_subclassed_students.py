"""A subclassed student says how many classes it has only when it is called; all checks apply to it nevertheless."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from tests.helpers.nets import CLASSES, batches, conv_net

IMAGES, LABELS = batches(1, size=24)[0]


class Subclassed(keras.Model):
    def __init__(self, classes=CLASSES):
        super().__init__()
        self.flat, self.dense = keras.layers.Flatten(), keras.layers.Dense(classes)

    def call(self, images):
        return self.dense(self.flat(images))


def compiled(student, *settings, built=False, **options):
    if built:
        student(IMAGES)
    distiller = Distiller(student, None, *settings, **options)
    distiller.compile("sgd", metrics=["accuracy"])
    return distiller


def given(y, classes=CLASSES):
    return {"image": IMAGES, "teacher_logits": np.zeros([24, classes], "float32")}, y


@pytest.mark.parametrize("built", [False, True])
def test_a_label_in_a_later_batch_is_refused(built):
    wrong = np.where(np.arange(24) == 20, 7, LABELS)
    for data in ((given(wrong)), (tf.data.Dataset.from_tensor_slices(given(wrong)).batch(24),)):
        with pytest.raises(InputError, match=r"from 0 to 4.*=7|=7 at 20 of a batch"):
            compiled(Subclassed(), built=built).fit(*data, batch_size=8, verbose=0)
    with pytest.raises(InputError, match=r"class_weight\[7\]"):
        compiled(Subclassed(), built=built).train_on_batch(*given(LABELS), class_weight={7: 1.0})


@pytest.mark.parametrize("built", [False, True])
def test_what_has_no_gradient_is_refused(built):
    distiller = compiled(Subclassed(2), "spherical", built=built, radius=3.0)
    for _ in range(2):
        with pytest.raises(InputError, match="Two classes leave two points"):
            distiller.fit(*given(LABELS % 2, 2), verbose=0)
    with pytest.raises(InputError, match="The student has one logit"):
        compiled(Subclassed(1), "cross_entropy", built=built).evaluate(IMAGES, LABELS * 0, verbose=0)
    assert Distiller(conv_net(1), conv_net(2))._num_classes == CLASSES


@pytest.mark.parametrize("built", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_generator_is_read_whole(built):
    """Its first batch tells the number of classes, and builds the student and the metrics."""
    distiller = compiled(Subclassed(), "cross_entropy", built=built)
    parts = [(IMAGES[i : i + 4], LABELS[i : i + 4]) for i in range(0, 24, 4)]
    distiller.fit((part for part in parts), verbose=0)
    assert int(distiller.optimizer.iterations.numpy()) == len(parts)
