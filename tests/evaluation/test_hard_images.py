"""The test images that a report shows: which are chosen, what is said of them, and how they are stored."""

import base64

import numpy as np
import pytest
import tensorflow as tf

from skd_tf.data.dataset import Split
from skd_tf.evaluation import hard_images, metrics
from skd_tf.evaluation.final_measurements import ModelLogits
from skd_tf.evaluation.temperature_scaling import Calibration


def logits_of(random, labels, size):
    return size * (np.eye(5)[labels] + 0.8 * random.normal(size=[len(labels), 5]))


@pytest.fixture
def models():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 200)
    return labels, {
        "teacher": ModelLogits(logits_of(random, labels, 5.0)),
        "student": ModelLogits(logits_of(random, labels, 2.0)),
    }


def test_the_most_confident_mistakes_come_first_then_the_surest_disagreements(models):
    labels, found = models
    answers = {name: metrics.summarize(model.logits, labels) for name, model in found.items()}
    probabilities = {name: np.exp(m.logits) / np.exp(m.logits).sum(axis=1, keepdims=True) for name, m in found.items()}
    sure, said = ({n: f(p, axis=1) for n, p in probabilities.items()} for f in (np.max, np.argmax))
    chosen = hard_images.choose(answers, labels, 20)
    mistakes, apart = ([row for kind, row in chosen if kind == name] for name in ("mistake", "disagreement"))
    wrong = np.flatnonzero(said["student"] != labels)
    assert mistakes == sorted(wrong, key=lambda row: -sure["student"][row])[:10]
    differ = [row for row in np.flatnonzero(said["student"] != said["teacher"]) if row not in mistakes]
    assert apart == sorted(differ, key=lambda row: -min(sure["student"][row], sure["teacher"][row]))[:10]
    assert hard_images.choose({"student": answers["student"]}, labels, 20) == [
        ("mistake", row) for row in sorted(wrong, key=lambda row: -sure["student"][row])[:20]
    ]
    assert hard_images.choose(answers, said["student"], 8)[0][0] == "disagreement"  # no mistake: all are disagreements
    assert len(hard_images.choose(answers, said["student"], 8)) == 8


def test_what_is_recorded_is_as_it_ships(models):
    labels, found = models
    found["student"] = found["student"]._replace(calibration=Calibration(0.5, 100))
    images = np.random.default_rng(1).integers(0, 256, [200, 6, 4, 3]).astype(np.uint8)
    names = np.array([f"{row}.png" for row in range(200)], object)
    for entry in hard_images.collect(Split(images, labels, np.arange(200), files=names), found, 6):
        row = entry["row"]
        assert entry["file"] == f"{row}.png"
        scaled = np.exp(found["student"].logits[row] / 0.5)
        assert entry["answers"]["student"] == [int(scaled.argmax()), pytest.approx(scaled.max() / scaled.sum())]
        assert entry["label"] == labels[row]
        kind, encoded = entry["picture"].split(",")
        assert kind == "data:image/png;base64"
        np.testing.assert_array_equal(tf.io.decode_png(base64.b64decode(encoded)).numpy(), images[row])


@pytest.mark.parametrize(
    "shape, stored", [((8, 8, 1), (8, 8, 1)), ((300, 150, 3), (112, 56, 3)), ((60, 50, 2), (60, 50, 1))]
)
def test_large_pictures_are_small_files(shape, stored):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    url = hard_images.data_url(image)
    assert tf.io.decode_image(base64.b64decode(url.split(",")[1])).shape == stored and len(url) < 16_000


def test_a_student_that_answers_nothing_is_no_error():
    logits = np.full([4, 3], np.nan)
    split = Split(np.zeros([4, 2, 2, 1], np.uint8), np.zeros(4, int), np.arange(4))
    (entry, *_) = hard_images.collect(split, {"student": ModelLogits(logits)}, 2)
    assert entry["file"] is None
    assert np.isfinite(entry["answers"]["student"][1])
