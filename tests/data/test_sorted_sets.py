"""Datasets sorted by class, as many are on disk: a sample of them must contain every class."""

import dataclasses
import types

import keras
import numpy as np
import pytest

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import loading
from skd_tf.errors import InputError
from skd_tf.serving import formats
from skd_tf.training import teacher_check, train_student

CLASSES = 10


@pytest.fixture
def dataset(digits):
    """1,000 images sorted by class, a hundred of each; every pixel is the label."""
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), 100)
    images = np.tile(labels.astype(np.uint8)[:, None, None, None], [1, 8, 8, 1])
    train = data.Split(images, labels, np.arange(len(labels)))
    return dataclasses.replace(digits, train=train, validation=None)


def shares(images):
    return np.bincount(np.asarray(images).reshape(len(images), -1)[:, 0], minlength=CLASSES) / len(images)


@pytest.mark.parametrize("count", [0, 1, 7, 999, 1000, 1001, 1999, 2000, 60_000, 1_281_167])
def test_rows_are_in_order_distinct_and_evenly_spaced(count):
    rows = data.evenly_spaced(count, 1000)
    assert len(rows) == min(count, 1000) and list(rows[:1]) == [0][:count] and list(rows[-1:]) == [count - 1][:count]
    gaps = np.diff(rows)
    assert (gaps >= 1).all() and (not len(gaps) or np.ptp(gaps) <= 1)


def test_mean_and_std_are_measured_on_all_classes(dataset, monkeypatch):
    monkeypatch.setattr(loading, "_MEASURED", 100)
    (mean,), _ = loading._pixel_statistics(dataset.train.images)
    assert mean == pytest.approx(4.5 / 255, abs=2e-4)


def test_a_radius_is_measured_on_all_classes(dataset, monkeypatch):
    monkeypatch.setattr(train_student, "_ADAPT_EXAMPLES", 100)
    seen, fake = {}, types.SimpleNamespace
    radius = fake(assign=lambda value: None, numpy=lambda: 1.0)
    distiller = fake(objective=fake(needs_radius=True), adapt=seen.update, radius=radius)
    always = fake(logits_of_each=lambda images: images[:, 0, 0].astype(np.float32))
    shared = train_student.SharedResources(dataset, None, always)
    train_student.adapt_radius(distiller, Config(radius="teacher_mean"), shared)
    assert shares(seen["image"]) == pytest.approx([0.1] * CLASSES)
    assert np.array_equal(seen["teacher_logits"].numpy()[:, 0], seen["image"][:, 0, 0, 0])


def test_a_teacher_of_one_class_is_at_chance(dataset, monkeypatch):
    monkeypatch.setattr(teacher_check, "_CHECKED_EXAMPLES", 100)
    scaled = keras.Sequential([keras.Input(dataset.image_shape), keras.layers.Rescaling(1 / 255)])  # no other is tried
    always_first = types.SimpleNamespace(
        facts={"name": "t"},
        preprocessing="auto",
        model=scaled,
        shared_logits=lambda images: np.eye(CLASSES)[[0] * len(images)],
    )
    monkeypatch.setattr(teacher_check, "Teacher", lambda *_: always_first)
    with pytest.raises(InputError, match=r"chance level.*Received 0\.1000"):
        teacher_check.open_teacher("teacher", Config(), dataset, None)


def test_int8_ranges_are_measured_on_all_classes(dataset):
    images = list(formats.calibration_images(dataset.train.images))
    assert len(images) == formats.CALIBRATION_IMAGES and images[0][0].shape == (1, 8, 8, 1)
    assert shares([image for (image,) in images]) == pytest.approx([0.1] * CLASSES, abs=0.005)
