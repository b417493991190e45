"""Evaluating and calibrating finished models: the right metrics of the right probabilities, and no weight changes."""

import dataclasses
import hashlib
import json
import shutil
import sys
import types

import keras
import numpy as np
import pytest

from skd_tf import data, evaluate, losses
from skd_tf.config import Config
from skd_tf.data.catalog import size_and_resize
from skd_tf.errors import InputError
from skd_tf.evaluation import evaluate_models, metrics, predictor, temperature_scaling
from skd_tf.models import deployable, loading
from skd_tf.runs import run_files
from skd_tf.runs.run_record import conflicting_data_seed
from skd_tf.training import experiment
from tests.helpers.images import make_folder


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


@pytest.fixture
def workdir(digits_run, tmp_path):
    """A copy of the finished run that a test may change."""
    return shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))


def digests(folder):
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.rglob("*")) if file.is_file()}


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments])
    with pytest.raises(SystemExit) as ended:
        evaluate.cli_main()
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_every_kind_of_model_gives_the_numbers_of_the_run(workdir, tmp_path, monkeypatch, capsys):
    result = json.loads((workdir / "result.json").read_text())
    teacher, before = result["config"]["teacher_checkpoint"], digests(workdir)
    paths = [workdir, workdir / "student.keras", workdir / "saved_model"]
    output = tmp_path / "out.json"
    arguments = [
        *(f"--model={path}" for path in paths),
        f"--teacher={teacher}",
        f"--output={output}",
        "--bootstrap=200",
    ]
    code, out, err = command(monkeypatch, capsys, *arguments)
    assert code == 0, err
    record = json.loads(output.read_text())
    assert [row["path"] for row in record["models"]] == [str(path) for path in paths]
    for row in record["models"]:
        for name in ("accuracy", "nll", "brier", "ece", "confidence", "agreement", "kl_to_teacher", "parameters"):
            assert row[name] == pytest.approx(result["student"][name], abs=1e-5), name
        assert row["overconfidence"] == pytest.approx(row["confidence"] - row["accuracy"])
        assert row["confidence_gap"] == pytest.approx(record["teacher"]["confidence"] - row["confidence"])
        assert len(row["per_class_accuracy"]) == 10 and row["intervals"]["accuracy"][0] < row["accuracy"]
        assert row["latency_ms"]["median"] > 0 and row["images_per_second"]["median"] > 0
        assert row["flops"] == 2 * (64 * 9 * 4 + 16 * 9 * 4 * 8 + 8 * 10)  # cnn_4 by hand
    assert record["models"][0]["file_bytes"] == (workdir / "student.keras").stat().st_size
    assert record["models"][0]["raw"]["logit_norm"] == pytest.approx(result["student"]["logit_norm"], rel=1e-5)
    assert {"versions", "device", "dataset"} <= record.keys()
    for words in (
        str(workdir),
        "agreement at 5",
        "KL to the teacher",
        "images/s at batch 128",
        "raw softmax",
        "lowest",
    ):
        assert words in out, words
    assert digests(workdir) == before


def test_evaluating_changes_no_weight(workdir, digits, monkeypatch):
    model = loading.load(workdir)
    monkeypatch.setattr(loading, "load", lambda path, **options: model)
    before = [weight.copy() for weight in model.get_weights()]
    evaluate_models.evaluate_models([workdir], digits, timing=False, bootstrap_samples=0)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


def test_the_raw_softmax_of_a_student_on_the_sphere_is_worse(workdir, digits):
    """Its loss saw only projected logits. Their softmax is its probability; the raw softmax is not."""
    (row,) = evaluate_models.evaluate_models([workdir], digits, timing=False, bootstrap_samples=0)["models"]
    radius = json.loads((workdir / "result.json").read_text())["radius"]
    raw = predictor.Predictor(deployable.without_sphere(loading.load(workdir)))(digits.test.images)
    on_sphere = metrics.quality(losses.project(raw, radius), digits.test.labels)
    for name in ("nll", "ece", "confidence"):
        assert row[name] == pytest.approx(on_sphere[name], abs=1e-5), name
        assert row["raw"][name] == pytest.approx(metrics.quality(raw, digits.test.labels)[name], abs=1e-5), name
    assert row["raw"]["accuracy"] == row["accuracy"]
    assert row["raw"]["nll"] > 1.02 * row["nll"] and row["raw"]["ece"] > 1.1 * row["ece"]


