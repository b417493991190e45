"""Runs with several teachers: live and cached, on replicas, resumed; each with its own size and cache key."""

import dataclasses
import functools
import shutil
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.evaluation import metrics
from skd_tf.runs import class_names, predictions
from skd_tf.training import dry_run, experiment, preflight, train_student
from skd_tf.training.checkpoints import Checkpoints
from skd_tf.training.ensemble import Ensemble, open_teachers
from tests.helpers.nets import distance, weights_of
from tests.helpers.runs import SMALL, assert_same_run, read_json, train

STEPS = 8  # an epoch of 808 digits at batch 100


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


@functools.cache
def loaded():
    return data.load(data.DataSettings()).train


def save_linear(path, size, scale, *, unit, name):
    """A linear teacher of digits by least squares, for images of another size; `unit`: without its preprocessing."""
    images = tf.image.resize(tf.cast(loaded().images, tf.float32), [size, size], antialias=True).numpy() / 255
    pixels = np.c_[images.reshape(len(images), -1), np.ones(len(images))]
    squares = pixels.T @ pixels + np.eye(pixels.shape[1])
    solution = np.linalg.solve(squares, pixels.T @ np.eye(10)[loaded().labels])
    inputs = keras.Input((size, size, 1))
    x = inputs if unit else keras.layers.Rescaling(1 / 255)(inputs)
    net = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)), name=name)
    net.layers[-1].set_weights([scale * solution[:-1], scale * solution[-1]])
    net.save(path)
    return str(path)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Of a run with two teachers: one of 8x8 images, and a weak one of 4x4 images, which expects pixels in [0, 1]."""
    folder = tmp_path_factory.mktemp("teachers")
    good = save_linear(folder / "good.keras", 8, 6.0, unit=False, name="good")
    small = save_linear(folder / "small.keras", 4, 12.0, unit=True, name="small")
    mine = {"teacher_checkpoint": f"{good},{small}", "teacher_weights": "3,1", "teacher_preprocessing": "raw,unit"}
    return SMALL | mine | {"epochs": 2, "report": False}


def trained(settings, digits, strategy, steps=(1, 4)):
    """The student's weights after each number of steps, with the radius measured on the teachers."""
    config = Config(**settings, radius="teacher_mean")
    resources = train_student.SharedResources(digits, strategy, open_teachers("", config, digits, strategy))
    distiller = train_student.build_distiller(config, resources, STEPS)
    files = resources.teacher.epoch_logits(2)
    if files is None:
        distiller.teacher = resources.teacher.model
    replicas = strategy.num_replicas_in_sync
    options = {"first_step": 0, "last_step": STEPS, "teacher_logits": files, "shards": replicas}
    batches = data.train_stream(digits, config.pick(data.StreamSettings), steps_per_epoch=STEPS, **options)
    iterator = iter(strategy.distribute_datasets_from_function(lambda _: batches))
    found = []
    for count in steps:
        distiller.run_steps(iterator, count)
        found.append(weights_of(distiller.student))
    return found, float(distiller.radius.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_cached_is_live(settings, digits, replicas, two_replicas, tmp_path):
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    cached = settings | {"teacher_cache_dir": str(tmp_path), "teacher_cache_dtype": "float32"}
    (live, radius), (others, same) = (trained(each, digits, strategy) for each in (settings, cached))
    assert radius == pytest.approx(same, rel=1e-6)
    assert all(distance(*pair) < most for *pair, most in zip(live, others, (1e-6, 1e-5), strict=True))


def test_each_teacher_has_the_cache_key_that_it_has_alone(settings, digits, tmp_path):
    config, one = Config(**settings, teacher_cache_dir=str(tmp_path)), tf.distribute.get_strategy()
    ensemble = open_teachers("", config, digits, one)
    keys = [part.shards.key for part in ensemble.epoch_logits(1).parts]
    paths = settings["teacher_checkpoint"].split(",")
    for key, path, kind in zip(keys, paths, ("raw", "unit"), strict=True):
        single = config.replace(teacher_checkpoint=path, teacher_preprocessing=kind, teacher_weights="")
        teacher = open_teachers(path, single, digits, one)
        assert teacher.epoch_logits(1).shards.key == key and not isinstance(teacher, Ensemble)
    assert keys[0] != keys[1]
    half = config.replace(teacher_precision="float32,bfloat16").for_each_teacher
    assert [each.teacher_precision for each in half] == ["float32", "bfloat16"]


@pytest.fixture
def cache(tmp_path):
    """Settings of runs that keep the teachers' logits."""
    return {"teacher_cache_dir": str(tmp_path / "cache"), "loss": "kd"}


def test_a_run_measures_each_teacher_and_their_mean(settings, digits, cache, tmp_path, capsys):
    result = train(tmp_path / "run", settings, **cache, epochs=1, report=True, report_images=4)
    printed = capsys.readouterr().out
    images, labels = digits.test.images, digits.test.labels
    each = [
        one.logits(images)
        for one in open_teachers("", Config(**settings), digits, tf.distribute.get_strategy()).members
    ]
    softmaxes = [tf.nn.softmax(tf.cast(logits, tf.float64)).numpy() for logits in each]
    mean = 0.75 * softmaxes[0] + 0.25 * softmaxes[1]
    expected = metrics.quality(np.log(mean), labels)
    assert result["teacher"]["accuracy"] == pytest.approx(expected["accuracy"], abs=2e-3)
    assert result["teacher"]["nll"] == pytest.approx(expected["nll"], rel=1e-4)
    details = read_json(tmp_path / "run" / "measurements.json")
    classes, _ = predictions.of_record(details)
    names = [(one["name"], one["weight"]) for one in result["teachers"]]
    assert names == [("good", 0.75), ("small", 0.25)]
    for i, (one, logits) in enumerate(zip(result["teachers"], each, strict=True), 1):
        assert one["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean(), abs=2e-3)
        assert one["agreement"] == pytest.approx((logits.argmax(1) == mean.argmax(1)).mean(), abs=2e-3)
        assert one["student_agreement"] == (classes["student"] == classes[f"teacher_{i}"]).mean()
    assert result["teachers"][0]["accuracy"] > result["teachers"][1]["accuracy"] + 0.05
    assert result["teacher"]["parameters"] == sum(one["parameters"] for one in result["teachers"])
    assert "mean of 2 teachers" in printed and "teacher 2, small, weight 0.25" in printed
    assert f"{result['teachers'][1]['student_agreement']:.1%} with teacher 2" in printed
    report = (tmp_path / "run" / "report.html").read_text()
    assert "teacher 1, good, weight 0.75" in report and "with teacher 2" in report and "good + small" in report


@pytest.mark.slow
def test_a_run_that_is_killed_between_its_epochs_resumes(settings, cache, tmp_path):
    train(tmp_path / "run", settings, **cache)
    copy = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    for path in (copy / "result.json", copy / "measurements.json", Checkpoints(copy / "checkpoints").paths()[-1]):
        path.unlink()
    train(copy, settings, **cache)
    assert_same_run(copy, tmp_path / "run")


def test_the_mean_is_computed_in_pieces(monkeypatch):
    monkeypatch.setattr("skd_tf.training.ensemble._ROWS", 3)
    random = np.random.default_rng(0)
    each = [random.normal(size=(7, 4)).astype("float32") * scale for scale in (1, 1000)]
    found = Ensemble([types.SimpleNamespace(path="a"), types.SimpleNamespace(path="b")], (4, 1)).mean(each)
    softmaxes = [np.exp(z - z.max(1, keepdims=True)) for z in each]
    softmaxes = [z / z.sum(1, keepdims=True) for z in softmaxes]
    np.testing.assert_allclose(np.exp(found), 0.8 * softmaxes[0] + 0.2 * softmaxes[1], rtol=1e-5, atol=1e-7)


def log_likelihood(student_logits, teacher_logits, labels):
    raise AssertionError("is never called")


def test_what_does_not_fit_is_refused_before_anything_is_loaded(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: pytest.fail("data was loaded"))
    cases = [
        ({"loss": "wttm"}, "--teacher_checkpoint names 2 teachers, and --loss=wttm takes one"),
        ({"loss": f"{__name__}:log_likelihood"}, "takes one teacher.*the argument teacher_weights.*2 teachers"),
        ({"teacher_weights": "1,2,3"}, "--teacher_weights does not fit.*one for each of 2"),
        ({"teacher_weights": "1,0"}, "--teacher_weights is not a list of weights"),
        ({"teacher_precision": "float32,float16,float32"}, "--teacher_precision does not fit"),
        ({"teacher_preprocessing": "raw,unitt"}, "--teacher_preprocessing has an unknown value.*Did you mean unit"),
        ({"teacher_checkpoint": settings["teacher_checkpoint"] + ","}, "--teacher_checkpoint has an empty name"),
        ({"teacher_checkpoint": settings["teacher_checkpoint"] + "x"}, "No model there.*small.kerasx"),
    ]
    for changed, words in cases:
        with pytest.raises(InputError, match=words):
            experiment.run(Config(**settings | changed), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_without_labels_the_recorded_classes_must_be_the_same(settings, digits, monkeypatch):
    first, second = settings["teacher_checkpoint"].split(",")
    names = {second: ["1", "0", *"23456789"]}
    monkeypatch.setattr(class_names, "recorded", lambda path: names.get(path, []))
    unlabelled = dataclasses.replace(digits, name="images:pictures")
    for one in (settings, settings | {"teacher_checkpoint": f"{second},{first}", "teacher_preprocessing": "unit,raw"}):
        open_teachers("", Config(**one), unlabelled, tf.distribute.get_strategy())  # the first has no names
    names[first] = [*"0123456789"]
    with pytest.raises(InputError, match=r"other classes, or in another order.*0, 1, 2.*1, 0, 2.*small\.keras"):
        open_teachers("", Config(**settings), unlabelled, tf.distribute.get_strategy())


def test_a_path_with_a_comma_is_one_teacher_and_equal_weights_are_no_difference(settings, tmp_path):
    path = tmp_path / "a,b.keras"
    shutil.copy(settings["teacher_checkpoint"].split(",")[0], path)
    config = Config(teacher_checkpoint=str(path), loss="wttm")
    assert config.teachers == (str(path),) and config.for_each_teacher == (config,)
    preflight.check_files(config)
    config = Config(**settings)
    assert not config.differences(config.replace(teacher_weights="6, 2.0"))
    assert config.differences(config.replace(teacher_weights="1,1")) == ["--teacher_weights: 3,1 -> 1,1"]
    assert not config.replace(teacher_weights="").differences(config.replace(teacher_weights="2,2"))
    described = dry_run.describe(config)
    assert "small.keras: weight 0.25, float32, preprocessing unit" in described


def test_a_teacher_that_numbers_the_classes_otherwise_is_refused(settings, digits, monkeypatch):
    """Its accuracy alone might not show it, if most classes are in place."""
    names = [*map(str, range(8)), "9", "8"]
    monkeypatch.setattr(class_names, "known", lambda path, count: names)
    config = Config(**settings)
    for one in (
        config,
        config.replace(teacher_checkpoint=config.teachers[0], teacher_weights="", teacher_preprocessing="raw"),
    ):
        with pytest.raises(InputError, match=r"numbers its classes in another order.*class 8 is 9"):
            open_teachers(one.teachers[0], one, digits, tf.distribute.get_strategy())
