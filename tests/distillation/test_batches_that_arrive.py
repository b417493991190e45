"""Every batch of a generator, a PyDataset or a PyTorch loader is checked when it arrives, before a step uses it."""

import keras
import numpy as np
import pytest

from skd_tf.errors import InputError
from tests.helpers.nets import batches, make_distiller, weights_of

GOOD = batches(3)
IMAGES, LABELS = GOOD[0]


def with_third(change):
    """Three batches, of which the third one is changed."""
    x, y, weights = GOOD[2][0], GOOD[2][1].astype("float32"), np.ones(len(LABELS), "float32")
    parts = {"y": y, "weights": weights} | change(y, weights)
    return [(x, y.astype("float32"), weights) for x, y in GOOD[:2]] + [(x, parts["y"], parts["weights"])]


def replaced(array, value):
    array = array.copy()
    array[3] = value
    return array


BAD = {
    "a class that does not exist": (lambda y, w: {"y": replaced(y, 7)}, r"A label does not exist.*y\[3\]=7"),
    "half a class": (lambda y, w: {"y": replaced(y, 1.5)}, r"A label does not exist.*y\[3\]=1.5"),
    "a negative weight": (lambda y, w: {"weights": replaced(w, -1.0)}, "weight is out of range.*=-1"),
    "a weight that is NaN": (lambda y, w: {"weights": replaced(w, np.nan)}, "weight is out of range.*=nan"),
}


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@pytest.mark.parametrize("source", [iter, Batches], ids=["generator", "PyDataset"])
@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_value_in_the_third_batch_is_refused_before_the_step_that_would_use_it(kind, source):
    change, message = BAD[kind]
    good = make_distiller()
    good.fit((batch for batch in with_third(lambda y, w: {})[:2]), steps_per_epoch=2, verbose=0)
    distiller = make_distiller()
    data = with_third(change)
    with pytest.raises(InputError, match=message):
        distiller.fit((batch for batch in data) if source is iter else Batches(data), shuffle=False, verbose=0)
    np.testing.assert_array_equal(weights_of(distiller.student), weights_of(good.student))


def test_evaluation_and_validation_check_each_batch_too():
    change, message = BAD["a class that does not exist"]
    distiller = make_distiller()
    with pytest.raises(InputError, match=message):
        distiller.evaluate(Batches(with_third(change)), verbose=0)
    with pytest.raises(InputError, match=message):
        distiller.fit(IMAGES, LABELS, validation_data=Batches(with_third(change)), verbose=0)


def test_several_steps_per_execution_check_each_batch_too():
    change, message = BAD["half a class"]
    distiller = make_distiller()
    distiller.compile("sgd", steps_per_execution=3)
    distiller.fit(IMAGES, LABELS, verbose=0)  # so that a call of several steps is one graph
    with pytest.raises(InputError, match=message):
        distiller.fit((batch for batch in with_third(change)), steps_per_epoch=3, verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_no_images_are_refused(method):
    with pytest.raises(InputError, match=r"There are no images.*x.shape=\(0, 6, 6, 2\)"):
        getattr(make_distiller(), method)(IMAGES[:0], LABELS[:0], verbose=0)


def test_images_that_are_not_finite_are_named_and_not_the_teacher():
    with pytest.raises(InputError, match=r"The images are not finite.*in 1 pixel of the first 8 images"):
        make_distiller().fit(np.where(IMAGES.max() == IMAGES, np.nan, IMAGES), LABELS, verbose=0)