def test_probabilities_become_logits_and_a_teacher_is_preprocessed_as_in_training(workdir, digits, tmp_path, capsys):
    """Neither a softmax at the end, even inside a SavedModel, nor pixels scaled outside the model change a metric."""
    student = loading.load(workdir)
    softmax = keras.Model(student.input, keras.layers.Softmax()(student.output))
    softmax.save(tmp_path / "softmax.keras")
    softmax.export(str(tmp_path / "served"), verbose=False)
    images = keras.Input(digits.image_shape)
    keras.Model(images, student(keras.layers.Rescaling(255.0)(images))).save(tmp_path / "unit.keras")
    paths = [workdir, tmp_path / "softmax.keras", tmp_path / "served"]
    shared = {"timing": False, "bootstrap_samples": 0}
    found = evaluate_models.evaluate_models(
        paths, digits, teacher=tmp_path / "unit.keras", teacher_preprocessing="unit", **shared
    )
    assert capsys.readouterr().err.count("warning: ") == 2
    for row in [*found["models"], found["teacher"]]:
        for name in ("accuracy", "nll", "ece", "confidence"):
            assert row[name] == pytest.approx(found["models"][0][name], abs=1e-5), (row["path"], name)
    assert all(row["agreement"] == 1.0 and abs(row["kl_to_teacher"]) < 1e-5 for row in found["models"])
    twice = evaluate_models.evaluate_models([workdir, workdir], digits, teacher=tmp_path / "unit.keras", **shared)
    assert len(twice["models"]) == 2
    assert twice["teacher"]["nll"] > 1.2 * found["teacher"]["nll"]  # it saw raw pixels


