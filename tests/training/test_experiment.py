"""The main job as its user runs it, on real digits: finished, repeated, overwritten, refused."""

import dataclasses
import shutil
import signal

import keras
import numpy as np
import pytest

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.evaluation.evaluate_models import evaluate_models
from skd_tf.evaluation.predictor import Predictor
from skd_tf.runs import predictions, report, verdict
from skd_tf.runtime import signals
from skd_tf.training import experiment, train_student
from tests.helpers.runs import ALONE, SMALL, checkpoint_arrays, numbers, read_json, train


@pytest.fixture(scope="module")
def small(digits_teacher):
    """Settings of a small distillation."""
    return SMALL | {"teacher_checkpoint": str(digits_teacher), "report": False}


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A run with all its parts: (config, workdir, result)."""
    config, workdir = Config(**small, student_alone="train"), tmp_path_factory.mktemp("run")
    return config, workdir, experiment.run(config, workdir)


def test_a_run_leaves_all_it_promises(finished):
    config, folder, result = finished
    files = ["config.json", "flags.txt", "metrics.jsonl", "student.keras", "saved_model/saved_model.pb", "result.json"]
    assert [name for name in files if not (folder / name).is_file()] == []
    assert list((folder / "tensorboard").iterdir()) and list((folder / "checkpoints").iterdir())
    assert read_json(folder / "result.json") == result
    for who in ("teacher", "student_alone", "student"):
        assert result[who].keys() >= {"accuracy", "nll", "ece", "confidence", "logit_norm", "parameters"}
    assert result["student"].keys() >= {"agreement", "val_accuracy"}
    assert result["radius"] == pytest.approx(2 * 10**0.5)
    assert result.keys() >= {"config", "versions", "device", "git_commit", "seconds", "examples_per_second"}
    assert Config.from_json(result["config"]) == config
    rows = numbers(folder)
    assert [row["epoch"] for row in rows] == [0, 1, 2] and rows[-1]["step"] == 24
    assert rows[-1].keys() >= {"loss", "label_loss", "distill_loss", "accuracy", "learning_rate", "kd_weight"}
    assert rows[-1].keys() >= {"student_logit_norm", "teacher_logit_norm"}
    gain = result["radius"] / rows[-1]["student_logit_norm"]
    assert rows[-1]["radius_over_student_norm"] == pytest.approx(gain)
    assert rows[-1]["val_accuracy"] == result["student"]["val_accuracy"]
    predicted, labels = predictions.of_record(read_json(folder / "measurements.json"))
    for who in ("teacher", "student_alone", "student"):
        assert (predicted[who] == labels).mean() == pytest.approx(result[who]["accuracy"], abs=1e-9)
    compared = result["verdict"]["comparisons"]["student against student_alone"]
    assert compared["difference"] == pytest.approx(result["student"]["accuracy"] - result["student_alone"]["accuracy"])
    assert any("24 optimizer steps" in warning for warning in result["verdict"]["warnings"])
    assert [text.partition(", ")[0] for text in result["warnings"]] == ["In measured runs of under 800 steps"]


def test_the_student_alone_is_the_same_code_weights_data_and_order(finished, tmp_path):
    """A student distilled on raw logits with a distill weight of 0 is that student, bit for bit."""
    config, folder, _ = finished
    distilled = config.replace(loss="kd", kd_weight=0.0, student_alone="none")
    train_student.train_student(distilled, experiment.prepare(distilled, tmp_path), tmp_path)
    alone, mine = checkpoint_arrays(folder / "student_alone"), checkpoint_arrays(tmp_path)
    assert all(np.array_equal(alone[name], mine[name]) for name in alone if name.startswith("student"))


@pytest.mark.slow
def test_a_stop_after_the_result_costs_neither_the_report_nor_the_callback(small, tmp_path, monkeypatch):
    told, real = [], report.write

    def stopped(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(report, "write", stopped)
    config = Config(**small | {"report": True, "epochs": 1})
    with signals.raised(), pytest.raises(signals.Interrupted, match="finished"):
        experiment.run(config, tmp_path / "run", callbacks=[told.append])
    assert (tmp_path / "run/report.html").is_file() and told[-1] == read_json(tmp_path / "run/result.json")
    monkeypatch.setattr(report, "write", real)
    (tmp_path / "run/report.html").unlink()  # as after a kill
    experiment.run(config, tmp_path / "run")
    assert (tmp_path / "run/report.html").is_file()


def test_the_finished_run_says_so_and_other_settings_are_refused(finished, capsys):
    config, folder, result = finished
    before = (folder / "result.json").stat().st_mtime_ns
    assert experiment.run(config.replace(steps_per_call=3), folder) == result
    out = capsys.readouterr().out
    assert "is finished" in out and all(line in out for line in verdict.lines(result["verdict"], folder))
    with pytest.raises(InputError, match=r"(?=.*--temperature: 4\.0 -> 2\.0).*--seed: 0 -> 5"):
        experiment.run(config.replace(temperature=2.0, seed=5), folder)
    assert (folder / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_changed_teacher_is_refused_and_overwrite_restarts(small, tmp_path):
    run, result_file = tmp_path / "run", tmp_path / "run" / "result.json"
    with pytest.raises(InputError, match="No model there"):  # which does not claim the workdir
        train(run, small, teacher_checkpoint=str(tmp_path / "typo"))
    copy = shutil.copytree(small["teacher_checkpoint"], tmp_path / "teacher")
    settings = small | {"teacher_checkpoint": str(copy)}
    one = train(run, settings)
    resolved = read_json(run / "config.json")["resolved"]
    assert resolved["radius"] == pytest.approx(2 * 10**0.5) and resolved["replicas"] == 1 and resolved["xla_reason"]
    result_file.rename(tmp_path / "result.json")
    changed = keras.models.load_model(copy / "student.keras", compile=False)
    changed.set_weights([1.01 * weight for weight in changed.get_weights()])
    changed.save(copy / "student.keras")  # as if it were trained again in place
    with pytest.raises(InputError, match="teacher has changed"):
        train(run, settings)
    (tmp_path / "result.json").rename(result_file)
    (run / "mine.txt").write_text("not a run's")
    other = train(run, small, seed=1, overwrite=True)
    assert one["student"]["nll"] != other["student"]["nll"]
    assert (run / "mine.txt").is_file() and len(numbers(run)) == 3


@pytest.mark.slow
def test_a_run_keeps_pictures_for_its_report_unless_told_not_to(tmp_path, capsys):
    result = train(tmp_path / "with", report=True, report_images=10, epochs=1)
    out = capsys.readouterr().out
    assert all(line in out for line in verdict.lines(result["verdict"], tmp_path / "with")) and "optimizer steps" in out
    assert "student_alone" not in out  # nothing was distilled
    assert len(read_json(tmp_path / "with" / "report_images.json")) == 10
    text = (tmp_path / "with" / "report.html").read_text()
    assert text.count("<img") == 10 and "ms at batch 1" in text
    train(tmp_path / "without", report=True, report_images=0, epochs=1)
    assert not (tmp_path / "without" / "report_images.json").exists()
    assert "<img" not in (tmp_path / "without" / "report.html").read_text()


def test_overwrite_removes_no_files_of_another_program(small, tmp_path):
    (tmp_path / "student.keras").write_text("someone's")
    with pytest.raises(InputError, match="no known run"):
        train(tmp_path, small, overwrite=True)
    assert (tmp_path / "student.keras").read_text() == "someone's"


@pytest.mark.slow
def test_nothing_is_traced_after_the_first_epoch(small, tmp_path):
    """Three epochs with validation, a ragged number of steps a call, a stepwise kd weight: one trace of each graph."""
    config = Config(**small, kd_weight="0.9, 0.5 from epoch 1, 0.1 from epoch 2")
    distiller, _ = train_student.train_student(config, experiment.prepare(config, tmp_path), tmp_path)
    assert distiller.traces == distiller._train_steps._many.experimental_get_tracing_count() == 1
    assert [row["kd_weight"] for row in numbers(tmp_path)] == pytest.approx([0.9, 0.5, 0.1])
    assert [row["label_weight"] for row in numbers(tmp_path)] == pytest.approx([0.1, 0.5, 0.9])


@pytest.mark.slow
def test_two_replicas_through_the_whole_command(small, tmp_path, monkeypatch):
    """The teacher's check, validation and the final measurement use both devices; one device measures the same."""
    devices, predict = [], Predictor.__call__
    monkeypatch.setattr(
        Predictor, "__call__", lambda self, *a, **k: devices.append(len(self._places)) or predict(self, *a, **k)
    )
    result = train(tmp_path, small, strategy="mirrored")
    assert "replicas: 2" in result["device"] and 0.05 < result["student"]["accuracy"] <= 1
    assert len(devices) > small["epochs"] + 2 and {*devices} == {2}
    again = evaluate_models(
        [tmp_path],
        data.load(data.DataSettings()),
        teacher=small["teacher_checkpoint"],
        timing=False,
        bootstrap_samples=0,
    )
    assert {*devices[-2:]} == {1}
    for found, name in ((again["models"][0], "student"), (again["teacher"], "teacher")):
        known = {key: value for key, value in result[name].items() if key in ("accuracy", "nll", "ece", "brier")}
        assert len(known) == 4 and {key: found[key] for key in known} == pytest.approx(known, abs=1e-6), name


