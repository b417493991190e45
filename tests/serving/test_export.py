"""Each exported format runs without skd_tf, gives the student's numbers and holds nothing else; the card says so."""

import dataclasses
import hashlib
import importlib.util
import pathlib
import re
import shutil
import unittest.mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.evaluation import predictor, temperature_scaling
from skd_tf.models import deployable, loading
from skd_tf.runs import lineage
from skd_tf.runtime.files import write_json
from skd_tf.serving import export_student as export_student_module
from skd_tf.serving import formats, parity_check, saved_model
from skd_tf.serving.export_student import export_student
from tests.helpers.commands import python
from tests.helpers.images import make_folder
from tests.helpers.permissions import bound_by_permissions
from tests.helpers.runs import read_json

WITH_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "tf2onnx", "onnxruntime"))


EXACT = formats.ExportFile("f", "keras", None, 1.0, 1e-4)


@pytest.fixture(scope="module")
def calibrated_run(digits_run, tmp_path_factory):
    """A copy of the finished run, with a temperature of 0.5."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(digits_run, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    zeros = {"nll": 0.0, "ece": 0.0}
    temperature_scaling.store(folder, 0.5, examples=1, before=zeros, after=zeros)
    return folder


@pytest.fixture(scope="module", params=["two", pytest.param("all", marks=pytest.mark.slow)])
def names(request):
    """Formats: two, of which one without its float16 file, or all that can be written here."""
    others = ["keras"] + ["onnx"] * WITH_ONNX
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "two":
            files = [file for file in formats.FORMATS["litert"] if "float16" not in file.name]
            patch.setitem(formats.FORMATS, "litert", tuple(files))
        yield ["saved_model", "litert"] + others * (request.param == "all")


@pytest.fixture(scope="module")
def exported(names, calibrated_run, tmp_path_factory):
    """(folder, rows) of an export in these formats."""
    folder = tmp_path_factory.mktemp("export") / "out"
    return folder, export_student(calibrated_run, folder, formats=names, check_images=300)


def images_of_the_test_split(count):
    return data.load(data.DataSettings()).test.images[:count]


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_every_format_holds_the_student_and_nothing_else(exported, names, calibrated_run):
    folder, rows = exported
    values = loading.load(calibrated_run).count_params()
    agreements = {"saved_model": 1.0, "student_float32.tflite": 1.0}
    if "keras" in names:
        agreements["student.keras"] = 1.0
    agreements["student_int8.tflite"] = 0.95
    if len(names) > 2:
        agreements["student_float16.tflite"] = 0.98
    if "onnx" in names:
        agreements["student.onnx"] = 1.0
    assert {row["file"] for row in rows} == agreements.keys()
    for row in rows:
        least = agreements[row["file"]]
        assert (folder / row["file"]).exists() and 0.8 * values < row["stored_values"] <= values + 64, row
        assert least <= row["agreement"] <= 1.0, row
        assert row["largest_difference"] < (1e-4 if least == 1 else 2.0) and np.isfinite(row["accuracy_change"])
        for name in ("accuracy", "nll", "ece_debiased"):
            low, high = row["intervals"][name]
            assert low <= row[name] <= high, (row["file"], name)
        timed = row["latency_ms"]
        on_one_thread = row["file"].endswith((".tflite", ".onnx"))
        assert (timed is not None) == on_one_thread and (timed is None or timed["median"] > 0 == timed["threads"] - 1)
    exact, int8 = (next(r for r in rows if r["file"] == f"student_{kind}.tflite") for kind in ("float32", "int8"))
    assert int8["nll"] != exact["nll"] and exact["nll"] == pytest.approx(rows[0]["nll"], abs=1e-4)
    assert (
        loading.load(read_json(calibrated_run / "result.json")["config"]["teacher_checkpoint"]).count_params()
        > 2 * values
    )


def test_the_temperature_and_the_sphere_are_inside(exported, calibrated_run):
    images = images_of_the_test_split(50)
    raw = predictor.Predictor(deployable.without_sphere(loading.load(calibrated_run)))(images).astype("float64")
    centred = raw - raw.mean(axis=1, keepdims=True)
    radius = read_json(calibrated_run / "result.json")["radius"]
    expected = radius * centred / np.linalg.norm(centred, axis=1, keepdims=True) / 0.5
    served = tf.saved_model.load(str(exported[0] / "saved_model")).signatures["serving_default"]
    assert served.structured_input_signature[1]["images"].dtype == tf.uint8
    out = served(images=tf.constant(images))
    np.testing.assert_allclose(out["logits"], expected, atol=1e-4)
    np.testing.assert_allclose(out["probabilities"], softmax(expected), atol=1e-5)


def test_the_model_card_says_what_a_stranger_must_know(exported, calibrated_run):
    card, result = (exported[0] / "README.md").read_text(), read_json(calibrated_run / "result.json")
    words = ["cnn_4 for digits", "distilled from cnn_8", "2010.07485", "temperature 0.5000", "`images`, uint8"]
    words += [
        "899 test images",
        "90 images of the training split were held out for validation.",
        f"{result['student']['accuracy']:.4f}",
        f"{result['teacher']['nll']:.4f}",
    ]
    words += ["--learning_rate=0.1", "## Intended use", "tensorflow 2", "student_int8.tflite", "predict"]
    words += ["Classes by `class_id`: 0 0, 1 1, 2 2, ", ", 8 8, 9 9."]
    words += ["Give images of exactly 8x8 pixels.", "`labels.txt` has a class name per line"]
    assert (exported[0] / "labels.txt").read_text().splitlines() == result["class_names"]
    words += ["ECE debiased", "## Ancestry", "Trained on digits", "Its teacher was trained on digits"]
    assert [word for word in words if word not in card] == []
    fitted = result["student"]["calibrated"]
    assert f"logits / {fitted['temperature']:.4f}" in card and f"{fitted['nll']:.4f}" in card
    assert not re.search(r"[{}]{2}|{%|\$", card) and not re.search(r"\bNone\b|\bnan\b", card)


def test_every_export_knows_what_it_was_trained_on(exported, names, calibrated_run):
    folder, rows = exported
    expected = lineage.read(calibrated_run)
    assert [training["via"] for training in expected.trainings] == ["weights", "teacher"]
    for path in (folder / "saved_model", *([folder, folder / "student.keras"] if "keras" in names else [])):
        assert lineage.read(path) == expected
    record = read_json(folder / "lineage.json")
    digest = hashlib.sha256((folder / "student_int8.tflite").read_bytes()).hexdigest()
    assert record["sha256"]["student_int8.tflite"] == digest and record["trainings"] == list(expected.trainings)
    kept = read_json(calibrated_run / "exports.json")
    assert [row["file"] for row in kept["files"]] == [row["file"] for row in rows] == list(record["sha256"])


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


def compared(live, labels, file=EXACT, **changes):
    """What the comparison says of a file whose outputs are those of the live student, with changes."""
    found = {"logits": live, "probabilities": softmax(live), "class_id": live.argmax(axis=1)}
    return parity_check._compare(file, found | {"batch_of_1": live[:1], "batch_of_7": live[:7]} | changes, labels, live)


def test_litert_and_onnx_files_of_a_student_for_any_size_have_the_run_s_size(tmp_path):
    images = keras.Input((None, None, 1))
    features = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(images))
    student = keras.Model(images, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(features)))
    digits = images_of_the_test_split(5)
    context = formats.WriteContext([str(i) for i in range(10)], digits)
    names = ["student_float32.tflite", *["student.onnx"] * WITH_ONNX]
    files = [file for file in formats.files_of(["litert", *["onnx"] * WITH_ONNX]) if file.name in names]
    formats.write(student, files, tmp_path, context)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(tmp_path / names[0])).get_signature_runner("serving_default")
    outputs = [interpreter(images=digits)["logits"]]
    if WITH_ONNX:
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / names[1], providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape[1:] == [8, 8, 1]
        outputs += session.run(["logits"], {"images": digits})
    for logits in outputs:
        np.testing.assert_allclose(logits, student(digits), rtol=1e-4, atol=1e-5)


def test_what_the_comparison_catches():
    live, labels = np.array([[2.0, 0.0], [0.0, 1.0]] * 8), np.array([0, 1] * 8)
    row = compared(live, labels)
    assert row["agreement"] == row["accuracy"] == 1.0 and row["largest_difference"] == row["accuracy_change"] == 0.0
    for name, wrong in (
        ("logits", live + 1e-3),
        ("logits", live * np.nan),
        ("class_id", 1 - labels),
        ("batch_of_7", live[:7] + 1e-2),
    ):
        with pytest.raises(parity_check.ExportError):
            compared(live, labels, **{name: wrong})


def test_a_file_that_is_less_accurate_by_more_than_chance_is_named():
    random = np.random.default_rng(0)
    labels, rounded = random.integers(0, 2, 1000), formats.ExportFile("int8", "litert", None, 0.5, 2.0, near_tie=0.0)
    live = np.eye(2)[labels] + 0.4 * random.normal(size=[1000, 2])
    rows = []
    for noise in (0.02, 0.4):  # changes few answers, and many
        logits = live + noise * random.normal(size=live.shape)
        rows.append(compared(live, labels, rounded, logits=logits, class_id=logits.argmax(axis=1)))
    level, behind = rows
    assert parity_check.costly([level]) == []
    (sentence,) = parity_check.costly(rows)
    change = behind["accuracy"] - (live.argmax(axis=1) == labels).mean()
    assert behind["accuracy_change"] == pytest.approx(change) and change < -0.03
    assert sentence.startswith(f"int8 is behind the student on the same 1,000 images: {100 * change:+.1f} points")


def test_classes_may_change_places_in_a_near_tie_and_nowhere_else():
    half, labels = formats.ExportFile("f", "litert", None, 1.0, 0.05), np.array([0, 1])
    live = np.array([[2.0, 1.99, 0.0], [0.0, 1.0, 0.95]])  # apart by 0.5% and by 2.5% of the largest logit
    ones = np.array([1, 1])
    assert compared(live, labels, half, class_id=ones)["agreement"] == 0.5  # the model card counts near ties too
    with pytest.raises(parity_check.ExportError, match=r"50\.0000% of the 2 images"):
        compared(live, labels, EXACT, class_id=ones)
    with pytest.raises(parity_check.ExportError, match=r" 0\.0000% of the 1 images that are not near ties"):
        compared(live, labels, half, class_id=np.array([0, 2]))
    (int8,) = [file for file in formats.files_of(["litert"]) if "int8" in file.name]
    assert compared(live, labels, int8, class_id=np.array([1, 2]))["agreement"] == 0
    with pytest.raises(parity_check.ExportError, match=r" 0\.0000% of the 1 images that are not near ties; 80\.0%"):
        compared(np.array([[2.0, 1.7, 0.0], [0.0, 1.0, 0.95]]), labels, int8, class_id=ones)


@pytest.mark.slow
def test_a_teacher_inside_is_counted(calibrated_run, tmp_path):
    """A SavedModel that also holds another network's variables has too many numbers."""
    student, images = loading.load(calibrated_run), images_of_the_test_split(16)
    saved_model.save_saved_model(student, tmp_path / "plain", [str(i) for i in range(10)])
    module = tf.saved_model.load(str(tmp_path / "plain"))
    module.teacher = tf.Variable(tf.zeros([5000]))
    tf.saved_model.save(module, str(tmp_path / "saved_model"), signatures=module.signatures)
    files, live = formats.files_of(["saved_model"]), predictor.Predictor(student)(images)
    with pytest.raises(parity_check.ExportError, match="holds"):
        parity_check.check(files, tmp_path, images, np.zeros(16, int), live, student.count_params())


