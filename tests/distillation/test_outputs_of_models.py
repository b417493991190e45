"""What a student or teacher returns: raw logits in any clear form train alike; everything else is refused in one line."""

import warnings

import keras
import numpy as np
import pytest

from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.models import heads, interface
from tests.helpers.nets import CLASSES, batches, conv_net, distance, weights_of

L = keras.layers
IMAGES, LABELS = batches(1, size=16)[0]


def net(kind="plain", seed=1, activation=None):
    """The same network with its logits returned in different ways."""
    base = conv_net(seed)
    if kind == "softmax inside":
        base.layers[-1].activation = keras.activations.softmax
        return base
    images = keras.Input([6, 6, 2])
    z = base(images)
    features = L.Flatten()(images)
    outputs = {
        "plain": lambda: z,
        "one entry": lambda: {"scores": z},
        "logits": lambda: {"features": features, "logits": z},
        "list of one": lambda: [z],
        "spatial": lambda: L.Reshape([1, 1, CLASSES])(z),
        "softmax layer": lambda: L.Softmax()(z),
        "softmax op": lambda: keras.ops.softmax(z),
        "activation": lambda: L.Activation(activation)(z),
        "two entries": lambda: {"a": z, "b": z},
        "list": lambda: [z, features],
        "map": lambda: L.Reshape([5, 1, 1])(z),
        "op": lambda: keras.ops.hard_sigmoid(z),
        "relu": lambda: L.Dropout(0.5)(L.ReLU()(z)),
    }[kind]()
    return keras.Model(images, outputs)


class Opaque(keras.Model):
    """A subclassed model, which shows nothing before it is called."""

    def __init__(self, inner, probabilities=False):
        super().__init__()
        self.inner, self.probabilities = inner, probabilities

    def call(self, images, training=False):
        logits = self.inner(images, training=training)
        return keras.ops.softmax(logits) if self.probabilities else {"logits": logits}


def fitted(student, teacher, **settings):
    distiller = Distiller(student, teacher, **settings)
    distiller.compile(keras.optimizers.SGD(0.05))
    distiller.fit(IMAGES, LABELS, batch_size=8, shuffle=False, verbose=0)
    return distiller


@pytest.fixture(scope="module")
def expected():
    return weights_of(fitted(net(), net(seed=2)).student)


@pytest.mark.filterwarnings("ignore:The student's output")
@pytest.mark.parametrize(
    "kind",
    ["one entry", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("logits", "list of one", "spatial"))],
)
def test_clear_outputs_train_and_export_as_plain_ones(kind, expected, tmp_path):
    distiller = fitted(net(kind), net(kind, seed=2))
    assert distance(expected, weights_of(distiller.student)) < 1e-6
    logits = distiller.predict(IMAGES, verbose=0)
    assert logits.shape == (16, CLASSES)
    wanted = distiller.probability_logits(logits)
    np.testing.assert_allclose(distiller.deployable()(IMAGES), wanted, atol=1e-5)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(loaded.predict(IMAGES, verbose=0), logits, atol=1e-6)
    plain = interface.with_logits(distiller.student, "student")
    np.testing.assert_allclose(plain(IMAGES), logits, atol=1e-5)


def test_a_spatial_output_is_taken_with_a_word():
    with pytest.warns(UserWarning, match=r"\(None, 1, 1, 5\) is treated as logits \[batch, 5\]"):
        Distiller(net("spatial"), None, "cross_entropy")


def test_a_saved_model_in_a_tfsm_layer_is_a_teacher(expected, tmp_path):
    net(seed=2).export(tmp_path / "teacher", verbose=False)
    teacher = L.TFSMLayer(str(tmp_path / "teacher"), call_endpoint="serving_default")
    assert distance(expected, weights_of(fitted(net(), teacher).student)) < 1e-5
    assert distance(expected, weights_of(fitted(net(), Opaque(net(seed=2))).student)) < 1e-6


