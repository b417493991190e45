"""What predict takes from a model: its kind of outputs, its classes' names; and a folder that it cannot list."""

import csv
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf.errors import InputError
from skd_tf.evaluation import image_files
from skd_tf.evaluation import predict_images as predict_images_module
from skd_tf.evaluation.predict_images import predict_images
from skd_tf.runs import class_names
from tests.helpers.images import random_image, write_image


@pytest.fixture
def pictures(tmp_path):
    for i in range(3):
        write_image(tmp_path / "pictures" / f"{i}.png", random_image(i, 4, 4))
    return tmp_path / "pictures"


def answers(model, pictures):
    """(rows of the CSV file, their probabilities) for a model of three classes."""
    place = pictures.with_name("net.keras")
    model.save(place)
    predict_images(place, pictures, place.with_name("answers.csv"))
    with open(place.with_name("answers.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, np.array([[float(row[f"p_{i}"] or "nan") for i in range(3)] for row in rows])


def net(classes=3, activation=None):
    keras.utils.set_random_seed(0)
    layers = [keras.Input([4, 4, 3]), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(classes, activation=activation)])


@pytest.mark.parametrize(
    ("classes", "activation", "words"),
    [
        (1, "sigmoid", "ends in an activation.*sigmoid"),
        (5, "sigmoid", "ends in an activation.*sigmoid"),
        (1, None, "does not tell classes apart.*1 output from"),
    ],
)
def test_a_model_whose_outputs_are_no_classes_is_one_line_and_nothing_is_written(pictures, classes, activation, words):
    with pytest.raises(InputError, match=words) as caught:
        answers(net(classes, activation), pictures)
    assert "\n" not in str(caught.value) and not pictures.with_name("answers.csv").exists()


@pytest.mark.parametrize(
    "end",
    [
        "in Dense",
        pytest.param(keras.layers.Softmax, marks=pytest.mark.slow),
        pytest.param(lambda: keras.layers.Activation("softmax"), marks=pytest.mark.slow),
        lambda: keras.ops.softmax,
    ],
)
def test_a_softmax_in_the_model_changes_no_probability(pictures, end):
    images = np.stack([random_image(i, 4, 4) for i in range(3)]).astype("float32")
    model, pixels = net(activation="softmax"), keras.Input([4, 4, 3])
    expected = model(images)
    if end != "in Dense":
        model = keras.Model(pixels, end()(net()(pixels)))
    np.testing.assert_allclose(answers(model, pictures)[1], expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_an_output_that_is_not_finite_changes_no_other(pictures, monkeypatch, batch_size):
    """Also if a whole batch is not finite."""
    monkeypatch.setattr(predict_images_module, "BATCH_SIZE", batch_size)
    pixels = keras.Input([4, 4, 3])
    brightest = keras.ops.max(pixels, axis=(1, 2, 3))[:, None]
    model = keras.Model(pixels, keras.ops.softmax(net()(pixels)) * (brightest / brightest))
    expected = model(np.stack([random_image(i, 4, 4) for i in range(3)]).astype("float32"))
    write_image(pictures / "0.png", np.zeros([4, 4, 3], np.uint8))  # 0 / 0
    rows, found = answers(model, pictures)
    assert [row["problem"] for row in rows] == ["the output is not finite", "", ""]
    np.testing.assert_allclose(found[1:], expected[1:], atol=1e-5)


def test_a_model_without_any_finite_output_is_to_blame_and_not_the_pictures(pictures):
    (pictures / "0.png").write_bytes(b"")
    model = keras.Sequential([net(), keras.layers.Rescaling(float("nan"))])
    with pytest.raises(InputError, match=r"The model gives no image a probability.*for 1\.png.*Train it again"):
        answers(model, pictures)


def test_a_saved_model_of_batches_of_one_size(pictures):
    model, place = net(), pictures.with_name("served")
    module = tf.Module()
    module.variables_of_model = [variable.value for variable in model.variables]
    images = tf.TensorSpec([2, 4, 4, 3], name="images")
    served = tf.function(lambda images: {"logits": model(images)}, input_signature=[images])
    tf.saved_model.save(module, str(place), signatures=served)
    assert predict_images(place, pictures, pictures.with_name("answers.csv")) == []
    with open(pictures.with_name("answers.csv"), newline="") as file:
        found = [[float(row[f"p_{i}"]) for i in range(3)] for row in csv.DictReader(file)]
    expected = tf.nn.softmax(model(np.stack([random_image(i, 4, 4) for i in range(3)]).astype("float32")))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_subfolder_that_cannot_be_listed_is_named(pictures, monkeypatch):
    write_image(pictures / "more" / "locked" / "1.png", random_image(1, 4, 4))
    scandir = os.scandir

    def refuse(place):
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\).*locked") as caught:
        image_files.find(pictures)
    assert "\n" not in str(caught.value)


class Served(tf.Module):
    """A model of three classes with several variables, and the names of its classes or none."""

    def __init__(self, names, variables):
        self.each = [tf.Variable(float(i), name=f"weight_{i}") for i in range(variables)]
        self.names = names

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def __call__(self, images):
        outputs = {"logits": images * tf.add_n(self.each)}
        return outputs | ({"names": tf.constant(self.names)} if self.names else {})


@pytest.mark.parametrize("names", [[], ["cat", "dog", "eel"]])
def test_the_names_of_variables_are_no_names_of_classes(tmp_path, names):
    """Saving and restoring are functions of a SavedModel, with a list of names: two variables and their graph."""
    model = Served(names, variables=2)
    tf.saved_model.save(model, str(tmp_path / "served"), signatures=model.__call__)
    assert class_names._in_saved_model(tmp_path / "served", 3) == names
