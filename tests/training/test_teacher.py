"""Teachers from anywhere: other sizes, preprocessing, outputs and precisions; one augmented image for both nets."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data, networks
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.models import deployable, loading
from skd_tf.serving import saved_model
from skd_tf.training import experiment
from skd_tf.training.teacher import Teacher

SMALL = {"student": "cnn_2", "epochs": 2, "batch_size": 100, "strategy": "one_device", "report": False}


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


def network(size=8, classes=10, channels=1, seed=0, **facts):
    return deployable.stock_copy(
        networks.build("cnn_8", input_shape=(size, size, channels), num_classes=classes, seed=seed, **facts)
    )


def load(path, digits, precision="float32", **options):
    return loading.load_teacher(path, name="", dataset=digits, teacher_precision=precision, **options)


def images_of(digits):
    return tf.constant(digits.train.images[:16])


@pytest.mark.parametrize("size", [16, 6])
def test_another_size_is_resized(digits, tmp_path, size, capsys):
    net = network(size)
    net.save(tmp_path / "net.keras")
    teacher, images = load(tmp_path / "net.keras", digits), images_of(digits)
    resized = tf.image.resize(images, [size, size], antialias=True)
    np.testing.assert_allclose(teacher(images), net(resized), atol=2e-4)
    assert f"{size}x{size}" in capsys.readouterr().out
    compiled = tf.function(lambda x: teacher(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(images), net(resized), atol=2e-4)
    assert loading.parameter_count(teacher) == loading.parameter_count(net) and teacher.name == "cnn_8"


@pytest.mark.parametrize("end", ["activation", "layer", "hidden"])
def test_probabilities_become_logits_with_a_warning(digits, tmp_path, end, capsys):
    keras.utils.set_random_seed(0)
    body = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()], name="body"
    )
    body.add(keras.layers.Dense(10, activation="softmax" if end == "activation" else None, name="out"))
    if end == "layer":
        body.add(keras.layers.Softmax())
    images = tf.cast(images_of(digits), "float32")
    if end == "hidden":  # nothing in the graph says so
        pixels = keras.Input((8, 8, 1))
        powers = keras.ops.exp(body(pixels))
        body = keras.Model(pixels, powers / keras.ops.sum(powers, -1, keepdims=True))
    body.save(tmp_path / "net.keras")
    teacher = load(tmp_path / "net.keras", digits)
    said = capsys.readouterr().err
    assert ("sum to 1" if end == "hidden" else "softmax is removed") in said
    np.testing.assert_allclose(tf.nn.softmax(teacher(images)), body(images), atol=1e-6)
    sums = tf.reduce_sum(teacher(images), axis=-1).numpy()
    assert np.abs(sums).min() > 1e-4  # log p would sum to less than -10 ln 10, z - its mean to 0


def test_a_saved_model_by_its_signature(digits, tmp_path, capsys):
    net = network(mean=(0.3,), std=(0.4,))
    images = images_of(digits)
    saved_model.save_saved_model(net, tmp_path / "ours", digits.class_names)
    np.testing.assert_allclose(load(tmp_path / "ours", digits)(images), net(images), atol=1e-5)
    assert "probabilities" not in capsys.readouterr().err
    probable = keras.Sequential([net, keras.layers.Softmax()])
    probable.export(tmp_path / "kerass", verbose=False)
    teacher = load(tmp_path / "kerass", digits)
    assert "sum to 1" in capsys.readouterr().err
    np.testing.assert_allclose(tf.nn.softmax(teacher(images)), probable(images), atol=1e-6)
    wide = network(16)
    saved_model.save_saved_model(wide, tmp_path / "wide", digits.class_names)  # takes uint8: rounded after resizing
    resized = tf.round(tf.clip_by_value(tf.image.resize(images, [16, 16], antialias=True), 0, 255))
    np.testing.assert_allclose(load(tmp_path / "wide", digits)(images), wide(resized), rtol=1e-2, atol=1.0)
    with pytest.raises(InputError, match="--teacher_precision"):
        load(tmp_path / "ours", digits, "bfloat16")


def test_preprocessing_outside_the_teacher(digits, tmp_path):
    net, images = network(), images_of(digits)
    net.save(tmp_path / "net.keras")
    floats = tf.cast(images, "float32")
    wanted = {"auto": floats, "raw": floats, "unit": floats / 255, "tf": floats / 127.5 - 1}
    wanted["standard"] = (floats / 255 - digits.mean[0]) / digits.std[0]
    for kind, preprocessed in wanted.items():
        teacher = load(tmp_path / "net.keras", digits, teacher_preprocessing=kind)
        np.testing.assert_allclose(teacher(images), net(preprocessed), atol=1e-4)
    with pytest.raises(InputError, match="3 channels"):
        load(tmp_path / "net.keras", digits, teacher_preprocessing="caffe")
    keys = set()
    for kind in wanted:
        config = Config(teacher_preprocessing=kind, teacher_cache_dir=str(tmp_path), **SMALL)
        teacher = Teacher(tmp_path / "net.keras", config, digits, tf.distribute.get_strategy())
        keys.add(str(teacher.epoch_files(1)))
    assert len(keys) == 4  # auto is raw


def test_precision_is_the_runs_not_the_files(digits, tmp_path):
    net, images = network(mean=(0.3,), std=(0.4,)), images_of(digits)
    from skd_tf.models import precision

    expected = net(images)
    precision.set_precision(net, "bfloat16").save(tmp_path / "half.keras")
    np.testing.assert_allclose(load(tmp_path / "half.keras", digits)(images), expected, atol=1e-4)
    half = load(tmp_path / "half.keras", digits, "bfloat16")(images)
    assert 1e-4 < np.abs(tf.cast(half, "float32") - expected).max() < 0.5


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"classes": 7}, r"Expected 10 classes \(digits\)\. Received 7"), ({"channels": 3}, r"\(8, 8, 1\).*\(8, 8, 3\)")],
)
def test_other_classes_and_channels_are_found_before_training(tmp_path, facts, words):
    network(**facts).save(tmp_path / "net.keras")
    with pytest.raises(InputError, match=words):
        experiment.run(Config(teacher_checkpoint=str(tmp_path / "net.keras"), **SMALL), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_logits_that_are_not_finite_are_found_before_training(tmp_path, digits):
    net = network()
    net.layers[-1].set_weights([np.full_like(weight, 1e5) for weight in net.layers[-1].get_weights()])
    net.save(tmp_path / "net.keras")
    config = Config(teacher_checkpoint=str(tmp_path / "net.keras"), teacher_precision="float16", **SMALL)
    with pytest.raises(InputError, match=r"logits are not finite.*--teacher_precision=float32"):
        experiment.run(config, tmp_path / "run")


def test_an_application_without_weights_is_one_line(tmp_path, monkeypatch, digits):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError, match="--download"):
        load("keras.applications:ResNet152", digits)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A teacher of the digits at twice their size, that returns probabilities of pixels in [0, 1]."""
    net = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    images = tf.image.resize(digits.train.images, [16, 16]) / 255
    net.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    net.fit(images, digits.train.labels, epochs=25, batch_size=50, verbose=0)
    path = tmp_path_factory.mktemp("teacher") / "net.keras"
    net.save(path)
    return path


