"""The examples run unchanged, on small data."""

import importlib.util
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import skd_tf
from skd_tf import data
from skd_tf.config import app

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_keras_model_and_a_folder_of_images(tmp_path):
    random = np.random.default_rng(0)
    images, labels = [], []
    for label, name in enumerate(("blue", "green", "red")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            image = random.integers(0, 128, (12, 12, 3), dtype=np.uint8)
            image[..., 2 - label] += 60  # blue, green and red, with much noise
            keras.utils.save_img(tmp_path / "images" / name / f"{number}.png", image, scale=False)
            images.append(image)
            labels.append(label)
    layers = keras.layers
    teacher = keras.Sequential(
        [
            keras.Input([12, 12, 3]),
            layers.Rescaling(1 / 64, -1),
            layers.Conv2D(16, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    teacher.compile(keras.optimizers.Adam(0.03), loss="sparse_categorical_crossentropy")
    teacher.fit(np.array(images, "float32"), np.array(labels), epochs=15, verbose=0)
    teacher.save(tmp_path / "big.keras")
    result = example("own_model_and_images").main(
        [
            f"--teacher={tmp_path}/big.keras",
            f"--images={tmp_path}/images",
            f"--output={tmp_path}/small",
            "--student=cnn_4",
            "--epochs=8",
            "--batch_size=8",
        ]
    )
    assert result["teacher_accuracy"] > 0.9 and result["accuracy"] > 0.6
    loaded = tf.saved_model.load(f"{tmp_path}/small")
    served = loaded.serve(tf.constant(images, tf.float32)).numpy()
    assert np.mean(served.argmax(1) == labels) > 0.6
    norms = np.linalg.norm(served - served.mean(1, keepdims=True), axis=1)
    np.testing.assert_allclose(norms, 2 * 3**0.5, rtol=1e-3)  # on the sphere


def test_the_teachers_softmax_is_cut_off():
    images = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    model = keras.Sequential([keras.Input([5]), keras.layers.Dense(3, activation="softmax")])
    before = model.predict(images, verbose=0)
    logits = example("own_model_and_images").raw_logits(model)(images).numpy()
    np.testing.assert_allclose(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), before, rtol=1e-5)
    assert logits.min() < 0


def test_the_fields_protocol_on_digits(tmp_path, monkeypatch, capsys):
    """The CIFAR-100 recipes on digits, with one epoch and a given teacher."""
    monkeypatch.chdir(EXAMPLES.parent)
    settings = {"dataset": "digits", "epochs": 1, "batch_size": 128, "lr_schedule": "cosine"}
    digits = data.load(data.DataSettings(dataset="digits"))
    net = {"input_shape": digits.image_shape, "num_classes": 10, "mean": digits.mean, "std": digits.std}
    teacher = skd_tf.networks.build("cnn_16", **net)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile(keras.optimizers.Adam(0.01), loss=loss)
    teacher.fit(digits.train.images, digits.train.labels, epochs=5, verbose=0)
    teacher.save(tmp_path / "teacher.keras")
    given = [f"--{name}={value}" for name, value in settings.items()]
    arguments = [
        f"--workdir={tmp_path}/runs",
        f"--teacher_checkpoint={tmp_path}/teacher.keras",
        "--student=cnn_2",
        "--methods=dkd",
        "--seeds=2",
        "--noreport",
    ]
    monkeypatch.setattr(sys, "argv", ["field_protocol.py", *arguments, *given])
    protocol = example("field_protocol")
    with pytest.raises(SystemExit) as stopped:
        app.run(protocol.main, description="", define=protocol.define)
    assert stopped.value.code in (0, None)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| dkd")]
    results = [
        skd_tf.run(config_of(tmp_path / "runs" / f"dkd{seed}"), tmp_path / "runs" / f"dkd{seed}") for seed in (0, 1)
    ]
    accuracies = [result["student"]["accuracy"] for result in results]
    assert float(rows[0][1]) == pytest.approx(np.mean(accuracies), abs=1e-4) and int(rows[0][3]) == 2
    config = results[1]["config"]
    assert config["seed"] == 1 and config["kd_weight"] == "linear 0 to 1 over 20 epochs"
    assert config["loss_settings"] == "beta=2"
    assert config["weight_decay"] == 5e-4 and config["validation_fraction"] == 0  # of the CIFAR-100 recipe


def config_of(workdir):
    from skd_tf.runs.run_record import recorded_config

    return recorded_config(workdir)


def test_a_loss_of_ones_own_equals_its_formula_and_trains():
    module = example("own_loss")
    rng = np.random.default_rng(0)
    student, teacher, labels = rng.normal(size=(6, 4)), 3 * rng.normal(size=(6, 4)), np.arange(6) % 4
    p, q = (np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True) for z in (teacher, student))
    mean = 0.3 * p + 0.7 * q
    expected = 4 * (0.3 * p * np.log(p / mean) + 0.7 * q * np.log(q / mean)).sum(1)
    for logits in (student, student + 5):
        terms = module.jensen_shannon(np.float32(logits), np.float32(teacher), labels, temperature=2.0, share=0.3)
        np.testing.assert_allclose(terms["distill"], expected, rtol=1e-4)
    teacher_result, student_result = module.main(epochs=1)
    assert 0.2 < teacher_result["accuracy"] == pytest.approx(student_result["teacher_accuracy"], abs=1e-6)
    expected = 0.1 * student_result["label_loss"] + 0.9 * student_result["distill_loss"]
    assert student_result["loss"] == pytest.approx(expected, rel=1e-5)
