"""Mistakes of a Keras programmer that once trained silently on something else: refused, warned of, or right."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import skd_tf
from skd_tf.errors import InputError
from skd_tf.models import heads

RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.uniform(0, 1, [16, 4, 4, 2]).astype("float32"), RANDOM.integers(0, 5, 16)


def net(activation=None, *, has_input=True, classes=5):
    start = [keras.Input([4, 4, 2])] if has_input else []
    return keras.Sequential([*start, layers.Flatten(), layers.Dense(classes, activation=activation, name="logits")])


def compiled(*arguments, optimizer="sgd", **options):
    distiller = skd_tf.Distiller(*arguments, **options)
    distiller.compile(optimizer)
    return distiller


def fit(distiller, images=IMAGES, labels=LABELS):
    return distiller.fit(images, labels, batch_size=8, verbose=0)


class Softmax(layers.Layer):
    """A softmax whose name does not say so."""

    def call(self, logits):
        return tf.nn.softmax(logits)


class Scores(keras.Model):
    """A subclassed network that ends in a sigmoid."""

    def __init__(self):
        super().__init__()
        self.inner = net("sigmoid")

    def call(self, images):
        return self.inner(images)


def test_a_student_that_returns_probabilities_is_found_once_it_is_built():
    image = keras.Input([4, 4, 2])
    own = keras.Model(image, Softmax()(net()(image)))
    for student in (net("softmax", has_input=False), net("sigmoid", has_input=False), own):
        with pytest.raises(InputError, match=r"activation=s|returns probabilities"):
            fit(compiled(student, net()))
    with pytest.warns(UserWarning, match=r"outputs of the student are in \[0, 1\]"):
        fit(compiled(Scores(), net()))
    fit(compiled(net(has_input=False), net()))


def test_softmaxes_are_known_in_every_spelling():
    spellings = "softmax", tf.nn.softmax, layers.Softmax(), layers.Activation("softmax"), keras.ops.softmax
    for spelling in spellings:
        with pytest.warns(UserWarning, match="softmax"):
            skd_tf.Distiller(net(), net(spelling))
        with pytest.raises(InputError, match=r"activation=softmax.*without_softmax"):
            skd_tf.Distiller(net(spelling), net())
        raw, found = heads.without_softmax(net(spelling))
        assert found and heads.last_activation(raw) == "linear"
    skd_tf.Distiller(net(tf.nn.log_softmax), net())  # these are logits too
    image = keras.Input([4, 4, 2])
    with pytest.raises(InputError, match="the tensor before the softmax"):
        skd_tf.Distiller(keras.Model(image, keras.ops.softmax(net()(image))), net())


def test_standardized_logits_of_two_classes_are_refused():
    with pytest.raises(InputError, match="Two standardized logits"):
        skd_tf.Distiller(net(classes=2), net(classes=2), "logit_standardization")
    lazy = compiled(net(classes=2, has_input=False), net(classes=2), "logit_standardization")
    with pytest.raises(InputError, match="Two standardized logits"):
        fit(lazy, labels=LABELS % 2)


def test_the_student_cannot_be_exchanged():
    distiller = compiled(net(), net())
    with pytest.raises(InputError, match="The student cannot change in a Distiller"):
        distiller.student = net()
    distiller.student = distiller.student


def test_schedules_count_batches_also_if_gradients_are_accumulated():
    table = skd_tf.schedules.Table(np.arange(100) / 100)
    distiller = skd_tf.Distiller(net(), net(), kd_weight=0.0)
    optimizer = keras.optimizers.SGD(skd_tf.schedules.Table(np.arange(100) / 100 + 1), gradient_accumulation_steps=4)
    distiller.compile(optimizer, schedules={"kd_weight": table})
    for batch in range(6):
        distiller.train_on_batch(IMAGES[:4], LABELS[:4])
        assert float(distiller.kd_weight.numpy()) == pytest.approx(batch / 100)


def test_what_is_exported_takes_the_student_s_dtype(tmp_path):
    pixels = keras.Input([4, 4, 2], dtype="uint8")
    distiller = compiled(keras.Model(pixels, net()(layers.Rescaling(1 / 255)(pixels))), net())
    images = (255 * IMAGES).astype("uint8")
    fit(distiller, images)
    distiller.export(tmp_path / "served", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(loaded.serve(tf.constant(images)), distiller.predict(images, verbose=0), atol=1e-5)


@pytest.mark.parametrize("center", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_on_the_sphere_a_deployed_student_returns_float32_under_any_policy(center):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        logits = compiled(net(), net(), "spherical", center=center).deployable()(IMAGES)
    finally:
        keras.config.set_dtype_policy("float32")
    assert logits.dtype == "float32"
    np.testing.assert_allclose(np.linalg.norm(logits, axis=1), 2 * np.sqrt(5), rtol=1e-5)


def test_a_student_that_cannot_be_rebuilt_says_how_to_export_it(tmp_path):
    image = keras.Input([4, 4, 2])
    distiller = compiled(keras.Model(image, net()(layers.Lambda(lambda x: x / 255)(image))), net())
    with pytest.raises(InputError, match=r"no Lambda.*distiller\.student\.export"):
        distiller.export(tmp_path / "served")


def test_a_measured_radius_is_that_of_the_teacher():
    teachers = net(), net()
    distiller = compiled(net(), teachers[0], "spherical", radius="teacher_mean")
    fit(distiller)
    first = float(distiller.radius.numpy())
    teachers[1].set_weights([9 * weight for weight in teachers[0].get_weights()])
    distiller.teacher = teachers[1]
    with pytest.raises(InputError, match="adapt"):
        distiller.train_on_batch(IMAGES, LABELS)
    fit(distiller)
    assert float(distiller.radius.numpy()) == pytest.approx(9 * first, rel=1e-5)


def test_an_optimizer_may_know_weights_that_are_frozen_now():
    student = keras.Sequential([keras.Input([4, 4, 2]), layers.Flatten(), *(layers.Dense(5, name=n) for n in "abc")])
    distiller, optimizer = skd_tf.Distiller(student, net()), keras.optimizers.SGD(0.1)
    distiller.compile(optimizer)
    fit(distiller)
    student.get_layer("a").trainable = False
    distiller.compile(optimizer, layer_rates={"^c": 0.0})
    before = {layer.name: layer.get_weights() for layer in student.layers}
    fit(distiller)
    for name, changes in (("a", False), ("b", True), ("c", False)):
        assert (before[name][0] != student.get_layer(name).get_weights()[0]).any() == changes


def test_settings_of_a_loss_have_a_range_and_weights_are_those_of_several_teachers():
    for loss, name in (("rld", "confidence_temperature"), ("wttm", "exponent")):
        with pytest.raises(InputError, match=f"{name}.*> 0"):
            skd_tf.Distiller(net(), net(), loss, loss_settings={name: 0})
    with pytest.raises(InputError, match=r"beta.*>= 0"):
        skd_tf.Distiller(net(), net(), "dkd", loss_settings={"beta": -1})
    distiller = compiled(net(), teacher_weights=[2, 1])
    with pytest.raises(InputError, match="teacher_weights"):
        fit(distiller, {"image": IMAGES, "teacher_logits": RANDOM.normal(size=(16, 5)).astype("float32")})


def ranks(student_logits, teacher_logits, labels):
    """A loss whose distill term counts classes, and so has no gradient."""
    differ = tf.argmax(student_logits, -1) != tf.argmax(teacher_logits, -1)
    return {
        "label": skd_tf.losses.cross_entropy(student_logits, None, labels)["label"],
        "distill": tf.cast(differ, tf.int32),
    }


class OwnLoss(skd_tf.Distiller):
    """A subclass as for a plain Keras model."""

    def compute_loss(self, *arguments, **options):
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (
            lambda: skd_tf.Distiller(net(), net(), loss=keras.losses.KLDivergence()),
            "A loss of Keras.*loss=KLDivergence",
        ),
        (lambda: skd_tf.Distiller(net(), net(), loss=keras.losses.KLDivergence), "A loss of Keras.*loss=KLDivergence"),
        (lambda: skd_tf.Distiller(net(), net(), loss="my_module:ranks"), "Pass the function itself"),
        (lambda: fit(compiled(net(), net(), loss=ranks)), "has no gradient.*dtype=int32"),
        (lambda: OwnLoss(net(), net()).compile("sgd"), "does not call compute_loss"),
        (lambda: compiled(net(), net()).save("distiller.h5"), r"cannot be loaded again.*'distiller.h5'"),
        (lambda: fit(compiled(net(), net()), list(IMAGES)), r"The images are a list.*np.stack"),
    ],
)
def test_what_would_be_ignored_or_fail_later_is_refused_at_once(mistake, words):
    with pytest.raises(InputError, match=words):
        mistake()


def test_images_may_be_given_under_the_name_that_the_summary_shows():
    image = keras.Input([4, 4, 2])
    student = keras.Model(image, layers.Dense(5)(layers.Flatten()(image)))
    distiller = compiled(student, net())
    named = distiller.evaluate({student.layers[0].name: IMAGES}, LABELS, verbose=0)
    assert named == pytest.approx(distiller.evaluate(IMAGES, LABELS, verbose=0))
    with pytest.raises(InputError, match=student.layers[0].name):
        distiller.evaluate({"pictures": IMAGES}, LABELS, verbose=0)