def test_errors_come_before_anything_is_trained(small, tmp_path):
    teacher = small["teacher_checkpoint"]
    for i, (settings, words) in enumerate(
        [
            ({"teacher_checkpoint": ""}, "needs a teacher"),
            ({"teacher": "resnet8"}, "another network"),
            ({"batch_size": 4000}, "smaller than one batch"),
            ({"student_alone": teacher}, "--student: cnn_8 -> cnn_2"),
            ({"dry_run": True}, r"run\(\) trains"),
        ]
    ):
        with pytest.raises(InputError, match=words):
            train(tmp_path / str(i), small, **settings)
        assert not (tmp_path / str(i) / "metrics.jsonl").exists()


@pytest.mark.slow
def test_other_images_than_the_run_began_with_are_refused(tmp_path, monkeypatch):
    train(tmp_path, ALONE, epochs=1)
    (tmp_path / "result.json").unlink()
    (tmp_path / "measurements.json").unlink()
    dataset = data.load(data.DataSettings())
    images = dataset.train.images[:].copy()
    images[-1, 0, 0, 0] ^= 1
    for change in (
        {"train": dataclasses.replace(dataset.train, images=images)},
        {"mean": (0.25,)},
        {"augmentation": dataset.augmentation._replace(pad=3)},
    ):
        changed = dataclasses.replace(dataset, **change)
        with monkeypatch.context() as during, pytest.raises(InputError, match="same training images, mean, std and"):
            during.setattr(data, "load", lambda *_, changed=changed, **__: changed)
            train(tmp_path, ALONE, epochs=1)
    assert train(tmp_path, ALONE, epochs=1)["student"]["accuracy"] > 0