def test_a_file_that_is_too_slow_is_named(tmp_path, monkeypatch):
    def run(command, timeout, **_):
        raise parity_check.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(parity_check.subprocess, "run", run)
    images = np.zeros([2, 8, 8, 1], np.uint8)
    with pytest.raises(parity_check.ExportError, match=r"f has not answered .* within 600 seconds\. Lower"):
        parity_check.check([EXACT], tmp_path, images, np.zeros(2, int), np.zeros([2, 10]), 1)


def test_one_text_is_one_format():
    assert formats.files_of("litert") == formats.files_of(["litert"])


def test_wrong_arguments_are_found_first(digits_run, tmp_path, monkeypatch):
    out, taken, find = tmp_path / "out", tmp_path / "taken", importlib.util.find_spec
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    for run, folder, names, words in (
        (digits_run, out, ["tflite"], "Unknown format"),
        (tmp_path, out, ["keras"], "not finished"),
        (digits_run, taken, ["keras"], "not empty"),
        (digits_run, out, ["onnx"], "Install them"),
    ):
        with pytest.raises(InputError, match=words):
            export_student(run, folder, formats=names)
    monkeypatch.setattr(pathlib.Path, "is_mount", lambda path: path == tmp_path / "mounted")
    (tmp_path / "mounted").mkdir()
    with pytest.raises(InputError, match=r"mounted folder.*--output=.*mounted/student"):
        export_student(digits_run, tmp_path / "mounted", formats=["keras"])
    assert not out.exists()


