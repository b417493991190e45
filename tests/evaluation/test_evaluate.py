"""Evaluating and calibrating finished models: the right metrics of the right probabilities, and no weight changes."""

import dataclasses
import functools
import json
import pathlib
import shutil
import types
import unittest.mock

import keras
import numpy as np
import pytest

from skd_tf import data, evaluate, losses, networks
from skd_tf.config import Config
from skd_tf.data.catalog import size_and_resize
from skd_tf.errors import InputError
from skd_tf.evaluation import cost, evaluate_models, measured_runs, metrics, predictor, temperature_scaling
from skd_tf.models import deployable, loading, paths
from skd_tf.runs import predictions, run_files
from skd_tf.runs.workdir import require_output
from skd_tf.runtime.files import write_json
from skd_tf.training import experiment
from tests.helpers.commands import exit_code
from tests.helpers.images import make_folder
from tests.helpers.nets import weights_of
from tests.helpers.runs import read_json

NAMES = ("accuracy", "nll", "ece", "confidence")
evaluated = functools.partial(evaluate_models.evaluate_models, timing=False, bootstrap_samples=0)


@pytest.fixture(scope="module")
def digits():
    return data.load(data.DataSettings())


@pytest.fixture
def workdir(digits_run, tmp_path):
    """A copy of the finished run that a test may change."""
    return shutil.copytree(digits_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def before_calibration(workdir):
    return deployable.without_temperature(loading.load(workdir))[0]


def require_same(row, expected, names=NAMES):
    for name in names:
        assert row[name] == pytest.approx(expected[name], abs=1e-5), name


def test_every_kind_of_model_gives_the_numbers_of_the_run(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cost, "timing", functools.partial(cost.timing, seconds=0.05))
    result, before, output = read_json(workdir / "result.json"), files_of(workdir), tmp_path / "out.json"
    paths = [workdir, workdir / "student.keras", workdir / "saved_model"]
    flags = [f"--teacher={result['config']['teacher_checkpoint']}", f"--output={output}", "--bootstrap=200"]
    assert exit_code(evaluate.cli_main, *(f"--model={path}" for path in paths), *flags) == 0
    out, record = capsys.readouterr().out, read_json(output)
    assert [row["path"] for row in record["models"]] == [str(path) for path in paths]
    labels = predictions.decode(record["labels"])
    for row in record["models"]:
        assert (predictions.decode(row["predictions"]) == labels).mean() == pytest.approx(row["accuracy"], abs=1e-9)
        require_same(row, result["student"], (*NAMES, "brier", "agreement", "kl_to_teacher", "parameters"))
        assert row["overconfidence"] == pytest.approx(row["confidence"] - row["accuracy"])
        assert row["confidence_gap"] == pytest.approx(record["teacher"]["confidence"] - row["confidence"])
        assert len(row["per_class_accuracy"]) == 10 and row["intervals"]["accuracy"][0] < row["accuracy"]
        assert row["latency_ms"]["median"] > 0 and row["images_per_second"]["median"] > 0
        assert row["flops"] == 2 * (64 * 9 * 4 + 16 * 9 * 4 * 8 + 8 * 10)  # cnn_4 by hand
    assert record["models"][0]["file_bytes"] == (workdir / "student.keras").stat().st_size
    assert record["models"][0]["raw"]["logit_norm"] == pytest.approx(result["student"]["logit_norm"], rel=1e-5)
    assert {"versions", "device", "dataset"} <= record.keys()
    assert [one["second"] for one in record["comparisons"]] == [str(path) for path in paths[1:]]
    assert f"{paths[0]} and {paths[2]} cannot be told apart on these 899 images: +0.0 points" in out
    shown = ("agreement at 5", "KL to the teacher", "images/s at batch 128", "raw softmax", "lowest", str(workdir))
    assert [words for words in shown if words not in out] == []
    assert files_of(workdir) == before


@pytest.mark.slow
def test_two_devices_measure_what_one_does(workdir, digits, two_replicas, monkeypatch):
    """Student on the sphere, its raw logits, and the teacher; a SavedModel stays on one device."""
    teacher, used = read_json(workdir / "result.json")["config"]["teacher_checkpoint"], []
    compute = predictor._Place._compute
    monkeypatch.setattr(
        predictor._Place, "_compute", lambda self, *given: used.append(self._device) or compute(self, *given)
    )
    paths = [workdir, workdir / "saved_model"]
    one, two = (
        evaluated(paths, digits, teacher=teacher, devices=names)
        for names in ((), predictor.local_devices(two_replicas))
    )
    assert one == two
    assert len(used) == 2 * 3 and len({*used}) == 2


def test_the_raw_softmax_of_a_student_on_the_sphere_is_worse_and_no_weight_changes(workdir, digits, monkeypatch):
    """Its loss saw only projected logits. Their softmax is its probability; the raw softmax is not."""
    model, labels = loading.load(workdir), digits.test.labels
    before = weights_of(model)
    monkeypatch.setattr(loading, "load", lambda path, **options: model)
    (row,) = evaluated(workdir, digits)["models"]
    np.testing.assert_array_equal(weights_of(model), before)
    raw = predictor.Predictor(deployable.without_sphere(model))(digits.test.images)
    require_same(row, metrics.quality(losses.project(raw, read_json(workdir / "result.json")["radius"]), labels))
    require_same(row["raw"], metrics.quality(raw, labels))
    assert row["raw"]["accuracy"] == row["accuracy"]
    assert row["raw"]["nll"] > 1.02 * row["nll"] and row["raw"]["ece"] > 1.1 * row["ece"]


def test_an_output_that_is_a_folder_is_refused_before_anything_is_measured(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load", None)
    for name in ("output", "predictions_file"):
        with pytest.raises(InputError, match=f"The output is a folder.*--{name.partition('_')[0]}="):
            evaluate_models.evaluate_and_print(workdir, {}, **{name: tmp_path})


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x00 what it was", b"\x1f\x8b of gzip", b"PK\3\4\0\0 of a .keras"])
def test_a_picture_or_a_model_is_never_replaced_by_an_output(tmp_path, content):
    path = tmp_path / "what.it.was"
    path.write_bytes(content)
    for flag in ("output", "predictions"):
        with pytest.raises(InputError, match=f"holds no text.*--{flag}="):
            require_output(path, flag=flag)
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "table.csv").write_text("file,class\nä.png,ö\n" * 300, encoding=encoding)
        assert require_output(tmp_path / "table.csv") == tmp_path / "table.csv"


@pytest.mark.slow
def test_probabilities_become_logits_and_a_teacher_is_preprocessed_as_in_training(workdir, digits, tmp_path, capsys):
    """Neither a softmax at the end, even inside a SavedModel, nor pixels scaled outside the model change a metric."""
    student, teacher = before_calibration(workdir), tmp_path / "unit.keras"
    softmax = keras.Model(student.input, keras.layers.Softmax()(student.output))
    softmax.save(tmp_path / "softmax.keras")
    softmax.export(str(tmp_path / "served"), verbose=False)
    images = keras.Input(digits.image_shape)
    keras.Model(images, student(keras.layers.Rescaling(255.0)(images))).save(teacher)
    paths = [workdir, tmp_path / "softmax.keras", tmp_path / "served"]
    found = evaluated(paths, digits, teacher=teacher, teacher_preprocessing="unit")
    assert capsys.readouterr().err.count("warning: ") == 2
    for row in [*found["models"], found["teacher"]]:
        require_same(row, found["models"][0])
    assert all(row["agreement"] == 1.0 and abs(row["kl_to_teacher"]) < 1e-5 for row in found["models"])
    twice = evaluated([workdir, workdir], digits, teacher=teacher)
    assert len(twice["models"]) == 2
    assert twice["teacher"]["nll"] > 1.2 * found["teacher"]["nll"]  # it saw raw pixels


def test_a_run_is_measured_on_the_pixels_of_its_own_test_and_a_warning_names_the_others(tmp_path, monkeypatch, capsys):
    """One run was tested on the middle 7/8 of each photograph, the other on all of it."""

    def load(config, *_, **__):
        shape = (config.image_size, config.image_size, 3)
        return types.SimpleNamespace(
            config=config, image_shape=shape, png_bits=None, test=(), class_names=(), warnings=()
        )

    measure = unittest.mock.Mock(side_effect=RuntimeError("measured"))
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr(evaluate_models, "evaluate_models", measure)
    monkeypatch.setattr(measured_runs, "require_unseen", lambda *_: [])
    for owner in (evaluate_models, paths):
        monkeypatch.setattr(owner, "require", lambda path, **_: None)  # the folders hold settings alone
    own = f"--dataset=folder:{make_folder(tmp_path / 'photos', per_class=1)}"
    cropped, whole = tmp_path / "cropped", tmp_path / "whole"
    for path, augmentation in ((cropped, "resized_crop"), (whole, "pad_crop")):
        path.mkdir()
        config = Config(dataset=own.partition("=")[2], image_size=16, augmentation=augmentation)
        write_json(path / "config.json", config.to_json())
    middle, all_of_it = (16, 18), (16, 16)
    for models, flags, pixels, other in (
        ([cropped], [], middle, None),
        ([cropped], [own], middle, None),
        ([cropped], [own, "--image_size=16"], middle, None),
        ([cropped], ["--image_size=16"], middle, None),
        ([cropped / "student.keras"], [own], middle, None),
        ([cropped / "saved_model"], [], middle, None),
        ([whole], [own], all_of_it, None),
        ([cropped, whole], [], middle, whole),
        ([whole, cropped], [own], all_of_it, cropped),
        ([cropped], ["--augmentation=pad_crop"], all_of_it, cropped),  # what the user names
        ([cropped], [own, "--augmentation=none"], all_of_it, cropped),
        ([cropped], [own, "--image_size=12"], (12, 14), cropped),
    ):
        with pytest.raises(RuntimeError, match="measured"):
            exit_code(evaluate.cli_main, *(f"--model={path}" for path in models), *flags)
        lines = [line for line in capsys.readouterr().err.splitlines() if "is not measured on the pixels" in line]
        assert size_and_resize(measure.call_args.args[1].config) == pixels, (models, flags)
        assert len(lines) == (other is not None), (models, flags)
        if other:
            there = middle if other == cropped else all_of_it
            assert f"{other} is" in lines[0]
            assert "here the middle {} of {}, in its run the middle {} of {} (".format(*pixels, *there) in lines[0]


def test_another_rule_for_16_bit_files_than_the_run_s_is_said(tmp_path, capsys):
    for name, bits in (("twelve", 12), ("sixteen", 16), ("none", None)):
        (tmp_path / name).mkdir()
        facts = {"dataset": {} if bits is None else {"png_bits": bits}}
        write_json(tmp_path / name / "measurements.json", facts)
    models = [tmp_path / name for name in ("twelve", "sixteen", "none", "nowhere")]
    for bits, warned in ((12, "sixteen"), (16, "twelve"), (None, "")):
        measured_runs.warn_of_other_depths(models, bits)
        lines = capsys.readouterr().err.splitlines()
        assert [tmp_path / warned for _ in lines] == [pathlib.Path(line.split()[1]) for line in lines]
        assert len(lines) == bool(warned)
        if bits == 12:
            assert "divided by 16 here, by 256 there" in lines[0] and "(12 and 16 bits)" in lines[0]


def test_calibration_is_fitted_on_what_the_run_held_out(workdir, tmp_path, monkeypatch, capsys):
    output, loaded, load = tmp_path / "out.json", [], data.load
    monkeypatch.setattr(data, "load", lambda *a, **k: loaded.append((a[0].validation_fraction, k)) or load(*a, **k))
    flags = [f"--model={workdir}", "--calibrate", "--notiming", f"--output={output}"]
    assert exit_code(evaluate.cli_main, *flags) == 0
    assert (0.1, {"test": False}) in loaded  # the fit cannot see the test split
    held_out = load(Config(), test=False).validation
    logits = predictor.Predictor(before_calibration(workdir))(held_out.images)
    temperature = temperature_scaling.fit_temperature(logits, held_out.labels)
    record = temperature_scaling.stored(workdir)
    assert record["temperature"] == pytest.approx(temperature, rel=1e-6)
    assert record["validation_examples"] == len(held_out) and record["after"]["nll"] < record["before"]["nll"]
    (row,) = read_json(output)["models"]
    fitted = row["calibrated"]
    assert fitted["temperature"] == record["temperature"] and fitted["accuracy"] == row["accuracy"]
    assert fitted["nll"] < row["nll"] and f"T={temperature:.3f}" in capsys.readouterr().out
    calibrated = deployable.with_temperature(before_calibration(workdir), temperature)
    images = held_out.images[:7].astype("float32")
    np.testing.assert_allclose(calibrated(images), logits[:7] / temperature, atol=1e-5)
    assert {type(layer).__module__.partition(".")[0] for layer in calibrated._flatten_layers()} == {"keras"}
    assert (
        exit_code(evaluate.cli_main, *flags[::2], f"--output={output}", "--bootstrap=0") == 0
    )  # as predict and export
    (row,) = read_json(output)["models"]
    assert [row["calibrated"][name] for name in ("temperature", "nll")] == [fitted["temperature"], fitted["nll"]]
    assert row["calibrated"]["validation_examples"] == 90


def test_a_calibration_belongs_to_one_student_and_needs_held_out_images(workdir, digits):
    with pytest.raises(InputError, match="held out no images, or a share that rounds"):
        evaluate_models.calibrate(workdir, dataclasses.replace(digits, validation=None))
    assert temperature_scaling.stored(workdir) is None
    zeros = {"nll": 0.0, "ece": 0.0}
    temperature_scaling.store(workdir, 2.0, examples=1, before=zeros, after=zeros)
    assert temperature_scaling.stored(workdir)["temperature"] == 2.0
    record = read_json(workdir / run_files.CALIBRATION)
    (workdir / run_files.CALIBRATION).write_text(json.dumps(record | {"temperature": "2.0"}))
    assert temperature_scaling.stored(workdir)["temperature"] == 2.0  # a number, as predict prints it
    settings = (workdir / run_files.CONFIG).read_text()
    (workdir / run_files.CONFIG).write_text(settings[:-40])
    for model in (workdir, workdir / "student.keras", workdir / "saved_model"):
        with pytest.raises(InputError):  # without a word another temperature would be used
            temperature_scaling.of_run_behind(model)
    (workdir / run_files.CONFIG).write_text('{"model_type": "of another program"}')
    assert temperature_scaling.of_run_behind(workdir) is None
    (workdir / run_files.CONFIG).write_text(settings)
    keras.models.clone_model(keras.models.load_model(workdir / "student.keras")).save(workdir / "student.keras")
    with pytest.raises(InputError, match=f"another student.*--model={workdir} --calibrate"):
        temperature_scaling.stored(workdir)
    (workdir / run_files.CALIBRATION).write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        temperature_scaling.stored(workdir)


def test_wrong_flags_are_one_line_and_nothing_is_measured(workdir, tmp_path, capsys):
    for flags, words in (
        (["--calibrate", f"--model={workdir / 'student.keras'}"], "no training has seen"),
        (["--calibrate", f"--model={workdir}", "--dataset=mnist"], "the run's own data"),
        ([f"--model={workdir}", f"--output={tmp_path / 'no' / 'x.json'}"], "no folder"),
        ([f"--model={workdir}", f"--teacher={tmp_path}"], "No model there"),
        ([f"--model={workdir}", "--bootstrap=1"], "gives no 95% interval"),
        ([], "--model is missing"),
    ):
        assert exit_code(evaluate.cli_main, *flags) == 2
        out, err = capsys.readouterr()
        assert words in err and err.count("\n") == 1 and "95%" not in out, err
    assert not (workdir / run_files.CALIBRATION).exists()


def test_runs_of_different_sizes_are_refused_before_tensorflow_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "require", lambda path, **_: None)  # the folders hold settings alone
    load = unittest.mock.Mock(side_effect=RuntimeError("loaded"))
    monkeypatch.setattr(evaluate.tf_logging, "import_tensorflow", load)
    for name, size, student in (("small", 32, "cnn_2"), ("big", 48, "cnn_2"), ("own", 48, "nets:any_size")):
        (tmp_path / name).mkdir()
        config = Config(dataset="folder:photos", image_size=size, student=student)
        write_json(tmp_path / name / "config.json", config.to_json())
    both = [f"--model={tmp_path / name}" for name in ("small", "big")]
    for flags in (both, [*both, "--image_size=32"]):
        assert exit_code(evaluate.cli_main, *flags) == 2
        err = capsys.readouterr().err
        assert "different sizes" in err and "small for 32x32 pixels" in err and "its own command" in err
    for other in (tmp_path / "small", tmp_path / "own", tmp_path / "other.keras"):
        with pytest.raises(RuntimeError, match="loaded"):
            exit_code(evaluate.cli_main, both[0], f"--model={other}")