@pytest.mark.slow
def test_a_foreign_teacher_teaches_live_and_from_the_cache(trained, tmp_path):
    config = Config(teacher_checkpoint=str(trained), teacher_preprocessing="unit", loss="kd", **SMALL)
    live = experiment.run(config, tmp_path / "live")
    cache = {"teacher_cache_dir": str(tmp_path / "cache"), "teacher_cache_dtype": "float32"}
    cached = experiment.run(config.replace(**cache), tmp_path / "cached")
    assert live["teacher"]["accuracy"] > 0.85
    assert cached["student"]["nll"] == pytest.approx(live["student"]["nll"], rel=1e-3)


UNLABELLED = """
from skd_tf import data
from skd_tf.config import Config
import numpy as np
def digits(data_dir, keep=0):
    known = data.load(data.DataSettings(validation_fraction=0))
    labels = np.where(np.arange(len(known.train)) < keep, known.train.labels, -1)
    facts = {"mean": known.mean, "std": known.std, "pad": 1, "flip": False, "class_names": known.class_names}
    return facts | {"train": (known.train.images, labels), "test": (known.test.images, known.test.labels)}
def few(data_dir):
    return digits(data_dir, keep=40)
"""


@pytest.mark.parametrize("name", ["digits", pytest.param("few", marks=pytest.mark.slow)])
def test_images_without_labels_teach_through_the_distill_term_alone(trained, tmp_path, monkeypatch, name, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unlabelled.py").write_text(UNLABELLED)
    sys.modules.pop("unlabelled", None)
    settings = SMALL | {"student": "cnn_8", "epochs": 25, "batch_size": 50, "learning_rate": 0.1}
    config = Config(
        dataset=f"unlabelled:{name}", teacher_checkpoint=str(trained), teacher_preprocessing="unit", **settings
    )
    result = experiment.run(config.replace(validation_fraction=0.1), tmp_path / "run")
    assert (
        result["student"]["accuracy"] > 0.5
    )  # guessing: 0.1; rounding by number of threads moves it from 0.69 to 0.74
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    if name == "digits":
        assert "No training image has a label" in capsys.readouterr().err
        assert "label_loss" not in rows and result["student"]["val_accuracy"] is None
    else:
        assert result["student"]["val_accuracy"] is not None


def test_the_label_term_of_unlabelled_images_has_no_gradient(digits):
    """A batch of which half has no labels: as if the label term saw the other half, at weight 1 / batch."""
    from skd_tf import Distiller

    def weights_after(labels):
        student, teacher = (networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=10, seed=s) for s in (0, 1))
        distiller = Distiller(student, teacher, kd_weight=0.0, label_weight=1.0)
        distiller.compile(keras.optimizers.SGD(0.1))
        distiller.fit(digits.train.images[:8].astype("float32"), labels, batch_size=8, verbose=0)
        return student.get_weights()

    start = networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=10, seed=0)
    count = sum(layer.count_params() > 0 for layer in start.layers)
    none = weights_after(np.full(8, -1))
    moving = {v.path for v in start.non_trainable_variables}
    for variable, after in zip(start.weights, none, strict=True):
        assert variable.path in moving or np.array_equal(variable, after), variable.path
    assert count and not np.array_equal(weights_after(np.r_[digits.train.labels[:4], [-1] * 4])[0], none[0])


def test_a_dataset_without_labels_still_holds_together(digits):
    bare = dataclasses.replace(digits.train, labels=np.full(len(digits.train), -1, np.int32))
    assert len(bare.labelled()) == 0 and len(digits.train.labelled()) == len(digits.train)
