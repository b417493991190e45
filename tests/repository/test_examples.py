"""The examples run unchanged, on small data."""

import functools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import skd_tf
from skd_tf import data
from skd_tf.config import app
from skd_tf.runs.run_record import recorded_config
from tests.helpers.commands import exit_code, load_source

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def example(name):
    return load_source(EXAMPLES / f"{name}.py")


@pytest.mark.slow
def test_a_keras_model_and_a_folder_of_images(tmp_path):
    folder, labels = tmp_path / "images", np.repeat([0, 1, 2], 20)
    images = np.random.default_rng(0).integers(0, 128, (60, 12, 12, 3), dtype=np.uint8)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        image[..., 2 - label] += 60  # blue, green and red, with much noise
        file = folder / ("blue", "green", "red")[label] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(file, image, scale=False)
    layers = keras.layers
    parts = [layers.Rescaling(1 / 64, -1), layers.Conv2D(16, 3, activation="relu"), layers.GlobalAveragePooling2D()]
    teacher = keras.Sequential([keras.Input([12, 12, 3]), *parts, layers.Dense(3, activation="softmax")])
    teacher.compile(keras.optimizers.Adam(0.03), loss="sparse_categorical_crossentropy")
    teacher.fit(images.astype("float32"), labels, epochs=15, verbose=0)
    teacher.save(tmp_path / "big.keras")
    flags = [f"--teacher={tmp_path}/big.keras", f"--images={folder}", f"--output={tmp_path}/small"]
    flags += ["--student=cnn_4", "--epochs=8", "--batch_size=8"]
    result = example("own_model_and_images").main(flags)
    assert result["teacher_accuracy"] > 0.9 and result["accuracy"] > 0.6
    loaded = tf.saved_model.load(f"{tmp_path}/small")
    served = loaded.serve(tf.constant(images, tf.float32)).numpy()
    assert np.mean(served.argmax(1) == labels) > 0.6


@pytest.mark.slow
def test_the_fields_protocol_on_digits(tmp_path, monkeypatch, capsys):
    """The CIFAR-100 recipes on digits, with one epoch and a given teacher."""
    monkeypatch.chdir(EXAMPLES.parent)
    digits = data.load(data.DataSettings(dataset="digits"))
    net = {"input_shape": digits.image_shape, "num_classes": 10, "mean": digits.mean, "std": digits.std}
    teacher = skd_tf.networks.build("cnn_16", **net)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(0.01), loss=loss)
    teacher.fit(digits.train.images, digits.train.labels, epochs=5, verbose=0)
    teacher.save(tmp_path / "teacher.keras")
    flags = [f"--workdir={tmp_path}/runs", f"--teacher_checkpoint={tmp_path}/teacher.keras", "--student=cnn_2"]
    flags += ["--methods=dkd", "--seeds=2", "--noreport", "--dataset=digits", "--epochs=1", "--batch_size=128"]
    protocol = example("field_protocol")
    main = functools.partial(app.run, protocol.main, description="", define=protocol.define)
    assert exit_code(main, *flags, "--dry_run") == 2  # it would train the teacher
    assert exit_code(main, *flags, "--lr_schedule=cosine") == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| dkd")]
    runs = [tmp_path / "runs" / f"dkd{seed}" for seed in (0, 1)]
    results = [skd_tf.run(recorded_config(run), run) for run in runs]
    accuracies = [result["student"]["accuracy"] for result in results]
    assert float(rows[0][1]) == pytest.approx(np.mean(accuracies), abs=1e-4) and int(rows[0][3]) == 2
    config = results[1]["config"]
    assert config["seed"] == 1 and config["kd_weight"] == "linear 0 to 1 over 20 epochs"
    assert config["loss_settings"] == "beta=2"
    assert config["weight_decay"] == 5e-4 and config["validation_fraction"] == 0  # of the CIFAR-100 recipe


def test_a_loss_of_ones_own_equals_its_formula():
    module = example("own_loss")
    rng = np.random.default_rng(0)
    student, teacher, labels = rng.normal(size=(6, 4)), 3 * rng.normal(size=(6, 4)), np.arange(6) % 4
    p, q = (np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True) for z in (teacher, student))
    mean = 0.3 * p + 0.7 * q
    expected = 4 * (0.3 * p * np.log(p / mean) + 0.7 * q * np.log(q / mean)).sum(1)
    for logits in (student, student + 5):
        terms = module.jensen_shannon(np.float32(logits), np.float32(teacher), labels, temperature=2.0, share=0.3)
        np.testing.assert_allclose(terms["distill"], expected, rtol=1e-4)


@pytest.mark.slow
def test_a_loss_of_ones_own_trains():
    teacher_result, student_result = example("own_loss").main(epochs=1)
    assert 0.2 < teacher_result["accuracy"] == pytest.approx(student_result["teacher_accuracy"], abs=1e-6)
    expected = 0.1 * student_result["label_loss"] + 0.9 * student_result["distill_loss"]
    assert student_result["loss"] == pytest.approx(expected, rel=1e-5)
