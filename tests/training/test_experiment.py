"""The main job as its user runs it: one command, on real digits; killed, resumed, refused, repeated."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.training import experiment
from skd_tf.training.checkpoints import Checkpoints

# One device, for the tests' two logical CPUs would be two replicas to --strategy=auto.
SMALL = {"student": "cnn_2", "epochs": 3, "batch_size": 100, "learning_rate": 0.1, "strategy": "one_device"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    config = Config(**SMALL | {"student": "cnn_8", "loss": "cross_entropy", "epochs": 12, "batch_size": 50})
    assert experiment.run(config, folder)["student"]["accuracy"] > 0.5
    return folder


@pytest.fixture(scope="module")
def finished(teacher, tmp_path_factory):
    """A run with all its parts, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    config = Config(teacher_checkpoint=str(teacher), student_alone="train", **SMALL)
    return config, folder, experiment.run(config, folder)


def checkpoint_arrays(folder):
    with np.load(_npz(folder), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if not name.startswith("mean")}


def _npz(folder):
    import io
    import zipfile

    with zipfile.ZipFile(Checkpoints(folder / "checkpoints").paths()[-1]) as archive:
        return io.BytesIO(archive.read("arrays.npz"))


def numbers(folder):
    """metrics.jsonl without what may differ between two runs of the same command."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "examples_per_second", "input_wait_share")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def test_a_run_leaves_all_it_promises(finished):
    config, folder, result = finished
    for name in (
        "config.json",
        "flags.txt",
        "metrics.jsonl",
        "student.keras",
        "saved_model/saved_model.pb",
        "result.json",
    ):
        assert (folder / name).is_file(), name
    assert list((folder / "tensorboard").iterdir()) and list((folder / "checkpoints").iterdir())
    assert json.loads((folder / "result.json").read_text()) == result
    for who in ("teacher", "student_alone", "student"):
        assert result[who].keys() >= {"accuracy", "nll", "ece", "confidence", "logit_norm", "parameters"}
    assert result["student"].keys() >= {"agreement", "val_accuracy"}
    assert result["radius"] == pytest.approx(2 * 10**0.5)
    assert result.keys() >= {"config", "versions", "device", "git_commit", "seconds", "examples_per_second"}
    assert Config.from_json(result["config"]) == config
    rows = numbers(folder)
    assert [row["epoch"] for row in rows] == [0, 1, 2] and rows[-1]["step"] == 24
    assert rows[-1].keys() >= {
        "loss",
        "label_loss",
        "distill_loss",
        "accuracy",
        "val_accuracy",
        "learning_rate",
        "kd_weight",
        "student_logit_norm",
        "teacher_logit_norm",
        "radius_over_student_norm",
    }
    gain = result["radius"] / rows[-1]["student_logit_norm"]
    assert rows[-1]["radius_over_student_norm"] == pytest.approx(gain)
    assert rows[-1]["val_accuracy"] == result["student"]["val_accuracy"]


def test_the_student_alone_is_the_same_code_weights_data_and_order(finished, tmp_path):
    """A distilled student whose distill term weighs nothing on raw logits is that student, bit for bit."""
    config, folder, _ = finished
    experiment.run(config.replace(loss="kd", kd_weight=0.0, student_alone="none"), tmp_path)
    alone, mine = checkpoint_arrays(folder / "student_alone"), checkpoint_arrays(tmp_path)
    assert all(np.array_equal(alone[name], mine[name]) for name in alone if name.startswith("student"))


def test_the_finished_run_says_so_and_other_settings_are_refused(finished, capsys):
    config, folder, result = finished
    before = (folder / "result.json").stat().st_mtime_ns
    assert experiment.run(config.replace(steps_per_call=3), folder) == result
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(InputError) as caught:
        experiment.run(config.replace(temperature=2.0, seed=5), folder)
    assert "--temperature: 4.0 -> 2.0" in str(caught.value) and "--seed: 0 -> 5" in str(caught.value)
    assert (folder / "result.json").stat().st_mtime_ns == before


def test_overwrite_begins_anew_and_nothing_else_is_removed(finished, teacher, tmp_path):
    config = Config(teacher_checkpoint=str(teacher), **SMALL)
    (tmp_path / "mine.txt").write_text("not a run's")
    one = experiment.run(config, tmp_path)
    other = experiment.run(config.replace(seed=1, overwrite=True), tmp_path)
    assert one["student"]["nll"] != other["student"]["nll"]
    assert (tmp_path / "mine.txt").is_file() and len(numbers(tmp_path)) == 3
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "student.keras").write_text("someone's")
    with pytest.raises(InputError, match="no known run"):
        experiment.run(config.replace(overwrite=True), foreign)
    assert (foreign / "student.keras").read_text() == "someone's"


def test_nothing_is_traced_after_the_first_epoch(teacher, tmp_path):
    """Three epochs with validation, a ragged number of steps a call, a stepwise kd weight: one trace of each graph."""
    from skd_tf.training import train_student

    config = Config(teacher_checkpoint=str(teacher), kd_weight="0.9, 0.5 from epoch 1, 0.1 from epoch 2", **SMALL)
    distiller, _ = train_student.train_student(config, experiment.prepare(config, tmp_path), tmp_path)
    assert distiller.traces == 1
    assert distiller._train_steps._many.experimental_get_tracing_count() == 1
    assert [row["kd_weight"] for row in numbers(tmp_path)] == pytest.approx([0.9, 0.5, 0.1])
    assert [row["label_weight"] for row in numbers(tmp_path)] == pytest.approx([0.1, 0.5, 0.9])


def test_two_replicas_through_the_whole_command(teacher, tmp_path):
    config = Config(teacher_checkpoint=str(teacher), **SMALL | {"strategy": "mirrored"})
    result = experiment.run(config, tmp_path)
    assert "replicas: 2" in result["device"] and 0.05 < result["student"]["accuracy"] <= 1


def test_errors_come_before_anything_is_trained(teacher, tmp_path):
    cases = [
        ({}, "needs a teacher"),
        ({"teacher_checkpoint": str(tmp_path / "nowhere")}, "No model there"),
        ({"teacher_checkpoint": str(teacher), "teacher": "resnet8"}, "another network"),
        ({"teacher_checkpoint": str(teacher), "batch_size": 4000}, "smaller than one batch"),
        ({"teacher_checkpoint": str(teacher), "student_alone": str(tmp_path / "nobody")}, "No model there"),
        ({"teacher_checkpoint": str(teacher), "student_alone": str(teacher)}, "--student: cnn_8 -> cnn_2"),
        ({"teacher_checkpoint": str(teacher), "dry_run": True}, "run\\(\\) trains"),
    ]
    for i, (settings, words) in enumerate(cases):
        with pytest.raises(InputError, match=words):
            experiment.run(Config(**SMALL | settings), tmp_path / str(i))
        assert not (tmp_path / str(i) / "metrics.jsonl").exists()


def test_a_wrong_flag_does_not_claim_the_workdir_and_a_changed_teacher_is_seen(teacher, tmp_path):
    import shutil

    with pytest.raises(InputError, match="No model there"):
        experiment.run(Config(teacher_checkpoint=str(tmp_path / "typo"), **SMALL), tmp_path / "run")
    copy = shutil.copytree(teacher, tmp_path / "teacher")
    config = Config(teacher_checkpoint=str(copy), **SMALL)
    experiment.run(config, tmp_path / "run")
    resolved = json.loads((tmp_path / "run" / "config.json").read_text())["resolved"]
    assert resolved["radius"] == pytest.approx(2 * 10**0.5) and resolved["replicas"] == 1 and resolved["xla_reason"]
    (tmp_path / "run" / "result.json").unlink()
    shutil.copy(tmp_path / "run" / "student.keras", copy / "student.keras")  # as if trained anew in place
    with pytest.raises(InputError, match="teacher has changed"):
        experiment.run(config, tmp_path / "run")
    experiment.run(config.replace(overwrite=True, teacher_checkpoint=str(teacher)), tmp_path / "run")


def test_a_teacher_at_chance_or_of_other_classes_is_an_error(tmp_path):
    from skd_tf import networks
    from skd_tf.models import deployable

    for classes, words in ((10, "chance level"), (7, "other classes")):
        net = networks.build("cnn_2", input_shape=(8, 8, 1), num_classes=classes)
        deployable.stock_copy(net).save(tmp_path / "net.keras")
        with pytest.raises(InputError, match=words):
            experiment.run(Config(teacher_checkpoint=str(tmp_path / "net.keras"), **SMALL), tmp_path / "run")


COMMAND = [
    sys.executable,
    "-m",
    "skd_tf.train",
    "--student=cnn_2",
    "--epochs=6",
    "--batch_size=100",
    "--steps_per_call=3",
]


def start(folder, teacher, **options):
    command = [*COMMAND, f"--teacher_checkpoint={teacher}", f"--workdir={folder}", "--checkpoint_every=3 steps"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_killed_in_mid_epoch_the_same_command_ends_with_the_same_numbers(teacher, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    whole = start(straight, teacher)
    process, deadline = start(killed, teacher), time.monotonic() + 120
    # Steps are 8 an epoch: a checkpoint of step 9, 15, 18 or 21 is in mid-epoch.
    while time.monotonic() < deadline and not any(
        Checkpoints(killed / "checkpoints").folder.glob("step-00000001[58].ckpt")
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "result.json").exists()
    out, err = start(killed, teacher).communicate(timeout=120)
    assert "Resuming at step" in out, err
    assert whole.wait(timeout=120) == 0, whole.stderr.read()
    assert numbers(straight) == numbers(killed)
    one, other = checkpoint_arrays(straight), checkpoint_arrays(killed)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    results = [json.loads((folder / "result.json").read_text())["student"] for folder in (straight, killed)]
    assert results[0] == results[1]


def test_evaluate_and_export_as_commands(finished, tmp_path, monkeypatch, capsys):
    from skd_tf import evaluate, export

    _, folder, result = finished

    def command(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit) as ended:
            module.cli_main()
        assert ended.value.code in (None, 0), capsys.readouterr().err
        return capsys.readouterr().out

    command(export, f"--workdir={folder}", f"--output={tmp_path / 'out'}")
    models = [folder, folder / "student.keras", folder / "saved_model", tmp_path / "out" / "saved_model"]
    out = command(evaluate, *(f"--model={m}" for m in models), "--dataset=digits", f"--output={tmp_path / 'e.json'}")
    assert all(str(model) in out for model in models)
    for row in json.loads((tmp_path / "e.json").read_text())["models"]:
        for name in ("accuracy", "nll", "ece", "confidence", "parameters"):
            assert row[name] == pytest.approx(result["student"][name], abs=1e-5), name


@pytest.mark.parametrize("what", ["pixels", "mean", "pad"])
def test_other_images_than_the_run_began_with_are_refused(what, tmp_path, monkeypatch):
    config = Config(**SMALL | {"loss": "cross_entropy", "epochs": 1})
    experiment.run(config, tmp_path)
    (tmp_path / "result.json").unlink()
    (tmp_path / "measurements.json").unlink()
    load = data.load

    def loaded(*arguments, **options):
        dataset = load(*arguments, **options)
        if what == "pixels":
            images = dataset.train.images[:].copy()
            images[-1, 0, 0, 0] ^= 1
            return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, images=images))
        other = {"mean": {"mean": (0.25,)}, "pad": {"augmentation": dataset.augmentation._replace(pad=3)}}
        return dataclasses.replace(dataset, **other[what])

    monkeypatch.setattr(data, "load", loaded)
    with pytest.raises(InputError, match="same training images, mean, std and augmentation"):
        experiment.run(config, tmp_path)
    monkeypatch.undo()
    assert experiment.run(config, tmp_path)["student"]["accuracy"] > 0