def test_data_that_has_changed_is_said_and_so_is_what_was_held_out(tmp_path, capsys):
    settings = Config(dataset=f"folder:{make_folder(tmp_path, per_class=10, size=lambda i: (8, 8))}").pick(
        data.DataSettings
    )
    loaded = data.load(settings)
    before = {"dataset": {"version": "another"}}
    export_student_module._require_unchanged(tmp_path, before, loaded, settings)  # it has a test part of its own
    assert "has changed since the run (version another, now" in capsys.readouterr().err
    export_student_module._require_unchanged(tmp_path, {}, loaded, settings)  # a run of an earlier version
    assert capsys.readouterr().err == ""
    held_out = export_student_module._held_out
    assert held_out(loaded) == "3 images of the training split were held out for validation."
    assert (
        held_out(dataclasses.replace(loaded, drawn_from=None))
        == "The validation split, 3 images, is the dataset's own."
    )
    assert held_out(dataclasses.replace(loaded, validation=None)) == "No images were held out for validation."


def test_a_run_s_folder_may_have_another_path_now_and_another_folder_is_refused(tmp_path, monkeypatch):
    photos = make_folder(tmp_path / "photos", per_class=2, size=lambda i: (8, 8), formats=(".png",))
    other = make_folder(tmp_path / "other", per_class=3, size=lambda i: (8, 8), formats=(".png",))
    settings = data.DataSettings(dataset=f"folder:{photos}")
    run = tmp_path / "run"
    run.mkdir()
    config = Config(dataset="folder:photos")
    write_json(run / "result.json", {"config": config.to_json(), "student": {}, "class_names": []})
    write_json(run / "measurements.json", {"dataset": {"version": data.load(settings).version}})
    monkeypatch.setattr(export_student_module.paths, "require", lambda path: None)
    monkeypatch.setattr(loading, "load", unittest.mock.Mock(side_effect=RuntimeError("loaded")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="--dataset=folder:/ABSOLUTE/PATH"):
        export_student(run, tmp_path / "out")
    with pytest.raises(RuntimeError, match="loaded"):
        export_student(run, tmp_path / "out", dataset=f"folder:{photos}")
    for wrong in (f"folder:{other}", f"images:{photos}", "digits"):
        with pytest.raises(InputError, match=r"run's own data.*name that folder's path"):
            export_student(run, tmp_path / "out", dataset=wrong)


@pytest.mark.slow
def test_saved_model_cli_shows_and_runs_it(exported, tmp_path):
    np.save(tmp_path / "images.npy", images_of_the_test_split(3))
    where = ["--dir", exported[0] / "saved_model", "--tag_set", "serve", "--signature_def", "serving_default"]
    tool = ("-m", "tensorflow.python.tools.saved_model_cli")
    shown = python(*tool, "show", *where)
    assert "DT_UINT8" in shown and all(name in shown for name in ("logits", "probabilities", "class_id", "label"))
    ran = python(*tool, "run", *where, "--inputs", f"images={tmp_path / 'images.npy'}")
    assert "Result for output key probabilities" in ran


def test_an_output_that_cannot_be_written_is_refused_at_once(digits_run, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with bound_by_permissions():
        for output in (locked, locked / "new", locked / "new" / "deeper"):
            with pytest.raises(InputError, match=f"The output cannot be written.*{locked} is read-only"):
                export_student(digits_run, output)
    assert locked.stat().st_mode & 0o777 == 0o555 and not list(locked.iterdir())
