"""What a process reads: one load per run, the test split alone when only that is measured, each file decoded once."""

import contextlib
from collections import Counter

import numpy as np
import pytest

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import file_splits, loading
from skd_tf.errors import InputError
from skd_tf.evaluation import evaluate_models
from skd_tf.training import experiment
from tests.helpers.images import load, make_folder, random_image, write_image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def decoded(monkeypatch):
    """Counts the files that are decoded before a step needs them."""
    counts, stream = Counter(), file_splits._stream

    def counting(rows, *arguments):
        counts["files"] += len(rows)
        return stream(rows, *arguments)

    monkeypatch.setattr(file_splits, "_stream", counting)
    return counts


def test_a_run_with_teacher_and_student_alone_loads_once(tmp_path, decoded, monkeypatch):
    make_folder(tmp_path / "set", per_class=12, size=lambda i: (8, 8), formats=(".png",))
    loads = Counter()
    read = loading._load
    monkeypatch.setattr(loading, "_load", lambda *arguments: loads.update(["load"]) or read(*arguments))
    settings = {"student": "cnn_2", "teacher": "cnn_2", "student_alone": "train", "epochs": 1, "batch_size": 8}
    config = Config(dataset=f"folder:{tmp_path / 'set'}", report=False, strategy="one_device", **settings)
    with contextlib.suppress(InputError):  # a teacher that learned nothing in one epoch is refused, after the load
        experiment.run(config, tmp_path / "run")
    assert loads["load"] == 1 and decoded["files"] == 72


def test_loads_are_shared_inside_the_context_only():
    settings = data.DataSettings(dataset="digits")
    assert data.load(settings) is not data.load(settings)
    with data.shared_loads():
        one = data.load(settings)
        with data.shared_loads():
            assert data.load(settings) is one
        assert data.load(settings, test=False) is not one
    assert data.load(settings) is not one


@pytest.mark.parametrize("keep", ["memory", "none"])
def test_the_test_split_alone_is_that_of_the_whole(tmp_path, decoded, keep):
    """A test split of grey files stays a colour split if the training part has colours."""
    for name in ("a", "b"):
        for i in range(6):
            write_image(tmp_path / "train" / name / f"{i}.png", random_image(i, 8, 8))
            write_image(tmp_path / "test" / name / f"{i}.png", random_image(100 + i, 8, 8, channels=1))
    whole = load(tmp_path, cache_dataset=keep)
    decoded.clear()
    settings = Config(dataset=f"folder:{tmp_path}", cache_dataset=keep).pick(data.DataSettings)
    alone = data.load(settings, train=False)
    assert decoded["files"] == (12 if keep == "memory" else 0) and not len(alone.train) and alone.validation is None
    assert np.array_equal(alone.test.images[:], whole.test.images[:]) and alone.image_shape == whole.image_shape
    assert (alone.version, alone.class_names, alone.mean) == (whole.version, whole.class_names, ())
    assert np.array_equal(alone.first_images(3), alone.test.images[:3])


def test_evaluate_reads_the_test_split_alone(digits_run, monkeypatch):
    asked = []
    monkeypatch.setattr(data, "load", lambda *a, _load=data.load, **k: asked.append(k) or _load(*a, **k))
    models = [digits_run]
    whole = evaluate_models.evaluate_and_print(models, {}, timing=False, bootstrap_samples=0)
    assert asked == [{"train": False}] and whole["models"][0]["accuracy"] > 0.5
