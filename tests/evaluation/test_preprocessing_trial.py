"""A model that answers better with another preprocessing: teachers before they teach, and models that are measured."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.evaluation import metrics
from skd_tf.evaluation.evaluate_models import evaluate_models
from skd_tf.evaluation.preprocessing_trial import better_preprocessing
from skd_tf.training.teacher_check import open_teacher

SCALES = {"raw": (1.0, 0.0), "unit": (1 / 255, 0.0), "tf": (1 / 127.5, -1.0)}


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings(validation_fraction=0.3))


def linear(digits, kind, *, inside=False, unlearned=False):
    """A linear classifier, fitted by least squares to pixels that are scaled in one way, by itself or not."""
    scale, offset = SCALES[kind]
    images = digits.train.images.reshape(len(digits.train), -1).astype(np.float64)
    inputs = np.concatenate([images * scale + offset, np.ones([len(images), 1])], axis=1)
    ridge = 1e-3 * np.trace(inputs.T @ inputs) / inputs.shape[1] * np.eye(inputs.shape[1])
    weights = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ (8 * np.eye(10)[digits.train.labels]))
    dense = keras.layers.Dense(10)
    scaling = [keras.layers.Rescaling(scale, offset)] if inside else []
    net = keras.Sequential([keras.Input((8, 8, 1)), *scaling, keras.layers.Flatten(), dense])
    dense.set_weights([weights[:-1] * (not unlearned), weights[-1] * (not unlearned)])
    return net


def found_for(net, given, digits):
    scale, offset = SCALES[given]
    logits = net(digits.validation.images * np.float32(scale) + np.float32(offset)).numpy()
    return better_preprocessing(lambda: net, given, digits, digits.validation, logits), logits


@pytest.mark.parametrize("kind", ["unit", "tf"])
def test_raw_pixels_for_a_model_of_scaled_ones_are_found_out(kind, digits):
    net = linear(digits, kind)
    better, logits = found_for(net, "raw", digits)
    assert better.kind == kind and better.given == "raw" and better.images == 256
    labels = digits.validation.labels
    assert better.accuracy_given == pytest.approx((logits.argmax(-1) == labels).mean(), abs=0.02)
    scale, offset = SCALES[kind]
    expected = net(digits.validation.images * np.float32(scale) + np.float32(offset)).numpy()
    assert better.accuracy == pytest.approx((expected.argmax(-1) == labels).mean(), abs=0.02) and better.accuracy > 0.8
    assert metrics.quality(expected, labels)["nll"] < np.log(10) < metrics.quality(logits, labels)["nll"]


def test_pixels_that_are_scaled_twice_are_found_out(digits):
    better, _ = found_for(linear(digits, "tf", inside=True), "tf", digits)
    assert better.kind == "raw" and better.given == "tf" and better.accuracy > 0.8 > better.accuracy_given
    assert re.fullmatch(r"with raw, 9\d\.\d% of \d+ images are classified correctly, with tf \d+\.\d%", better.evidence)


def test_a_model_that_is_given_what_it_needs_is_not_tried(digits):
    def never():
        raise AssertionError("the model is opened")

    for kind in SCALES:
        net = linear(digits, kind)
        _, logits = found_for(net, kind, digits)
        assert better_preprocessing(never, kind, digits, digits.validation, logits) is None
    unlabelled = data.Split(digits.validation.images, np.full(len(digits.validation), -1), digits.validation.index)
    assert better_preprocessing(never, "auto", digits, unlabelled, 100 * logits) is None
    assert found_for(linear(digits, "raw", inside=True, unlearned=True), "raw", digits)[0] is None


def test_a_teacher_says_which_preprocessing_it_needs(digits, tmp_path, capsys):
    linear(digits, "unit").save(tmp_path / "teacher.keras")

    def opened(given, weights=1.0):
        config = Config(teacher_checkpoint=str(tmp_path / "teacher.keras"), teacher_preprocessing=given)
        return open_teacher(tmp_path / "teacher.keras", config, digits, tf.distribute.get_strategy())

    opened("unit")
    assert "answers better" not in capsys.readouterr().err
    opened("auto")
    said = capsys.readouterr().err
    assert re.search(r"teacher\.keras answers better with --teacher_preprocessing=unit: with unit, 9\d", said)
    net = linear(digits, "tf", inside=True)
    net.layers[-1].bias.assign([1e4] + [0] * 9)  # with pixels from -1 to 1 scaled again, always class 0
    net.save(tmp_path / "teacher.keras")
    with pytest.raises(
        InputError, match=r"chance level.*classes have the same numbers.*as --teacher_preprocessing=tf scales"
    ):
        opened("tf")


def test_evaluate_says_which_preprocessing_a_model_needs(digits, tmp_path, capsys):
    linear(digits, "unit").save(tmp_path / "unit.keras")
    path = tmp_path / "unit.keras"
    options = {"timing": False, "bootstrap_samples": 0}
    evaluate_models(path, digits, teacher=path, **options)
    said = capsys.readouterr().err
    assert "answers better with --preprocessing=unit: with unit" in said
    assert "answers better with --teacher_preprocessing=unit: with unit" in said
    evaluate_models(path, digits, teacher=path, preprocessing="unit", teacher_preprocessing="unit", **options)
    assert "answers better" not in capsys.readouterr().err


def test_pixels_near_zero_are_no_remedy_where_one_class_is_common(digits):
    """They make any network answer the most common class, which has a low NLL if nearly all images have that class."""
    labels = np.where(np.arange(len(digits.validation)) % 10 == 0, digits.validation.labels, 3)
    common = data.Split(digits.validation.images, labels, digits.validation.index)
    net = linear(digits, "raw")
    kernel, _ = net.layers[-1].get_weights()
    net.layers[-1].set_weights([9 * kernel, 4.0 * np.eye(10)[3]])  # confident, and wrong on most of these labels
    logits = net(common.images.astype(np.float32)).numpy()
    constant = net(common.images / np.float32(255 * 100)).numpy()
    assert metrics.quality(constant, labels)["nll"] < np.log(10) < metrics.quality(logits, labels)["nll"]
    assert better_preprocessing(lambda: net, "raw", digits, common, logits) is None