@pytest.mark.parametrize("radius", ["auto", pytest.param("teacher_mean", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind",
    [
        "softmax layer",
        "opaque",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("softmax op", "softmax inside")),
    ],
)
def test_a_softmax_of_the_teacher_is_undone_with_a_warning(kind, radius):
    with_logits = weights_of(fitted(net(), net(seed=2), radius=radius).student)
    teacher = Opaque(net(seed=2), probabilities=True) if kind == "opaque" else net(kind, seed=2)
    with pytest.warns(UserWarning, match="The teacher returns probabilities"):
        distiller = fitted(net(), teacher, radius=radius)
    assert distance(with_logits, weights_of(distiller.student)) < 1e-5
    assert distiller.teacher is teacher


@pytest.mark.parametrize("kind", ["softmax layer", "softmax op", "softmax inside"])
def test_a_softmax_of_the_student_is_refused(kind):
    remedy = "the tensor before the softmax" if kind == "softmax op" else "classifier_activation=None"
    with pytest.raises(InputError, match=rf"student ends in an activation.*activation=softmax.*{remedy}"):
        Distiller(net(kind), net())


def test_a_softmax_in_a_subclassed_student_is_refused():
    student = Opaque(net(), probabilities=True)
    before = weights_of(student.inner)
    with pytest.raises(InputError, match="student returns probabilities"):
        fitted(student, net(), loss="kd")
    assert np.array_equal(weights_of(student.inner), before)


BAD_OUTPUTS = {
    "two entries": "returns several outputs.*Received outputs=a, b",
    "list": "returns several outputs.*a list of 2",
    "map": r"not one row of logits per image.*shape=\(None, 5, 1, 1\)",
    "op": "ends in an activation.*activation=hard_sigmoid",
    "relu": "ends in an activation.*activation=relu",
}


@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_other_outputs_are_refused_for_student_and_teacher(kind):
    for who, models in (("student", (net(kind), net())), ("teacher", (net(), net(kind)))):
        with pytest.raises(InputError, match=f"The {who}.*{BAD_OUTPUTS[kind]}") as caught:
            Distiller(*models)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "softplus", "gelu"])
def test_every_last_activation_but_linear_and_softmax_is_refused(name):
    for who, models in (
        ("student", (net("activation", 1, name), net())),
        ("teacher", (net(), net("activation", 1, name))),
    ):
        with pytest.raises(InputError, match=f"The {who} ends in an activation.*activation={name}"):
            Distiller(*models)


def test_linear_ends_are_seen_as_linear():
    images = keras.Input([6, 6, 2])
    ends = {
        "pooled": L.GlobalAveragePooling2D()(L.Conv2D(CLASSES, 1, activation="relu")(images)),
        "cast": L.Activation("linear", dtype="float32")(L.Dense(CLASSES)(L.Flatten()(images))),
        "log_softmax": L.Dense(CLASSES, activation="log_softmax")(L.Flatten()(images)),
        "added": L.Dense(CLASSES)(L.Flatten()(images)) + 1.0,
    }
    for outputs in ends.values():
        assert not heads.require_raw_logits(keras.Model(images, outputs), "model")


def test_what_is_not_a_model_is_refused():
    cases = [
        ((net(), "big.keras"), r"teacher is not a model.*'big\.keras'.*load_model"),
        ((net(), {"one": net(), "two": net()}), "teacher is not a model.*a dict of 2.*Average"),
        ((net(), [net(), None]), "teacher 2 is not a model.*NoneType"),
        ((net(), [net(), [net(), net()]]), "teacher 2 is not a model.*a list of 2.*Average"),
        ((net(), 3), "teacher is not a model.*int"),
        ((None, net()), "student is not a model"),
        (("student.keras", net()), "student is not a model.*load_model"),
    ]
    for models, message in cases:
        with pytest.raises(InputError, match=message):
            Distiller(*models)
    distiller = Distiller(net())
    with pytest.raises(InputError, match="teacher is not a model"):
        distiller.teacher = "big.keras"


def test_teachers_of_other_classes_and_several_inputs_are_refused():
    other = keras.Sequential([keras.Input([6, 6, 2]), L.Flatten(), L.Dense(7)])
    with pytest.raises(InputError, match=r"different classes.*5 logits.*7 from the teacher"):
        Distiller(net(), other)
    one, two = keras.Input([6, 6, 2], name="one"), keras.Input([6, 6, 2], name="two")
    both = keras.Model([one, two], L.Dense(CLASSES)(L.Flatten()(one + two)))
    with pytest.raises(InputError, match=r"student takes several inputs.*one, two"):
        Distiller(both, net())


def test_a_teacher_that_is_set_later_is_checked_too():
    distiller = Distiller(net())
    distiller.compile(keras.optimizers.SGD(0.05))
    with pytest.warns(UserWarning, match="The teacher returns probabilities"):
        distiller.teacher = net("softmax layer", seed=2)
    distiller.fit(IMAGES, LABELS, verbose=0)
    distiller.teacher = Opaque(net(seed=2))
    distiller.fit(IMAGES, LABELS, verbose=0)


def test_plain_models_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fitted(net(), net(seed=2))


def test_a_global_half_precision_does_not_round_the_images():
    """A student casts where it computes, after its normalisation in float32."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layers = keras.layers.Rescaling(1 / 200, -0.9, dtype="float32"), keras.layers.Flatten(dtype="float32")
        student = keras.Sequential([keras.Input([6, 6, 2]), *layers, keras.layers.Dense(CLASSES, dtype="float32")])
        distiller = Distiller(student)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    images = np.random.default_rng(0).uniform(180, 181, [4, 6, 6, 2]).astype("float32")
    np.testing.assert_allclose(distiller.predict(images, verbose=0), student(images), rtol=1e-4, atol=1e-6)
