"""Each exported format runs without skd_tf, gives the student's numbers and holds nothing else; the card says so."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.errors import InputError
from skd_tf.evaluation import predictor, temperature_scaling
from skd_tf.models import deployable, loading
from skd_tf.serving import formats, parity_check, saved_model
from skd_tf.serving.export_student import export_student

WITH_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "tf2onnx", "onnxruntime"))


@pytest.fixture(scope="module")
def calibrated_run(digits_run, tmp_path_factory):
    """A copy of the finished run, with a temperature of 0.5."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(digits_run, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    zeros = {"nll": 0.0, "ece": 0.0}
    temperature_scaling.store(folder, 0.5, examples=1, before=zeros, after=zeros)
    return folder


@pytest.fixture(scope="module")
def exported(calibrated_run, tmp_path_factory):
    """(folder, rows) of an export in every format that can be written here."""
    folder = tmp_path_factory.mktemp("export") / "out"
    names = ["saved_model", "keras", "litert"] + ["onnx"] * WITH_ONNX
    return folder, export_student(calibrated_run, folder, formats=names, check_images=300)


def test_every_format_holds_the_student_and_nothing_else(exported, calibrated_run):
    folder, rows = exported
    student = loading.load(calibrated_run)
    values = student.count_params()
    names = {"saved_model", "student.keras", "student_float32.tflite", "student_float16.tflite", "student_int8.tflite"}
    assert {row["file"] for row in rows} == names | ({"student.onnx"} if WITH_ONNX else set())
    for row in rows:
        assert (folder / row["file"]).exists() and 0.8 * values < row["stored_values"] <= values + 64, row
        exact = "float16" not in row["file"] and "int8" not in row["file"]
        assert row["agreement"] == 1.0 if exact else row["agreement"] >= (0.98 if "float16" in row["file"] else 0.95), (
            row
        )
        assert row["largest_difference"] < (1e-4 if exact else 2.0) and np.isfinite(row["accuracy_change"])
    teacher = loading.load(json.loads((calibrated_run / "result.json").read_text())["config"]["teacher_checkpoint"])
    assert teacher.count_params() > 2 * values


def test_the_temperature_and_the_sphere_are_inside(exported, calibrated_run):
    images = data.load(data.DataSettings()).test.images[:50]
    raw = predictor.Predictor(deployable.without_sphere(loading.load(calibrated_run)))(images).astype("float64")
    radius = json.loads((calibrated_run / "result.json").read_text())["radius"]
    centred = raw - raw.mean(axis=1, keepdims=True)
    expected = radius * centred / np.linalg.norm(centred, axis=1, keepdims=True) / 0.5
    served = tf.saved_model.load(str(exported[0] / "saved_model")).signatures["serving_default"]
    out = served(images=tf.constant(images))
    np.testing.assert_allclose(out["logits"], expected, atol=1e-4)
    exponentials = np.exp(expected)
    np.testing.assert_allclose(out["probabilities"], exponentials / exponentials.sum(axis=1, keepdims=True), atol=1e-5)
    assert [label.decode() for label in out["label"].numpy()] == [str(c) for c in expected.argmax(axis=1)]


def test_the_model_card_says_what_a_stranger_must_know(exported, calibrated_run):
    card = (exported[0] / "README.md").read_text()
    result = json.loads((calibrated_run / "result.json").read_text())
    for words in (
        "cnn_4 for digits",
        "distilled from cnn_8",
        "2010.07485",
        "temperature 0.5000",
        "`images`, uint8",
        "899 test images",
        f"{result['student']['accuracy']:.4f}",
        f"{result['teacher']['nll']:.4f}",
        "--learning_rate=0.1",
        "## Intended use",
        "tensorflow 2",
        "student_int8.tflite",
        "predict",
    ):
        assert words in card, words
    assert not re.search(r"[{}]{2}|{%|\$", card) and not re.search(r"\bNone\b|\bnan\b", card)


def test_files_are_compared_on_images_from_all_over_the_test_split(calibrated_run, tmp_path, monkeypatch):
    def compare(files, folder, images, labels, *_):
        test, rows = data.load(data.DataSettings()).test, [0, 449, 898]
        assert np.array_equal(images, test.images[rows]) and np.array_equal(labels, test.labels[rows])
        raise parity_check.ExportError("seen")

    monkeypatch.setattr(parity_check, "check", compare)
    with pytest.raises(parity_check.ExportError, match="seen"):
        export_student(calibrated_run, tmp_path / "out", formats=["keras"], check_images=3)


