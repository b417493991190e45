"""Sample weights: a list trains as an array does, and wrong weights are refused in one line, before any step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation import sample_weights
from skd_tf.errors import InputError
from tests.helpers.nets import CLASSES, batches, distance, make_distiller, weights_of

IMAGES, LABELS = batches(1, size=16)[0]
WEIGHTS = np.linspace(0.0, 3.0, 16)
FIT = {"batch_size": 8, "verbose": 0}


def untrained():
    return make_distiller(optimizer=lambda: keras.optimizers.SGD(0.01))


def wrong(value):
    """The weights, of which the fourth is wrong."""
    return np.where(np.arange(16) == 3, value, WEIGHTS)


@pytest.fixture(scope="module")
def distiller():
    """One that must not train."""
    return untrained()


def test_a_list_of_weights_trains_and_evaluates_as_their_array():
    results = []
    for weights in (WEIGHTS, WEIGHTS.tolist()):
        made = untrained()
        made.fit(IMAGES, LABELS, sample_weight=weights, shuffle=False, **FIT)
        measured = made.evaluate(IMAGES, LABELS, 8, 0, weights)  # positions as in Keras
        results.append((weights_of(made.student), measured))
    assert distance(results[0][0], results[1][0]) == 0
    assert results[0][1] == results[1][1]


REFUSED = {
    "negative": (wrong(-0.5), r"out of range.*sample_weight\[3\]=-0.5 \(1 such weight\)"),
    "not finite": (wrong(np.nan), r"out of range.*sample_weight\[3\]=nan"),
    "text": (np.full(16, "a"), "not numbers.*dtype=str32"),
    "a dict": ({"logits": WEIGHTS}, "not numbers.*a dict of logits"),
    "lists of two lengths": ([[1.0], [1.0, 2.0]], "not numbers"),
    "too few": (WEIGHTS[:5], r"one sample weight for each image.*\[16\].*\(5,\)"),
    "one per class": (np.ones([16, CLASSES]), "one sample weight for each image.*class_weight"),
    "one": (2.0, r"one sample weight for each image.*shape=\(\)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_weights_that_are_refused(distiller, kind):
    weights, message = REFUSED[kind]
    before = weights_of(distiller.student)
    calls = [
        lambda: distiller.fit(IMAGES, LABELS, sample_weight=weights, **FIT),
        lambda: distiller.evaluate(IMAGES, LABELS, sample_weight=weights, **FIT),
        lambda: distiller.train_on_batch(IMAGES, LABELS, sample_weight=weights),
        lambda: distiller.test_on_batch(IMAGES, LABELS, sample_weight=weights),
    ]
    for call in calls:
        with pytest.raises(InputError, match=message):
            call()
    of_validation = message.replace(r"sample_weight\[", r"validation_data\[2\]\[")
    with pytest.raises(InputError, match=of_validation):
        distiller.fit(IMAGES, LABELS, validation_data=(IMAGES, LABELS, weights), **FIT)
    assert distance(weights_of(distiller.student), before) == 0


@pytest.mark.parametrize("value", [-0.5, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_a_weight_out_of_range_in_a_later_batch_of_tf_data(value):
    weights = np.where(np.arange(16) == 13, value, WEIGHTS)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, weights)).batch(8)
    made, message = untrained(), f"A sample weight is out of range.*sample_weight={value:g}"
    with pytest.raises(InputError, match=message):
        made.fit(data, verbose=0)
    with pytest.raises(InputError, match=message):
        made.fit(IMAGES, LABELS, validation_data=data, **FIT)
    unknown = tf.data.Dataset.from_generator(lambda: iter(data), (tf.float32, tf.int32, tf.float32))  # of no known rank
    with pytest.raises(InputError, match=message):
        made.evaluate(unknown, verbose=0)


def test_absent_weights_in_tf_data_are_none():
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8).map(lambda x, y: (x, y, None))
    untrained().evaluate(data, verbose=0)


@pytest.mark.slow
def test_the_part_of_every_replica_is_checked(two_replicas):
    with two_replicas.scope():
        distiller = untrained()
    batch = IMAGES[:8], LABELS[:8], np.where(np.arange(8) == 6, -1.0, 1.0)
    with pytest.raises(InputError, match=r"sample_weight\[2\]=-1"):  # the second of the second replica
        distiller.fit((batch for _ in range(2)), steps_per_epoch=2, verbose=0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones([16, CLASSES]), "one sample weight for each image"),
        (np.full(16, "a"), "not numbers.*dtype=string"),
        ({"logits": WEIGHTS}, "not numbers.*a dict of logits"),
        ((WEIGHTS, WEIGHTS), "not numbers"),
    ],
    ids=["one per class", "text", "a dict", "a pair"],
)
def test_weights_of_tf_data_are_refused_by_their_form(distiller, weights, message):
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, weights)).batch(8)
    with pytest.raises(InputError, match=message):
        distiller.fit(data, verbose=0)


def test_a_generators_first_batch_is_checked(distiller):
    batch = IMAGES[:8], LABELS[:8], wrong(-1.0)[:8]
    with pytest.raises(InputError, match=r"sample_weight\[3\]=-1"):
        distiller.fit((batch for _ in range(2)), steps_per_epoch=2, verbose=0)


def test_weights_that_are_accepted():
    assert sample_weights.checked(None, 16) is None
    rounded = tf.constant(WEIGHTS, tf.bfloat16)
    for weights in (WEIGHTS, WEIGHTS[:, None], WEIGHTS > 1, rounded, [WEIGHTS], (*WEIGHTS,)):
        assert np.size(sample_weights.checked(weights, 16)) == 16
