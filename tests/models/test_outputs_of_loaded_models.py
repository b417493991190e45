"""Models that the commands load: outputs of other forms, last activations and augmentation inside."""

import json
import re
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.errors import InputError
from skd_tf.models import loading
from skd_tf.models.student import StudentSettings, make_student

L = keras.layers


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


def net(kind="plain"):
    keras.utils.set_random_seed(0)
    images = keras.Input([8, 8, 1], name="pixels")
    z = L.Dense(10)(L.Flatten()(L.Rescaling(1 / 16)(L.RandomFlip()(images) if kind == "flip" else images)))
    outputs = {
        "one entry": lambda: {"scores": z},
        "logits": lambda: {"features": L.Flatten()(images), "logits": z},
        "spatial": lambda: L.Reshape([1, 1, 10], name="reshape")(z),
        "two": lambda: {"a": z, "b": z},
        "sigmoid": lambda: L.Activation("sigmoid")(z),
    }.get(kind, lambda: z)()
    return keras.Model({"pixels": images} if kind == "logits" else images, outputs)


def teacher(path, dataset):
    return loading.load_teacher(path, name="", dataset=dataset, teacher_precision="float32")


@pytest.mark.parametrize("kind", ["one entry", "logits", "spatial"])
def test_clear_outputs_are_taken_with_a_word(kind, digits, tmp_path, capsys):
    images = digits.train.images[:4]
    net(kind).save(tmp_path / "net.keras")
    expected = net()(images)
    keras.utils.clear_session()  # as in a new process, a new layer may be called "reshape" too
    for model in (
        teacher(tmp_path / "net.keras", digits),
        loading.load_measured(tmp_path / "net.keras", digits),
        make_student(StudentSettings(student=str(tmp_path / "net.keras")), digits),
    ):
        np.testing.assert_allclose(model(images), expected, atol=1e-5)
    assert re.search(r"returns .*: its logits \(None, 10\) are used", capsys.readouterr().out)


@pytest.mark.parametrize(("kind", "message"), [("two", "several outputs"), ("sigmoid", "activation=sigmoid")])
def test_other_ends_are_refused_for_teacher_student_and_measurement(kind, message, digits, tmp_path):
    path = tmp_path / "net.keras"
    net(kind).save(path)
    for call in (
        lambda: teacher(path, digits),
        lambda: loading.load_measured(path, digits),
        lambda: make_student(StudentSettings(student=str(path)), digits),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_saved_model_that_augments_is_refused_and_a_spatial_one_is_not(digits, tmp_path):
    images = digits.train.images[:4]
    net("flip").export(tmp_path / "flip", verbose=False)
    with pytest.raises(InputError, match="gives the same images other outputs in a second call"):
        teacher(tmp_path / "flip", digits)
    net("spatial").export(tmp_path / "spatial", verbose=False)
    np.testing.assert_allclose(teacher(tmp_path / "spatial", digits)(images), net()(images), atol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def call(self, images):
        return keras.ops.reshape(images, (-1, 64))[:, :10]


def test_a_model_with_a_call_of_its_own_is_refused_in_one_line(digits, tmp_path):
    path = tmp_path / "own.keras"
    model = Subclassed()
    model(digits.train.images[:2])
    model.save(path)
    for call in (
        lambda: teacher(path, digits),
        lambda: loading.load_measured(path, digits),
        lambda: make_student(StudentSettings(student=str(path)), digits),
    ):
        with pytest.raises(InputError, match=r"shapes of a subclassed model.*the class Subclassed"):
            call()
    path_of_unknown = tmp_path / "unknown.keras"
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(path_of_unknown, "w") as other:
        for name in file.namelist():
            other.writestr(name, file.read(name).replace(b"tests>Subclassed", b"others>Subclassed"))
    words = (
        r"does not load: Keras does not know its class 'Subclassed'\. Expected.*custom_layers=.*model\.export\(FOLDER\)"
    )
    with pytest.raises(InputError, match=words):
        teacher(path_of_unknown, digits)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [([[None, 8, 8, 1], []], r"one input, the images.*the inputs a, b from"), ([None], "fixed number of axes")],
)
def test_a_saved_model_with_other_inputs_is_refused_in_one_line(inputs, words, tmp_path):
    signature = [tf.TensorSpec(shape, tf.float32, name=name) for shape, name in zip(inputs, "ab", strict=False)]
    module = tf.Module()
    module.serve = tf.function(lambda a, b=1.0: {"logits": tf.reshape(a, [-1, 64]) * b}, input_signature=signature)
    tf.saved_model.save(module, tmp_path / "served", signatures=module.serve)
    with pytest.raises(InputError, match=words):
        loading.load(tmp_path / "served")


@pytest.mark.parametrize("batch", [None, 1])
def test_a_saved_model_of_constants_teaches_if_it_takes_any_number_of_images(batch, digits, tmp_path):
    """As a converted ONNX file is: without variables, and often for one image."""
    signature = [tf.TensorSpec([batch, 8, 8, 1], tf.float32)]
    module = tf.Module()
    module.serve = tf.function(lambda x: {"logits": tf.reshape(x, [batch or -1, 64])[:, :10]}, signature)
    tf.saved_model.save(module, tmp_path / "served", signatures=module.serve)
    if batch:
        with pytest.raises(InputError, match=r"cannot compute 8 images at once.*\[1, 8, 8, 1\]"):
            teacher(tmp_path / "served", digits)
    else:
        model = teacher(tmp_path / "served", digits)
        assert model(digits.train.images[:4]).shape == (4, 10) and loading.parameter_count(model) == 0


def test_a_file_that_is_not_complete_is_named(tmp_path):
    net().save(tmp_path / "net.keras")
    (tmp_path / "net.keras").write_bytes((tmp_path / "net.keras").read_bytes()[:-100])
    with pytest.raises(InputError, match="its file is damaged or not complete"):
        loading.load(tmp_path / "net.keras")


def test_a_file_of_a_newer_keras_is_named(tmp_path):
    small = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    small.save(tmp_path / "small.keras")
    with zipfile.ZipFile(tmp_path / "small.keras") as old, zipfile.ZipFile(tmp_path / "new.keras", "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename == "metadata.json":
                content = json.dumps(json.loads(content) | {"keras_version": "3.99.0"}).encode()
            if entry.filename == "config.json":
                content = content.replace(b'"units": 3', b'"units": 3, "of_the_future": 1')
            new.writestr(entry, content)
    with pytest.raises(InputError, match=r"saved by a newer Keras.*Received one of Keras 3\.99\.0"):
        loading.load(tmp_path / "new.keras")
