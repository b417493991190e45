"""What the trials of a search share: the teacher's cache, the data, and the machine."""

import errno
import fcntl
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data.teacher_cache import TeacherCache
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.runs.workdir import locked
from skd_tf.search.plan import Plan
from skd_tf.search.run_search import run_search
from skd_tf.search.trial_records import TrialRecords
from skd_tf.search.trial_runner import TrialRunner, _teacher_lock
from skd_tf.training import experiment, train_student
from skd_tf.training.teacher import Teacher
from tests.search import cases
from tests.search.cases import SMALL, command, counting


@pytest.fixture(scope="module")
def config():
    return cases.config()


@pytest.fixture(scope="module")
def resources():
    return cases.resources()


def test_a_search_continues_if_files_cannot_be_locked(tmp_path, monkeypatch):
    def refuse(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    with _teacher_lock(tmp_path):
        pass
    refuse(errno.EIO)
    with pytest.raises(OSError, match="Input/output"), _teacher_lock(tmp_path):
        pass


def test_a_second_worker_with_the_same_id_is_refused_and_a_finished_trial_is_not_trained_again(
    config, resources, tmp_path, monkeypatch
):
    plan = Plan(config, ("temperature:choice:1,4",), tuner="grid")
    records, runner = TrialRecords(tmp_path, plan), TrialRunner(TrialRecords(tmp_path, plan), resources=resources)
    records.claim()
    record = {"trial": 0, "status": "running", "values": {"temperature": 1.0}, "executions": [], "reason": ""}
    records.write(record)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker1")
    with counting(train_student, "train_student") as trained:
        with (
            locked(records.trial_folder(0)),
            pytest.raises(
                InputError,
                match=rf"KERASTUNER_TUNER_ID=worker1, and process {os.getpid()} on .* in .*0000\. Choose another id",
            ),
        ):
            runner.run(0)
        assert records.read(0) == record
        records.write(record | {"status": "finished", "objective": 0.5})
        assert runner.run(0)["objective"] == 0.5
    assert not trained


def test_the_teacher_runs_once_an_epoch_for_the_whole_search(tmp_path):
    config = Config(teacher_checkpoint=str(cases.teacher()), teacher_cache_dir=str(tmp_path / "cache"), **SMALL)
    plan = Plan(config, ("temperature:choice:1,2,4", "radius:choice:auto,teacher_mean"), tuner="grid")
    with counting(TeacherCache, "write") as writes, counting(data, "load") as loads:
        run_search(plan, tmp_path / "search")
    passes = [cache for cache, *_ in writes if cache.dtype == np.float16]  # the exact ones are of un-augmented images
    assert len(passes) == config.epochs and len(loads) == 1
    # A search cannot read the test split, because it never loads it.
    assert experiment.prepare(config, tmp_path, test=False).dataset.test is None


# A disk or a memory that is too small.

TRAINING = train_student, "train_student"


def test_a_disk_too_small_for_the_cache_fails_no_trial_and_with_room_the_same_command_goes_on(
    config, tmp_path, monkeypatch, capsys
):
    flags = [f"--{name}={getattr(config, name)}" for name in (*SMALL, "teacher_checkpoint")]
    flags += [f"--workdir={tmp_path}", "--search=temperature:choice:1,4", "--tuner=grid", "--epochs=1"]
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
        assert command(patch, *flags) == 1
    err = capsys.readouterr().err
    assert (
        "error: The disk is too small for the teacher cache" in err and "continue with:\n  python -m skd_tf.tune" in err
    )
    (path,) = tmp_path.glob("trials/*/record.json")  # the second trial has not started
    assert json.loads(path.read_text())["status"] == "running"
    assert command(monkeypatch, *flags) == 0
    assert "2 trials finished;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("search", "trained", "failing", "where", "fails"),
    [
        ("temperature:choice:1,4", None, 1, TRAINING, False),  # all trials need the same memory
        ("batch_size:choice:50,100", None, 100, TRAINING, True),
        ("batch_size:choice:50,100", 50, 100, TRAINING, True),
        ("batch_size:choice:50,100", 100, 50, TRAINING, False),  # a batch twice as large has fitted
        ("student:choice:cnn_2,cnn_4", "cnn_2", "cnn_4", TRAINING, True),
        (
            "student:choice:cnn_2,cnn_4",
            "cnn_2",
            "cnn_4",
            (Teacher, "epoch_files"),
            False,
        ),  # the teacher's batches do not depend on the search
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
        raise tf.errors.ResourceExhaustedError(
            None, None, "Graph execution error:\n\nOOM when allocating [1000]\nHint:"
        )

    monkeypatch.setattr(*where, run_out)
    runner = TrialRunner(records, resources=resources)
    if fails:
        assert runner.run(1)["reason"] == "OOM when allocating [1000]"
    else:
        with pytest.raises(
            EnvironmentFailure, match=r"^Memory has run out.*OOM when allocating \[1000\].*End the other"
        ):
            runner.run(1)
    assert records.read(1)["status"] == ("failed" if fails else "running")
