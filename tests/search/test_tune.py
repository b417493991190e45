"""The search as a user runs it, on real digits: what it writes, what stops it and what does not."""

import csv
import dataclasses
import errno
import itertools
import signal

import numpy as np
import pytest

from skd_tf import train, tune
from skd_tf.config import Config
from skd_tf.config.flags import read_flagfile
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.runtime.files import write_json
from skd_tf.search.plan import OBJECTIVES, Plan
from skd_tf.search.run_search import _final_run, run_search
from skd_tf.search.trial_records import TrialRecords
from skd_tf.training import checkpoints, experiment, train_student
from tests.helpers.commands import exit_code, python
from tests.helpers.runs import as_flags, read_json
from tests.search.cases import SMALL, counting, folder_of, numbers

GRID = {"search": ("temperature:choice:1,4", "kd_weight:choice:0.5,0.9"), "tuner": "grid", "max_trials": 2}


@pytest.fixture(scope="module")
def finished(config, resources, tmp_path_factory):
    """The plan of two trials of a grid, its folder, its ranked records, and how many students were trained."""
    folder, plan = tmp_path_factory.mktemp("search"), Plan(config, **GRID)
    with counting(train_student, "train_student") as trained:
        ranked = run_search(plan, folder, resources=resources)
    return plan, folder, ranked, len(trained)


def records_of(plan, folder):
    return TrialRecords(folder, plan).all()


def accuracy_alone(plan, values, resources, folder):
    """The validation accuracy of one trial's settings outside the search."""
    _, history = train_student.train_student(plan.config_of(values), resources, folder_of(folder))
    return history["val_accuracy"]


