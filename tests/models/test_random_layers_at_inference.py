"""Augmentation layers inside a student: every export gives the logits of `predict`, in every call."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import skd_tf
from skd_tf.models import deployable
from skd_tf.serving.parity_check import ExportError

L = keras.layers
IMAGES = np.random.default_rng(0).integers(0, 256, [16, 8, 8, 1]).astype("float32")


@keras.saving.register_keras_serializable("test_at_inference")
class Augment(L.Layer):
    """A layer whose own call has no `training`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.flip = L.RandomFlip()

    def call(self, inputs):
        return self.flip(inputs)


@keras.saving.register_keras_serializable("test_at_inference")
class AlwaysNoisy(L.Layer):
    """Random in inference too."""

    def call(self, inputs):
        return inputs + tf.random.uniform([1], 0.0, 100.0)


LAYERS = {
    "flip": lambda: [L.RandomFlip()],
    "brightness": lambda: [L.RandomBrightness(0.5)],
    "crop": lambda: [L.RandomCrop(8, 8)],
    "nested": lambda: [keras.Sequential([L.RandomFlip(), L.GaussianNoise(0.9)])],
    "inside a layer": lambda: [Augment()],
    "dropout": lambda: [L.Dropout(0.5)],
}


def net(front, *, sequential=False):
    keras.utils.set_random_seed(0)
    layers = [*front, L.Rescaling(1 / 255), L.Flatten(), L.Dense(5)]
    if sequential:
        return keras.Sequential([keras.Input([8, 8, 1]), *layers])
    outputs = inputs = keras.Input([8, 8, 1])
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def distiller_of(front, loss="kd", **options):
    distiller = skd_tf.Distiller(net(front, **options), net([]), loss=loss)
    distiller.compile("sgd")
    return distiller


@pytest.mark.parametrize("sequential", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in ("flip", "inside a layer"))) for kind in LAYERS]
)
def test_a_deployable_gives_the_logits_of_predict_in_every_call(kind, sequential, tmp_path):
    distiller = distiller_of(LAYERS[kind](), sequential=sequential)
    expected, model = distiller.predict(IMAGES, verbose=0), distiller.deployable()
    calls = [model(IMAGES), model(IMAGES), model.predict(IMAGES, verbose=0)]
    model.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    calls += [loaded(IMAGES), deployable.with_temperature(model, 1.0)(IMAGES)]
    for logits in calls:
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_an_exported_student_gives_the_logits_of_predict(tmp_path):
    distiller = distiller_of(LAYERS["flip"]())
    distiller.export(tmp_path / "served", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    for _ in range(2):
        np.testing.assert_allclose(loaded.serve(IMAGES), distiller.predict(IMAGES, verbose=0), atol=1e-5)


def test_training_still_augments():
    model = distiller_of([L.RandomFlip()]).deployable()
    assert np.abs(model(IMAGES, training=True) - model(IMAGES)).max() > 0.1


def test_files_that_augment_by_default_are_corrected_when_they_are_exported():
    """As earlier versions wrote them: the student without training=False below the sphere."""
    student = net([L.RandomFlip()])
    images = keras.Input([8, 8, 1])
    logits = L.Rescaling(3.0, name="sphere_radius")(L.UnitNormalization(name="sphere_unit")(student(images)))
    before = keras.Model(images, logits)
    assert np.abs(before(IMAGES) - before(IMAGES)).max() > 0.1
    after = deployable.at_inference(before)
    np.testing.assert_allclose(after(IMAGES), before.predict(IMAGES, verbose=0), atol=1e-5)
    assert deployable.without_sphere(after) is not None
    plain = net([L.Dropout(0.5)])
    assert deployable.at_inference(plain) is plain


def test_a_student_that_is_random_in_inference_is_not_exported(tmp_path):
    distiller = distiller_of([AlwaysNoisy()])
    with pytest.raises(ExportError, match="The student gives the same images other logits in a second call"):
        distiller.export(tmp_path / "served", verbose=False)
    assert not (tmp_path / "served").exists()


@pytest.mark.parametrize("loss", ["kd", "spherical"])
def test_an_export_is_compared_with_the_live_student(loss, tmp_path, monkeypatch):
    distiller = distiller_of([], loss)
    distiller.export(tmp_path / "served", verbose=False, images=IMAGES[:3])
    wrong = distiller.deployable()
    wrong.layers[1].layers[-1].bias.assign_add([1.0, 0, 0, 0, 0])
    monkeypatch.setattr(distiller, "deployable", lambda: wrong)
    with pytest.raises(ExportError, match=r"deployable\(\) differs from the live student: by"):
        distiller.export(tmp_path / "other", verbose=False)
