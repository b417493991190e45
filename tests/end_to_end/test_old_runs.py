"""Runs of earlier versions stay usable: resumed, evaluated, exported, reported and distilled from, by the commands."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest

from skd_tf import evaluate, export, report, train, tune
from skd_tf.runs.run_record import recorded_config
from skd_tf.training import teacher_pass
from tests.search.cases import counting

OLD_RUNS = pathlib.Path(__file__).parents[1] / "old_runs"
VERSIONS = sorted(path.name for path in OLD_RUNS.iterdir() if path.is_dir())
COMMON = ("--dataset=digits", "--batch_size=100", "--learning_rate=0.1", "--strategy=one_device", "--noreport")
STUDENT = (*COMMON, "--student=cnn_2", "--epochs=3", "--teacher_checkpoint=teacher", "--steps_per_call=1")
CACHED = (*STUDENT, "--temperature=2", "--kd_weight=0.9, 0.5 from epoch 1", "--ema_momentum=0.9")


@pytest.fixture(params=VERSIONS)
def runs(request, tmp_path, monkeypatch):
    """A copy of one version's runs, which becomes the current folder: their settings name each other by relative paths."""
    shutil.copytree(OLD_RUNS / request.param, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command in this process; returns what it printed."""

    def run(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *arguments])
        with pytest.raises(SystemExit) as ended:
            module.cli_main()
        output = capsys.readouterr()
        assert not ended.value.code, output.err
        return output.out

    return run


def weights(path):
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    return np.concatenate([np.ravel(weight) for weight in model.get_weights()])


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_finished_run_is_known_to_be_finished(runs, command):
    before = (runs / "finished" / "result.json").read_bytes()
    assert "finished is finished" in command(train, *STUDENT, "--student_alone=train", "--workdir=finished")
    assert (runs / "finished" / "result.json").read_bytes() == before


def test_an_interrupted_run_resumes_to_the_same_weights(runs, command):
    done = rows(runs / "interrupted" / "metrics.jsonl")
    output = command(train, *STUDENT, "--checkpoint_every=2 steps", "--workdir=interrupted")
    assert "Resuming at step 12 of 24" in output
    assert "started with --loss=spherical and keeps it" in output and "into cnn_2 with --loss=spherical on" in output
    now, straight = (rows(runs / name / "metrics.jsonl") for name in ("interrupted", "uninterrupted"))
    assert now[:1] == done and [row["step"] for row in now] == [8, 16, 24]
    assert [row["loss"] for row in now] == pytest.approx([row["loss"] for row in straight], rel=1e-4)
    one, other = weights("interrupted/student.keras"), weights("uninterrupted/student.keras")
    # Equal to the last bit on the kind of CPU that wrote them; others round differently.
    assert np.linalg.norm(one - other) <= 1e-3 * np.linalg.norm(other)


@pytest.mark.slow
def test_cached_logits_are_found_again(runs, command):
    shutil.rmtree("cached")
    same_split = ("--teacher_cache_dir=cache", "--validation_split=uniform")
    with counting(teacher_pass, "compute") as passes:
        command(train, *CACHED, *same_split, "--seed=1", "--workdir=cached")
    assert [wanted for _, wanted, *_ in passes] == [[]]


def test_a_run_with_a_cache_is_finished(runs, command):
    assert "cached is finished" in command(train, *CACHED, "--teacher_cache_dir=cache", "--workdir=cached")


def test_runs_are_evaluated_as_they_were_measured(runs, command):
    models = [f"--model={name}" for name in ("teacher", "finished", "cached")]
    command(evaluate, *models, "--teacher=teacher", "--notiming", "--bootstrap=0", "--output=all.json")
    measured = json.loads((runs / "all.json").read_text())["models"]
    for name, row in zip(("teacher", "finished", "cached"), measured, strict=True):
        recorded = json.loads((runs / name / "result.json").read_text())["student"]
        assert row["accuracy"] == pytest.approx(recorded["accuracy"], abs=1.5 / 899)
        assert row["nll"] == pytest.approx(recorded["nll"], rel=1e-4)


@pytest.mark.slow
def test_a_student_is_exported(runs, command):
    command(export, "--workdir=finished", "--output=exported", "--format=keras", "--check_images=50")
    assert {path.name for path in (runs / "exported").iterdir()} >= {"README.md", "student.keras"}


def test_runs_are_reported(runs, command):
    command(report, "finished", "cached", "--output=both.html")
    text = (runs / "both.html").read_text()
    assert "finished" in text and "cached" in text


@pytest.mark.slow
def test_a_student_of_then_is_a_teacher_of_now(runs, command):
    command(train, *STUDENT, "--loss=kd", "--workdir=next")
    teacher = json.loads((runs / "next" / "result.json").read_text())["teacher"]
    recorded = json.loads((runs / "teacher" / "result.json").read_text())["student"]
    assert teacher["accuracy"] == pytest.approx(recorded["accuracy"], abs=1.5 / 899)


@pytest.mark.slow
def test_a_search_resumes(runs, command):
    before = json.loads((runs / "search" / "trials" / "0001" / "record.json").read_text())
    shutil.rmtree("search/trials/0001")
    flags = [flag for flag in STUDENT if not flag.startswith(("--epochs", "--steps_per_call"))]
    searched = ("--search=temperature:choice:1,4", "--tuner=grid", "--epochs=2", "--report")
    with counting(teacher_pass, "compute") as passes:
        command(tune, *flags, *searched, "--workdir=search")
    assert passes and not any(wanted for _, wanted, *_ in passes)
    now = json.loads((runs / "search" / "trials" / "0001" / "record.json").read_text())
    assert now["values"] == before["values"] and now["status"] == "finished"
    assert now["objective"] == pytest.approx(before["objective"], abs=1.5 / 90)


def test_every_setting_of_then_has_a_meaning_now(runs):
    for folder in ("teacher", "finished", "interrupted", "cached"):
        config = recorded_config(runs / folder)
        recorded = json.loads((runs / folder / "config.json").read_text())
        assert {name: getattr(config, name) for name in recorded if hasattr(config, name)} == {
            name: value for name, value in recorded.items() if name not in ("resolved", "version")
        }


def test_a_saved_distiller_loads(runs):
    distiller = keras.models.load_model(runs / "distiller.keras", safe_mode=True)
    images = np.arange(2 * 64).reshape(2, 8, 8, 1).astype("uint8")
    assert distiller.predict(images, verbose=0) == pytest.approx(np.load(runs / "distiller_logits.npy"), abs=1e-5)
    assert float(distiller.radius.numpy()) == 3.0 and float(distiller.temperature.numpy()) == 2.0