def test_several_models_of_different_sizes_without_records_are_told_so(digits, tmp_path):
    for size in (8, 16):
        networks.build("cnn_2", input_shape=(size, size, 1), num_classes=10, seed=0).save(tmp_path / f"{size}.keras")
    with pytest.raises(InputError, match="one command each"):
        evaluated([tmp_path / "8.keras", tmp_path / "16.keras"], digits)


def test_the_help_shows_the_commands_own_flags(capsys):
    """--teacher is a path here and a network's name in training: each command explains its own."""
    assert exit_code(evaluate.cli_main, "--help") == 0
    out = capsys.readouterr().out
    assert "a model to compare with" in out and "network to train as the teacher" not in out
    names = "model", "teacher", "[no]calibrate", "bootstrap", "[no]timing (default: true)", "dataset"
    assert all(f"--{name}" in out for name in names) and "PRESET; can be repeated" in " ".join(out.split())


def test_a_run_writes_its_report_and_measurements(digits_run):
    result, details = read_json(digits_run / "result.json"), read_json(digits_run / "measurements.json")
    assert details["models"].keys() == {"teacher", "student"} and details["dataset"]["test"] == 899
    assert details["models"]["student"]["raw"]["nll"] > result["student"]["nll"]
    assert details["seconds"]["training"] == result["seconds"]
    parts = {"data and teacher", "student alone", "training", "export", "measuring", "latency"}
    assert details["seconds"].keys() == parts
    page = (digits_run / "report.html").read_text()
    assert f"{result['student']['accuracy']:.4f}" in page and page.count("<svg") > 12
    assert experiment.Workdir(digits_run, Config.from_json(result["config"])).result == result


def test_a_model_that_is_given_twice_is_not_compared_with_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"A model is given twice.*--model=run --model=.*/run"):
        evaluate_models.evaluate_and_print(["run", "other", tmp_path / "run"], {})