def test_settings_that_do_not_fit_a_function_s_data_are_refused_before_a_teacher_is_trained(tmp_path, monkeypatch):
    """Its sizes are known only once it is loaded."""
    code = "import numpy as np\ndef load(data_dir):\n    images = np.zeros((40, 8, 8, 1), np.uint8)\n"
    code += "    split = images, np.arange(40) % CLASSES\n    return {'class_names': [str(i) for i in range(CLASSES)], 'train': split, 'test': split}\n"
    for classes in (2, 5):
        (tmp_path / f"data_of_{classes}.py").write_text(code.replace("CLASSES", str(classes)))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(experiment, "find_teacher", lambda *_: pytest.fail("a teacher was trained"))
    base = {"teacher": "cnn_4", "student": "cnn_2", "batch_size": 8}
    for settings, words in (
        ({"dataset": "data_of_2:load", "loss": "spherical"}, "Two classes"),
        (
            {"dataset": "data_of_5:load", "teacher_cache_top": 4, "teacher_cache_dir": str(tmp_path)},
            "too large for 5 classes",
        ),
        ({"dataset": "data_of_5:load", "ship": "best", "validation_fraction": 0}, "--ship needs validation images"),
        ({"dataset": "data_of_5:load", "batch_size": 64}, "smaller than one batch"),
    ):
        with pytest.raises(InputError, match=words):
            experiment.prepare(Config(**base | settings), tmp_path / "run")