def test_a_search_leaves_all_it_promises(finished):
    plan, folder, ranked, trained = finished
    objectives = [record["objective"] for record in ranked]
    assert trained == 2 and objectives == sorted(objectives, reverse=True)
    with open(folder / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    pairs = {(row["temperature"], row["kd_weight"]) for row in rows}
    assert pairs == {("1.0", "0.5"), ("1.0", "0.9")}
    assert [float(row["val_accuracy"]) for row in rows] == [r["objective"] for r in records_of(plan, folder)]
    assert len((folder / "trials.jsonl").read_text().splitlines()) == 2
    assert (folder / "search.png").read_bytes().startswith(b"\x89PNG")
    # A finished trial keeps no weights, and the search keeps no copy of the teacher.
    kept = {path.name.partition(".tfevents")[0] for path in (folder / "trials").rglob("*") if path.is_file()}
    assert kept == {"record.json", "config.json", "metrics.jsonl"}
    assert not list(folder.rglob("*.keras")) and not list(folder.rglob("*.ckpt"))
    logged = set(ranked[0]["executions"][0]["metrics"]) - {"epoch", "step"}
    assert set(OBJECTIVES) - logged == {"feature_loss", "feature_weight", "val_agreement", "val_kl_to_teacher"}
    assert logged <= set(OBJECTIVES)  # the others are those of features, and of images without labels


@pytest.mark.slow
def test_the_best_flagfile_repeats_the_best_to_the_last_digit(finished, tmp_path):
    _, folder, ranked, _ = finished
    best, _ = read_flagfile(folder / "best.flags")
    assert {name: getattr(best, name) for name in ranked[0]["values"]} == ranked[0]["values"]
    result = experiment.run(best.replace(report=False), tmp_path)
    assert result["student"]["val_accuracy"] == ranked[0]["objective"]


def test_tensorboard_shows_the_same(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.util.tensor_util import make_ndarray

    def read(path):
        reader = EventAccumulator(str(path)).Reload()
        content = {tag: reader.SummaryMetadata(tag).plugin_data.content for tag in reader.PluginTagToContent("hparams")}
        return reader, {tag.rpartition("/")[2]: HParamsPluginData.FromString(value) for tag, value in content.items()}

    plan, folder, _, _ = finished
    space = read(folder / "tensorboard" / "space")[1]["experiment"].experiment
    assert [info.name for info in space.hparam_infos] == plan.names
    assert space.metric_infos[0].name.tag == "val_accuracy"
    logged = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.tfevents.*")}
    trials = records_of(plan, folder)
    names = [f"tensorboard/{r['trial']:04d} " + ", ".join(f"{n}={v:g}" for n, v in r["values"].items()) for r in trials]
    assert logged == {"tensorboard/space", *names}  # each trial once, under its settings
    for record, name in zip(trials, names, strict=True):
        reader, parts = read(folder / name)
        start = parts["session_start_info"].session_start_info
        assert {name: value.number_value for name, value in start.hparams.items()} == record["values"]
        values = [float(make_ndarray(event.tensor_proto)) for event in reader.Tensors("val_accuracy")]
        assert len(values) == plan.config.epochs and values[-1] == pytest.approx(record["objective"])


@pytest.mark.slow
def test_the_same_command_again_runs_nothing_and_says_the_same(finished, resources, capsys):
    """With --final_run, only the best is trained on all of train and measured on the test split."""
    plan, folder, ranked, _ = finished
    with counting(train_student, "train_student") as trained:
        assert run_search(plan, folder, resources=resources) == ranked
    assert not trained
    out = capsys.readouterr().out
    assert "2 trials finished" in out and "best.flags" in out
    run_search(plan, folder, resources=resources, final_run=True)
    final = read_json(folder / "final" / "result.json")
    assert final["config"]["validation_fraction"] == 0 and 0 <= final["student"]["accuracy"] <= 1
    assert final["config"]["temperature"] == ranked[0]["values"]["temperature"]
    better = ranked[0] | {"values": ranked[0]["values"] | {"temperature": 7.0}}
    words = r"final run in this workdir has other settings.*--temperature.*Remove that folder"
    with pytest.raises(InputError, match=words):
        _final_run(TrialRecords(folder, plan), better, None)


@pytest.mark.slow
def test_stopped_in_mid_trial_the_same_search_ends_with_the_same_numbers(finished, resources, tmp_path, capsys):
    plan, folder, _, _ = finished
    calls, run_steps = itertools.count(1), Distiller.run_steps

    def stop(self, *arguments):
        if next(calls) == 7:  # a trial makes four host calls of at most five steps
            raise KeyboardInterrupt
        return run_steps(self, *arguments)

    often = Plan(plan.config.replace(checkpoint_every="5 steps"), **GRID)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Distiller, "run_steps", stop)
        run_search(often, tmp_path, resources=resources)
    assert [record["status"] for record in records_of(often, tmp_path)] == ["finished", "running"]
    (checkpoint,) = tmp_path.rglob("*.ckpt")  # the one to resume from, and no best one
    assert checkpoint.name.startswith("step-") and (tmp_path / "trials.csv").is_file()
    capsys.readouterr()
    with counting(train_student, "train_student") as trained:
        run_search(often, tmp_path, resources=resources)
    assert len(trained) == 1 and "Resuming at step" in capsys.readouterr().out  # the finished trial does not run again
    assert list(map(numbers, records_of(often, tmp_path))) == list(map(numbers, records_of(plan, folder)))


@pytest.mark.slow
def test_several_seeds_a_trial_give_mean_and_spread(config, resources, tmp_path, capsys):
    plan = Plan(config, ("temperature:log:1:16",), max_trials=1, executions_per_trial=2)
    (record,) = run_search(plan, tmp_path, resources=resources)
    values = [run["metrics"]["val_accuracy"] for run in record["executions"]]
    assert [run["seed"] for run in record["executions"]] == [0, 1]
    assert record["objective"] == np.mean(values) and record["spread"] == pytest.approx(np.std(values, ddof=1))
    assert "2 executions each" in capsys.readouterr().out


@pytest.mark.slow
def test_a_loss_without_a_teacher_is_searched_beside_one_with(config, resources, tmp_path):
    plan = Plan(config.replace(loss="cross_entropy"), ("loss:choice:cross_entropy,kd",), tuner="grid")
    ranked = run_search(plan, tmp_path / "search", resources=resources)
    alone = next(record for record in ranked if record["values"]["loss"] == "cross_entropy")
    without = dataclasses.replace(resources, teacher=None)
    assert accuracy_alone(plan, alone["values"], without, tmp_path / "alone") == alone["objective"]


@pytest.mark.slow
def test_each_trial_uses_all_local_devices(config, tmp_path):
    search = ("temperature:choice:1,4",)
    with counting(train_student, "train_student") as trained:
        both = run_search(Plan(config.replace(strategy="mirrored"), search, tuner="grid"), tmp_path / "two")
    assert [resources.strategy.num_replicas_in_sync for _, resources, *_ in trained] == [2, 2]
    one = run_search(Plan(config, search, tuner="grid"), tmp_path / "one")
    mine, theirs = ({r["trial"]: r["executions"][0]["metrics"]["loss"] for r in ranked} for ranked in (both, one))
    assert mine == pytest.approx(theirs, rel=1e-2)


# What stops a trial, and what stops a search.


@pytest.mark.slow
def test_a_trial_that_diverges_is_recorded_and_the_search_goes_on(config, resources, tmp_path, capsys):
    plan = Plan(config, ("learning_rate:choice:1e30,0.1", "batch_size:choice:100,5000"), tuner="grid")
    ranked = run_search(plan, tmp_path, resources=resources)
    every = records_of(plan, tmp_path)
    assert [record["status"] for record in every] == ["failed", "failed", "finished", "failed"]
    assert "diverged" in every[0]["reason"] and str(tmp_path) not in every[0]["reason"]
    assert "smaller than one batch" in every[1]["reason"] and not list(tmp_path.rglob("*.ckpt"))
    # The failed trials before it have not changed its result.
    assert accuracy_alone(plan, ranked[0]["values"], resources, tmp_path / "alone") == ranked[0]["objective"]
    assert "1 trial finished, 3 failed" in capsys.readouterr().out


def test_no_trial_that_finishes_is_an_error(config, resources, tmp_path, capsys):
    plan = Plan(config, ("batch_size:choice:5000,6000",), tuner="grid")
    with pytest.raises(InputError, match=r"No trial has finished.*smaller than one batch"):
        run_search(plan, tmp_path, resources=resources)
    assert "Traceback" not in capsys.readouterr().err


def test_a_search_has_a_teacher_cache_of_its_own_unless_one_is_given(config, tmp_path, monkeypatch):
    plans = []
    monkeypatch.setattr(tune, "run_search", lambda plan, *_, **__: plans.append(plan))
    flags = [f"--teacher_checkpoint={config.teacher_checkpoint}", f"--workdir={tmp_path}"]
    for more in ([], ["--teacher_cache_epochs=2"], ["--teacher_cache_dir=mine"], ["--teacher_cache_dir="]):
        assert exit_code(tune.cli_main, *flags, "--search=temperature:choice:1,4", *more) == 0
    own = str(tmp_path / "teacher_cache")
    assert [plan.config.teacher_cache_dir for plan in plans] == [own, own, "mine", ""]


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(FULL, marks=pytest.mark.slow)])
def test_ctrl_c_and_a_full_disk_end_with_the_command_that_goes_on(stop, config, tmp_path, monkeypatch, capsys):
    flags = as_flags({name: getattr(config, name) for name in (*SMALL, "teacher_checkpoint", "teacher_cache_dir")})
    flags += [f"--workdir={tmp_path / 'a search'}", "--search=temperature:log:1:16", "--max_trials=1"]
    full, write = isinstance(stop, OSError), checkpoints.Checkpoints.write

    def fail(self, *arguments):
        if full:
            raise stop
        write(self, *arguments)
        signal.raise_signal(stop)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "write", fail)
        assert exit_code(tune.cli_main, *flags, "--overwrite") == (1 if full else 130)
    err = capsys.readouterr().err
    assert "python -m skd_tf.tune" in err and "'--workdir=" in err
    assert "--overwrite" not in err and "Traceback" not in err
    assert exit_code(tune.cli_main, *flags) == 0
    out = capsys.readouterr().out
    assert "Trial 1 of 1, resumed" in out
    assert f"train '--flagfile={tmp_path}/a search/best.flags' '--workdir={tmp_path}/a search/best'" in out