@pytest.mark.slow
def test_a_file_that_differs_is_refused_and_nothing_is_left(calibrated_run, tmp_path, monkeypatch):
    def perturbed(student, path, context):
        student.layers[1].set_weights([weight + 0.05 for weight in student.layers[1].get_weights()])
        student.save(path)

    monkeypatch.setitem(formats.FORMATS, "keras", (formats.ExportFile("student.keras", "keras", perturbed, 1.0, 1e-4),))
    with pytest.raises(parity_check.ExportError, match=r"student\.keras differs"):
        export_student(calibrated_run, tmp_path / "out", formats=["keras"], check_images=50)
    assert list(tmp_path.iterdir()) == []


def test_what_the_comparison_catches():
    file = formats.ExportFile("f", "keras", None, 1.0, 1e-4)
    live = np.array([[2.0, 0.0], [0.0, 1.0]] * 8)
    labels = np.array([0, 1] * 8)

    def found(**changes):
        exponentials = np.exp(live)
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        same = {"logits": live, "probabilities": probabilities, "class_id": live.argmax(axis=1)}
        return same | {"batch_of_1": live[:1], "batch_of_7": live[:7]} | changes

    row = parity_check._compare(file, found(), labels, live)
    assert row["agreement"] == row["accuracy"] == 1.0 and row["largest_difference"] == row["accuracy_change"] == 0.0
    for changes in (
        {"logits": live + 1e-3},
        {"logits": live * np.nan},
        {"class_id": 1 - labels},
        {"batch_of_7": live[:7] + 1e-2},
    ):
        with pytest.raises(parity_check.ExportError):
            parity_check._compare(file, found(**changes), labels, live)


def test_classes_may_change_places_in_a_near_tie_and_nowhere_else():
    half = formats.ExportFile("f", "litert", None, 1.0, 0.05)
    live = np.array([[2.0, 1.99, 0.0], [0.0, 1.0, 0.95]])  # apart by 0.5% and by 2.5% of the largest logit
    found = {"logits": live, "probabilities": live, "class_id": np.array([1, 1])}
    found |= {"batch_of_1": live[:1], "batch_of_7": live}
    labels = np.array([0, 1])
    assert parity_check._compare(half, found, labels, live)["agreement"] == 0.5  # the model card counts near ties too
    with pytest.raises(parity_check.ExportError, match=r"50\.0000% of the 2 images"):
        parity_check._compare(dataclasses.replace(half, largest_difference=1e-4), found, labels, live)
    with pytest.raises(parity_check.ExportError, match=r" 0\.0000% of the 1 images that are not near ties"):
        parity_check._compare(half, found | {"class_id": np.array([0, 2])}, labels, live)


def test_a_teacher_inside_is_counted(calibrated_run, tmp_path):
    """A SavedModel that also holds another network's variables has too many numbers."""
    student, extra = loading.load(calibrated_run), tf.Variable(tf.zeros([5000]))
    saved_model.save_saved_model(student, tmp_path / "plain", [str(i) for i in range(10)])
    module = tf.saved_model.load(str(tmp_path / "plain"))
    module.teacher = extra
    tf.saved_model.save(module, str(tmp_path / "saved_model"), signatures=module.signatures)
    images = data.load(data.DataSettings()).test.images[:16]
    live = predictor.Predictor(student)(images)
    with pytest.raises(parity_check.ExportError, match="holds"):
        parity_check.check(
            formats.files_of(["saved_model"]), tmp_path, images, np.zeros(16), live, student.count_params()
        )


def test_wrong_arguments_are_found_first(digits_run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="Unknown format"):
        export_student(digits_run, tmp_path / "out", formats=["tflite"])
    with pytest.raises(InputError, match="not finished"):
        export_student(tmp_path, tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        export_student(digits_run, tmp_path / "taken")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    with pytest.raises(InputError, match="Install them"):
        export_student(digits_run, tmp_path / "out", formats=["onnx"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(exported, tmp_path):
    np.save(tmp_path / "images.npy", data.load(data.DataSettings()).test.images[:3])
    tool = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    where = ["--dir", str(exported[0] / "saved_model"), "--tag_set", "serve", "--signature_def", "serving_default"]
    shown = subprocess.run([*tool, "show", *where], capture_output=True, text=True, check=True, timeout=120).stdout
    assert "DT_UINT8" in shown and all(name in shown for name in ("logits", "probabilities", "class_id", "label"))
    inputs = ["--inputs", f"images={tmp_path / 'images.npy'}"]
    ran = subprocess.run(
        [*tool, "run", *where, *inputs], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert "Result for output key probabilities" in ran
