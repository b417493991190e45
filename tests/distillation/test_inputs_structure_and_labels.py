"""x and y in other structures, and labels that do not exist: trained alike or refused in one line, before any step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.distillation import labels as label_checks
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from tests.helpers.nets import CLASSES, batches, conv_net, distance, make_distiller, weights_of

IMAGES, LABELS = batches(1, size=16)[0]
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]


def untrained(student=None):
    if student is None:
        return make_distiller(optimizer=lambda: keras.optimizers.SGD(0.01))
    distiller = Distiller(student, conv_net(2), loss="spherical")
    distiller.compile(keras.optimizers.SGD(0.01))
    return distiller


def named_net(name):
    images = keras.Input([6, 6, 2], name=name)
    return keras.Model({name: images}, conv_net(1)(images))


def fit(distiller, *data, **options):
    distiller.fit(*data, batch_size=8, shuffle=False, verbose=0, **options)
    return weights_of(distiller.student)


def dataset(*parts):
    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0]).batch(8)


@pytest.fixture(scope="module")
def refusing():
    """A Distiller for data that it refuses before any step."""
    return untrained()


@pytest.fixture(scope="module")
def expected():
    """The weights after a fit to images and class numbers."""
    return fit(untrained(), IMAGES, LABELS)


ALIKE = {
    "a list": (lambda: ([IMAGES], LABELS), 0),
    "by name": (lambda: ({"image": IMAGES}, LABELS), 0),
    "a column": (lambda: (IMAGES, LABELS[:, None]), 0),
    "bool rows": (lambda: (IMAGES, ONE_HOT.astype(bool)), 1e-6),
    "bool rows of tf.data": (lambda: (dataset(IMAGES, ONE_HOT.astype(bool)),), 1e-6),
    "rows": (lambda: (IMAGES, ONE_HOT), 1e-6),
    "a list of numbers": (lambda: (IMAGES, LABELS.tolist()), 0),
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind not in ("by name", "rows", "a list of numbers")))
        for kind in ALIKE
    ],
)
def test_other_structures_of_the_same_data_train_alike(kind, expected):
    data, most = ALIKE[kind]
    assert distance(expected, fit(untrained(), *data())) <= most


@pytest.mark.slow
def test_inputs_and_logits_by_name_train_alike(expected):
    by_name = untrained(named_net("pixels"))
    by_name.fit({"pixels": IMAGES}, LABELS, batch_size=8, shuffle=False, verbose=0)
    assert distance(expected, weights_of(by_name.student)) < 1e-6
    logits = by_name.predict({"pixels": IMAGES}, verbose=0)
    np.testing.assert_allclose(by_name.deployable()(IMAGES), by_name.probability_logits(logits), atol=1e-5)
    given = {"pixels": IMAGES, "teacher_logits": by_name.teacher(IMAGES).numpy()}
    assert distance(expected, fit(untrained(named_net("pixels")), given, LABELS)) < 1e-5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: ({"image": IMAGES, "label": LABELS},), "The structure of x|no labels"),
        (
            lambda: (dataset({"image": IMAGES, "label": LABELS}),),
            r"no labels.*Received x with the entries image, label.*as_superv",
        ),
        (lambda: (IMAGES,), "no labels.*y=None"),
        (lambda: (dataset(IMAGES),), "no labels.*y=None"),
        (lambda: ([IMAGES, IMAGES], LABELS), "structure of x.*Received x=a list of 2"),
        (
            lambda: ({"img": IMAGES}, LABELS),
            r'Expected the images alone, or {"image": .*one entry is the student.s input',
        ),
        (lambda: ({"teacher_logits": IMAGES}, LABELS), "structure of x.*entries teacher_logits"),
        (lambda: (dataset({"img": IMAGES, "id": LABELS}, LABELS),), "structure of x.*entries img, id"),
        (lambda: (IMAGES, {"a": LABELS, "b": LABELS}), "labels are not one array.*y=a, b"),
        (lambda: (dataset(IMAGES, {"a": LABELS}),), "labels are not one array.*y=a"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_wrong_structures_are_refused_in_one_line(data, message, method, refusing):
    with pytest.raises(InputError, match=message) as caught:
        getattr(refusing, method)(*data(), verbose=0)
    assert len(str(caught.value).splitlines()) == 1


def changed(place, value, y=LABELS):
    y = np.array(y)
    y[place] = value
    return y


BAD_LABELS = {
    "numbered from 1": (LABELS % CLASSES + 1, r"whole numbers from 0 to 4.*=5 .*numbered from 1"),
    "255": (changed(3, 255), r"Received y\[3\]=255 \(1 such labels\).*Use -1"),
    "-2": (changed(9, -2), r"y\[9\]=-2"),
    "fractions": (LABELS + 0.5, r"y\[0\]=.*\.5 \(16 such labels\).*soft labels as rows"),
    "not a number": (changed(2, np.nan, LABELS.astype("float32")), r"y\[2\]=nan"),
    "strings": (LABELS.astype(str), "labels are not numbers"),
    "rows that sum to 3": (3 * ONE_HOT, r"not probabilities.*y\[0\], which sums to 3"),
    "negative rows": (ONE_HOT * 3 - 0.4, r"not probabilities.*minimum -0\.4"),
    "other width": (np.eye(9)[LABELS], r"another shape.*y\.shape=\(16, 9\)"),
    "three axes": (ONE_HOT[:, None], "another shape"),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_labels_that_do_not_exist_are_refused_before_a_step(kind, refusing):
    y, message = BAD_LABELS[kind]
    distiller = refusing
    before = weights_of(distiller.student)
    with pytest.raises(InputError, match=message):
        distiller.fit(IMAGES, y, verbose=0)
    with pytest.raises(InputError, match=message):
        distiller.evaluate(IMAGES, y, verbose=0)
    with pytest.raises(InputError, match="validation_data"):
        distiller.fit(IMAGES, LABELS, validation_data=(IMAGES, y), verbose=0)
    if kind != "strings":  # Keras itself refuses them there
        with pytest.raises(InputError, match=message):
            distiller.train_on_batch(IMAGES, y)
        with pytest.raises(InputError, match=message):
            distiller.fit(((IMAGES, y) for _ in range(2)), steps_per_epoch=2, verbose=0)
    with pytest.raises(InputError):
        distiller.fit(dataset(IMAGES, y).rebatch(16), verbose=0)
    assert np.array_equal(weights_of(distiller.student), before)


def test_a_bad_label_in_a_later_batch_of_tf_data_stops_before_its_step():
    first = untrained()
    fit(first, IMAGES[:8], LABELS[:8])
    distiller = untrained()
    with pytest.raises(InputError, match=r"does not exist.*Expected class numbers from 0 to 4.*y=255 at 5 of a batch"):
        distiller.fit(dataset(IMAGES, changed(13, 255)), verbose=0)
    assert np.isfinite(weights_of(distiller.student)).all()
    assert distance(weights_of(first.student), weights_of(distiller.student)) < 1e-6


def test_good_labels_pass_and_do_not_change_the_data():
    for y in (LABELS, changed(0, -1), ONE_HOT, ONE_HOT * (LABELS > 1)[:, None], ONE_HOT * 0.9 + 0.1 / CLASSES):
        label_checks.check(y, CLASSES)
        data = dataset(IMAGES, y, np.ones(16, "float32"))
        for one, other in zip(data, label_checks.checked(data, CLASSES), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_class_weight_of_a_class_that_does_not_exist_is_refused(refusing):
    for weights, message in (({7: 2.0}, r"class_weight\[7\]=2"), ({"cat": 1.0}, "cat"), ({0: -1.0}, "out of range")):
        with pytest.raises(InputError, match=message):
            refusing.fit(IMAGES, LABELS, class_weight=weights, verbose=0)


def test_one_logit_is_refused():
    with pytest.raises(InputError, match=r"one logit.*Dense\(2\)"):
        Distiller(keras.Sequential([keras.Input([4]), keras.layers.Dense(1)]), None, "cross_entropy")


def test_given_teacher_logits_are_checked(refusing):
    logits = refusing.teacher(IMAGES).numpy()
    for given, message in (
        (keras.ops.softmax(logits).numpy(), "are probabilities"),
        (logits[:, :3], "another shape"),
        (np.where(logits == logits.max(), -np.inf, logits), r"not finite.*Received teacher_logits=-inf.*maximum"),
    ):
        with pytest.raises(InputError, match=message):
            refusing.fit({"image": IMAGES, "teacher_logits": given}, LABELS, verbose=0)


def test_text_labels_of_a_generator_are_one_line():
    images, labels = np.zeros([8, 6, 6, 2], "float32"), np.array(["cat", "dog"] * 4)
    for text in (labels, labels.astype(object)):
        with pytest.raises(InputError, match=r"hold text.*np\.unique"):
            make_distiller().fit(((images, given) for given in [text]), verbose=0)