def test_errors_of_the_command_come_before_tensorflow_and_touch_nothing(config, tmp_path, monkeypatch, capsys):
    flags = [f"--workdir={tmp_path / 's'}", "--search=temperature:log:1:16"]
    flags += [f"--teacher_checkpoint={config.teacher_checkpoint}"]
    for wrong, words in (
        ("--teacher_checkpoint=nowhere", "No model there"),
        ("--tuner=magic", "--tuner has an unknown value"),
        ("--validation_fraction=0", "never sees the test split"),
        ("--objective=speed", "names no value that a run logs"),
    ):
        assert exit_code(tune.cli_main, *flags, wrong) == 2
        assert words in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setenv("KERASTUNER_TUNER_ID", "chief")
        assert exit_code(tune.cli_main, *flags) == 2
    assert "KERASTUNER_ORACLE_IP" in capsys.readouterr().err
    assert exit_code(tune.cli_main, *flags, "--dry_run") == 0
    assert "Search: 10 trials, random, val_accuracy max" in capsys.readouterr().out
    assert not (tmp_path / "s").exists()


def test_the_entry_point_imports_neither_tensorflow_nor_keras_tuner():
    program = "import sys, skd_tf.tune; print({'tensorflow', 'keras', 'keras_tuner', 'matplotlib'} & set(sys.modules))"
    assert python("-c", program) == "set()\n"


def test_an_earlier_search_goes_on_with_the_loss_of_then(tmp_path, capsys):
    before = Config(teacher="cnn_2", student="cnn_2", loss="spherical", min_warmup_steps=0)
    before = before.replace(teacher_cache_dir=str(tmp_path / "teacher_cache"))
    plan = Plan(before, ("radius:choice:auto,3",)).to_json()
    for name in ("version", "min_warmup_steps"):  # as version 2 wrote it
        del plan["config"][name]
    write_json(tmp_path / "search.json", plan | {"config": plan["config"] | {"version": 2}})
    flags = [
        "--teacher=cnn_2",
        "--student=cnn_2",
        "--search=radius:choice:auto,3",
        f"--workdir={tmp_path}",
        "--dry_run",
    ]
    assert exit_code(tune.cli_main, *flags) == 0
    assert "started with --loss=spherical and keeps it" in capsys.readouterr().out
    assert exit_code(tune.cli_main, *flags, "--loss=kd") == 2
    assert "Received --loss: spherical -> kd. Drop" in capsys.readouterr().err
    # Its best.flags in a new run means what it meant only with the loss.
    (tmp_path / "best.flags").write_text("--student=cnn_2\n")
    again = [f"--flagfile={tmp_path}/best.flags", "--teacher=cnn_2", f"--workdir={tmp_path}/again", "--dry_run"]
    assert exit_code(train.cli_main, *again) == 0
    assert "--loss=spherical --min_warmup_steps=0" in capsys.readouterr().err