def test_a_run_is_not_tested_on_its_training_images(tmp_path, monkeypatch, capsys):
    """data_seed splits a folder without a test part: most test images of another seed were training images."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    run, dataset = tmp_path / "run", f"folder:{tmp_path / 'photos'}"
    (run / "saved_model").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(Config(dataset=dataset, image_size=8, data_seed=1).to_json()))
    for path in (run, run / "saved_model", run / "student.keras"):
        arguments = [f"--model={path}", f"--dataset={dataset}", "--image_size=8"]
        code, _, err = command(monkeypatch, capsys, *arguments, "--data_seed=0")
        assert code == 2 and "has trained on most of these test images" in err and "--data_seed=1" in err, err
        for own in (["--data_seed=1"], []):
            code, _, err = command(monkeypatch, capsys, *arguments, *own)
            assert "has trained on" not in err
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "another program\'s"}')
    assert (
        conflicting_data_seed(tmp_path / "foreign", dataset, 0) is None and conflicting_data_seed(run, dataset, 0) == 1
    )
    for part in ("train", "test"):
        (tmp_path / "photos" / part).mkdir()
    assert conflicting_data_seed(run, dataset, 0) is None  # every seed has the same test images
    assert conflicting_data_seed(run, "cifar10", 5) is None


def test_a_run_is_measured_on_the_pixels_of_its_own_test_and_a_warning_names_the_others(tmp_path, monkeypatch, capsys):
    """One run was tested on the middle 7/8 of each photograph, the other on all of it."""

    class Measured(Exception):
        pass

    def load(config, *_):
        return types.SimpleNamespace(config=config, image_shape=(config.image_size, config.image_size, 3))

    def measure(paths, dataset, **options):
        raise Measured(*size_and_resize(dataset.config))

    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(evaluate_models, "evaluate_models", measure)

    def measured(paths, flags):
        monkeypatch.setattr(sys, "argv", ["evaluate", *(f"--model={path}" for path in paths), *flags])
        with pytest.raises(Measured) as end:
            evaluate.cli_main()
        return end.value.args, [line for line in capsys.readouterr().err.splitlines() if "other pixels" in line]

    own = f"--dataset=folder:{make_folder(tmp_path / 'photos', per_class=1)}"
    cropped, whole = tmp_path / "cropped", tmp_path / "whole"
    for path, augmentation in ((cropped, "resized_crop"), (whole, "pad_crop")):
        path.mkdir()
        config = Config(dataset=own.partition("=")[2], image_size=16, augmentation=augmentation)
        (path / "config.json").write_text(json.dumps(config.to_json()))
    middle, all_of_it = (16, 18), (16, 16)
    for paths, flags, pixels, told in (
        ([cropped], [], middle, []),
        ([cropped], [own], middle, []),
        ([cropped], [own, "--image_size=16"], middle, []),
        ([cropped], ["--image_size=16"], middle, []),
        ([cropped / "student.keras"], [own], middle, []),
        ([cropped / "saved_model"], [], middle, []),
        ([whole], [own], all_of_it, []),
        ([cropped, whole], [], middle, [whole]),
        ([whole, cropped], [own], all_of_it, [cropped]),
        ([cropped], ["--augmentation=pad_crop"], all_of_it, [cropped]),  # what the user names
        ([cropped], [own, "--augmentation=none"], all_of_it, [cropped]),
        ([cropped], [own, "--image_size=12"], (12, 14), [cropped]),
    ):
        seen, lines = measured(paths, flags)
        assert seen == pixels and len(lines) == len(told), (paths, flags)
        for path, line in zip(told, lines, strict=True):
            there = middle if path == cropped else all_of_it
            assert f"{path} is" in line and "the middle {} of {} here, {} of {} there".format(*pixels, *there) in line


def test_calibration_is_fitted_on_what_the_run_held_out(workdir, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out.json"
    loaded = []
    load = data.load
    monkeypatch.setattr(data, "load", lambda *a, **k: loaded.append((a[0].validation_fraction, k)) or load(*a, **k))
    arguments = [f"--model={workdir}", "--calibrate", "--notiming", f"--output={output}"]
    code, out, err = command(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert (0.1, {"test": False}) in loaded  # the fit cannot see the test split
    held_out = load(Config(), test=False).validation
    logits = predictor.Predictor(loading.load(workdir))(held_out.images)
    temperature = temperature_scaling.fit_temperature(logits, held_out.labels)
    record = temperature_scaling.stored(workdir)
    assert record["temperature"] == pytest.approx(temperature, rel=1e-6)
    assert record["validation_examples"] == len(held_out)
    assert record["after"]["nll"] < record["before"]["nll"]
    (row,) = json.loads(output.read_text())["models"]
    fitted = row["calibrated"]
    assert fitted["temperature"] == record["temperature"] and fitted["accuracy"] == row["accuracy"]
    assert fitted["nll"] < row["nll"] and f"T = {temperature:.3f}" in out
    calibrated = deployable.with_temperature(loading.load(workdir), temperature)
    images = held_out.images[:7].astype("float32")
    np.testing.assert_allclose(calibrated(images), logits[:7] / temperature, atol=1e-5)
    assert {type(layer).__module__.partition(".")[0] for layer in calibrated._flatten_layers()} == {"keras"}


def test_calibration_needs_held_out_images(workdir, digits):
    nothing = dataclasses.replace(digits, validation=None)
    with pytest.raises(InputError, match="Nothing was held out"):
        evaluate_models.calibrate(workdir, nothing)


def test_a_calibration_belongs_to_one_student(workdir):
    assert temperature_scaling.stored(workdir) is None
    zeros = {"nll": 0.0, "ece": 0.0}
    temperature_scaling.store(workdir, 2.0, examples=1, before=zeros, after=zeros)
    assert temperature_scaling.stored(workdir)["temperature"] == 2.0
    model = keras.models.load_model(workdir / "student.keras")
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    model.save(workdir / "student.keras")
    with pytest.raises(InputError, match="another student"):
        temperature_scaling.stored(workdir)
    (workdir / run_files.CALIBRATION).write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        temperature_scaling.stored(workdir)


def test_wrong_flags_are_one_line_and_nothing_is_measured(workdir, tmp_path, monkeypatch, capsys):
    cases = [
        (["--calibrate", f"--model={workdir / 'student.keras'}"], "no training has seen"),
        (["--calibrate", f"--model={workdir}", "--dataset=mnist"], "the run's own data"),
        ([f"--model={workdir}", f"--output={tmp_path / 'no' / 'x.json'}"], "no folder"),
        ([f"--model={workdir}", f"--teacher={tmp_path}"], "No model there"),
        ([], "--model is missing"),
    ]
    for arguments, words in cases:
        code, out, err = command(monkeypatch, capsys, *arguments)
        assert code == 2 and words in err and err.count("\n") == 1, err
        assert "95%" not in out
    assert not (workdir / run_files.CALIBRATION).exists()


def test_the_help_shows_the_commands_own_flags(monkeypatch, capsys):
    """--teacher is a path here and a network's name in training: each command explains its own."""
    code, out, _ = command(monkeypatch, capsys, "--help")
    assert code == 0 and "a model to compare with" in out and "network to train as the teacher" not in out
    assert all(f"--{name}" in out for name in ("model", "teacher", "calibrate", "bootstrap", "timing", "dataset"))


def test_a_run_writes_its_report_and_measurements(digits_run):
    result = json.loads((digits_run / "result.json").read_text())
    details = json.loads((digits_run / "measurements.json").read_text())
    assert details["models"].keys() == {"teacher", "student"} and details["dataset"]["test"] == 899
    assert details["models"]["student"]["raw"]["nll"] > result["student"]["nll"]
    assert details["seconds"]["training"] == result["seconds"]
    assert details["seconds"].keys() == {"data and teacher", "student alone", "training", "export", "measuring"}
    page = (digits_run / "report.html").read_text()
    assert f"{result['student']['accuracy']:.4f}" in page and page.count("<svg") > 12
    config = Config.from_json(result["config"])
    assert experiment.Workdir(digits_run, config).result == result
