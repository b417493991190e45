"""What the trials of a search share: the teacher's cache, the data, and the machine."""

import dataclasses
import errno
import fcntl
import os
import shutil
import types
import unittest.mock

import keras_tuner
import pytest
import tensorflow as tf

from skd_tf import data, tune
from skd_tf.data.logit_shards import LogitShards
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.runs.workdir import locked
from skd_tf.search.plan import Plan
from skd_tf.search.run_search import run_search
from skd_tf.search.trial_records import TrialRecords
from skd_tf.search.trial_runner import TrialRunner, _teacher_lock
from skd_tf.training import experiment, train_student
from skd_tf.training.teacher import Teacher
from tests.helpers.commands import exit_code
from tests.helpers.runs import as_flags, read_json
from tests.search.cases import SMALL, counting

TRAINING, TEACHER = (train_student, "train_student"), (Teacher, "epoch_logits")


def test_a_search_continues_if_files_cannot_be_locked(tmp_path, monkeypatch):
    flock = unittest.mock.Mock(side_effect=OSError(errno.ENOLCK, "No locks available"))
    monkeypatch.setattr(fcntl, "flock", flock)
    with _teacher_lock(tmp_path):
        pass
    flock.side_effect = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output"), _teacher_lock(tmp_path):
        pass


def test_a_second_worker_with_the_same_id_is_refused_and_a_finished_trial_is_not_trained_again(
    config, resources, tmp_path, monkeypatch
):
    plan = Plan(config, ("temperature:choice:1,4",), tuner="grid")
    records = TrialRecords(tmp_path, plan)
    runner = TrialRunner(records, resources=resources)
    records.claim()
    record = {"trial": 0, "status": "running", "values": {"temperature": 1.0}, "executions": [], "reason": ""}
    records.write(record)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker1")
    words = rf"KERASTUNER_TUNER_ID=worker1, and process {os.getpid()} on .* in .*0000\. Choose another id"
    with counting(*TRAINING) as trained:
        with locked(records.trial_folder(0)), pytest.raises(InputError, match=words):
            runner.run(0)
        assert records.read(0) == record
        records.write(record | {"status": "finished", "objective": 0.5})
        assert runner.run(0)["objective"] == 0.5
    assert not trained


@pytest.mark.slow
def test_the_teacher_runs_once_an_epoch_for_the_whole_search(config, tmp_path):
    config = config.replace(teacher_cache_dir=str(tmp_path / "cache"))
    plan = Plan(config, ("radius:choice:auto,teacher_mean",), tuner="grid")
    with counting(LogitShards, "write") as writes, counting(data, "load") as loads:
        run_search(plan, tmp_path / "search")
    assert len(writes) == config.epochs and len(loads) == 1
    # A search cannot read the test split, because it never loads it.
    assert experiment.prepare(config, tmp_path, test=False).dataset.test is None


# A disk or a memory that is too small.


@pytest.mark.slow
def test_a_disk_too_small_for_the_cache_fails_no_trial_and_with_room_the_same_command_goes_on(
    config, tmp_path, monkeypatch, capsys
):
    flags = as_flags(SMALL | {"teacher_checkpoint": config.teacher_checkpoint, "tuner": "grid", "epochs": 1})
    flags += [f"--workdir={tmp_path}", "--search=temperature:choice:1,4"]
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
        assert exit_code(tune.cli_main, *flags) == 1
    err = capsys.readouterr().err
    assert "error: The disk is too small for the teacher cache" in err
    assert "continue with:\n  python -m skd_tf.tune" in err
    (path,) = tmp_path.glob("trials/*/record.json")  # the second trial has not started
    assert read_json(path)["status"] == "running"
    assert exit_code(tune.cli_main, *flags) == 0
    assert "2 trials finished;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("search", "trained", "failing", "where", "fails"),
    [
        ("temperature:choice:1,4", None, 1, TRAINING, False),  # all trials need the same memory
        ("batch_size:choice:50,100", None, 100, TRAINING, True),
        pytest.param("batch_size:choice:50,100", 50, 100, TRAINING, True, marks=pytest.mark.slow),
        # a batch twice as large has fitted
        pytest.param("batch_size:choice:50,100", 100, 50, TRAINING, False, marks=pytest.mark.slow),
        pytest.param("student:choice:cnn_2,cnn_4", "cnn_2", "cnn_4", TRAINING, True, marks=pytest.mark.slow),
        ("student:choice:cnn_2,cnn_4", "cnn_2", "cnn_4", TEACHER, False),  # its batches do not depend on the search
    ],
)
def test_memory_that_runs_out_fails_the_trial_only_where_what_is_searched_may_be_to_blame(
    search, trained, failing, where, fails, config, resources, tmp_path, monkeypatch
):
    plan = Plan(config, (search,), tuner="grid")
    records, (name,) = TrialRecords(tmp_path, plan), plan.names
    records.claim()
    blank = {"status": "running", "objective": None, "spread": None, "reason": "", "started": 0, "ended": None}
    others = [{"seed": 0, "seconds": 1.0, "metrics": {"step": 1}}] * (trained is not None)
    records.write(blank | {"trial": 0, "values": {name: trained or failing}, "executions": others})
    records.write(blank | {"trial": 1, "values": {name: failing}, "executions": []})

    def run_out(*_, **__):
        message = "Graph execution error:\n\nOOM when allocating [1000]\nHint:"
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(*where, run_out)
    runner = TrialRunner(records, resources=resources)
    if fails:
        assert runner.run(1)["reason"] == "OOM when allocating [1000]"
    else:
        words = r"^Memory has run out.*OOM when allocating \[1000\].*End the other"
        with pytest.raises(EnvironmentFailure, match=words):
            runner.run(1)
    assert records.read(1)["status"] == ("failed" if fails else "running")


@pytest.mark.slow
def test_each_trial_gets_as_many_of_the_largest_logits_as_it_searches(config, tmp_path):
    config = config.replace(teacher_cache_dir=str(tmp_path / "cache"), epochs=1)
    plan = Plan(config, ("teacher_cache_top:choice:2,4",), tuner="grid")
    with counting(LogitShards, "write") as writes:
        best, _ = run_search(plan, tmp_path / "search")
    assert {shards.record.top for shards, *_ in writes} == {2, 4} and best["status"] == "finished"


def test_a_batch_that_the_replicas_do_not_divide_is_refused_by_each_training(config, resources, two_replicas, tmp_path):
    shared = dataclasses.replace(resources, strategy=two_replicas)
    with pytest.raises(InputError, match="multiple of 2"):
        train_student.train_student(config.replace(batch_size=33), shared, tmp_path)


def test_the_hypermodel_trains_on_the_batches_of_a_run(config, resources, monkeypatch):
    asked = []
    monkeypatch.setattr(train_student, "training_stream", lambda *a, **limits: asked.append((a, limits)) or "stream")
    hypermodel = tune.DistillationHyperModel(config, ["teacher_cache_top:choice:2,4"], resources=resources)
    hypermodel.fit(keras_tuner.HyperParameters(), types.SimpleNamespace(fit=lambda stream, **_: stream))
    ((trial, _), limits) = asked[0]
    assert trial.teacher_cache_top == 2 == limits["teacher_logits"].shards.record.top
