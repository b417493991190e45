"""What a process reads: one load per run, the test split alone when only that is measured, each file decoded once."""

import contextlib
import os
import pathlib
from collections import Counter

import numpy as np
import pytest

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import file_splits, folder_index, folder_walk, loading, memory_budget
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


@pytest.fixture
def listed(monkeypatch):
    """Counts the walks through a folder."""
    counts, read = Counter(), folder_walk.FolderWalk.classes
    monkeypatch.setattr(
        folder_walk.FolderWalk, "classes", lambda walk, folder: counts.update([str(folder)]) or read(walk, folder)
    )
    return counts


def make_older(root, seconds=60):
    """Sets back when the folders were last changed."""
    for folder, _, _ in os.walk(root):
        changed = os.stat(folder).st_mtime - seconds
        os.utime(folder, (changed, changed))


@pytest.mark.slow
def test_a_run_with_teacher_and_student_alone_loads_once(tmp_path, decoded, listed, monkeypatch):
    make_folder(tmp_path / "set", per_class=12, size=lambda i: (8, 8), formats=(".png",))
    make_older(tmp_path / "set")
    loads = Counter()
    read = loading._load
    monkeypatch.setattr(loading, "_load", lambda *arguments: loads.update(["load"]) or read(*arguments))
    settings = {"student": "cnn_2", "teacher": "cnn_2", "student_alone": "train", "epochs": 1, "batch_size": 8}
    config = Config(dataset=f"folder:{tmp_path / 'set'}", report=False, strategy="one_device", **settings)
    with contextlib.suppress(InputError):  # a teacher that learned nothing in one epoch is refused, after the load
        experiment.run(config, tmp_path / "run")
    assert loads["load"] == 1 and decoded["files"] == 72
    assert listed == {str(tmp_path / "set" / part): 1 for part in ("train", "test")}


def test_a_folder_is_listed_again_when_it_has_changed(tmp_path, listed):
    make_folder(tmp_path, parts=("",), size=lambda i: (8, 8), formats=(".png",))
    (tmp_path / "cat" / "more").mkdir()
    find = lambda seed=0: folder_index.find(f"folder:{tmp_path}", seed)  # noqa: E731
    count = lambda found: sum(map(len, found.splits.values()))  # noqa: E731
    find(), find()
    assert listed.total() == 2  # a change within the clock's precision cannot be seen
    make_older(tmp_path)
    first, other_seed = find(), find(1)
    assert listed.total() == 3 and first.splits != other_seed.splits and find().splits == first.splits
    deep = tmp_path / "cat" / "more" / "x.png"
    write_image(deep, random_image(1, 8, 8))
    make_older(tmp_path, 30)
    assert count(find()) == count(first) + 1 and count(find()) == count(first) + 1 and listed.total() == 4
    deep.unlink()
    assert find().splits == first.splits
    for folder in (tmp_path / "fox", pathlib.Path(tmp_path, "gnu")):
        write_image(folder / "1.png", random_image(2, 8, 8))
        write_image(folder / "2.png", random_image(3, 8, 8))
        assert folder.name in find().class_names


def test_a_load_on_disk_does_not_serve_a_run_that_keeps_its_images_in_memory(tmp_path):
    make_folder(tmp_path / "set", per_class=6, size=lambda i: (8, 8), formats=(".png",))
    settings = data.DataSettings(dataset=f"folder:{tmp_path / 'set'}")
    with loading.shared_loads():
        with memory_budget.as_decided({settings.dataset: False}):
            assert not isinstance(data.load(settings).train.images, np.ndarray)
        with memory_budget.as_decided({settings.dataset: True}):  # as the run decided that trains the teacher
            assert isinstance(data.load(settings).train.images, np.ndarray)


def test_loads_are_shared_inside_the_context_only():
    settings = data.DataSettings(dataset="digits")
    assert data.load(settings) is not data.load(settings)
    with data.shared_loads():
        one = data.load(settings)
        with data.shared_loads():
            assert data.load(settings) is one
        assert data.load(settings, test=False) is not one
    assert data.load(settings) is not one


@pytest.mark.parametrize("keep", ["memory", pytest.param("none", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("coloured", ["validation", pytest.param("test", marks=pytest.mark.slow)])
def test_each_load_has_the_channels_of_the_whole_folder(tmp_path, coloured):
    """Whichever splits it reads: evaluate reads no validation part, and tune no test part."""
    for part in ("train", "validation", "test"):
        for name in "ab":
            write_image(tmp_path / part / name / "0.png", random_image(0, 8, 8, channels=3 if part == coloured else 1))
    settings = data.DataSettings(dataset=f"folder:{tmp_path}")
    assert data.load(settings, train=False).image_shape == data.load(settings, test=False).image_shape == (8, 8, 3)


def test_evaluate_reads_the_test_split_alone(digits_run, monkeypatch):
    asked = []
    monkeypatch.setattr(data, "load", lambda *a, _load=data.load, **k: asked.append(k) or _load(*a, **k))
    models = [digits_run]
    whole = evaluate_models.evaluate_and_print(models, {}, timing=False, bootstrap_samples=0)
    assert asked == [{"train": False, "class_names": []}] and whole["models"][0]["accuracy"] > 0.5
