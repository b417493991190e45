"""What the trials of a search share: a Distiller and its traced step, the teacher's cache, the data, the machine."""

import errno
import fcntl
import json
import os
import shutil
import time

import numpy as np
import pytest
import tensorflow as tf

from skd_tf import data, tune
from skd_tf.config import Config
from skd_tf.data.teacher_cache import TeacherCache
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import EnvironmentFailure, InputError
from skd_tf.runs.workdir import locked
from skd_tf.search.distiller_pool import DistillerPool
from skd_tf.search.plan import Plan
from skd_tf.search.trial_records import TrialRecords
from skd_tf.search.trial_runner import TrialRunner, _alone
from skd_tf.training import checkpoints, experiment, train_student
from skd_tf.training.teacher import Teacher
from tests.helpers.nets import batches, conv_net, make_distiller
from tests.search import cases
from tests.search.cases import SMALL, command, counting, folder_of


@pytest.fixture(scope="module")
def config():
    return cases.config()


@pytest.fixture(scope="module")
def setup():
    return cases.setup()


def weights_after(distiller):
    return {name: np.array(variable.numpy()) for name, variable in checkpoints.state_of(distiller).items()}


@pytest.mark.parametrize(
    ("strategy", "ema_momentum"),
    [("one_device", 0.0), ("one_device", 0.9), pytest.param("mirrored", 0.0, marks=pytest.mark.slow)],
)
def test_a_reused_distiller_is_a_new_one_to_the_last_bit(config, tmp_path, strategy, ema_momentum):
    """Every setting that is assigned instead of traced, one trial after another, beside a Distiller made for each alone."""
    config = config.replace(strategy=strategy, epochs=1, ema_momentum=ema_momentum)
    setup = experiment.prepare(config, tmp_path, test=False)
    first = config.replace(temperature=2.0, kd_weight=0.3, learning_rate=0.5, weight_decay=1e-3, seed=3)
    others = [
        config.replace(temperature=9.0, kd_weight=0.9, radius=3.0, lr_schedule="constant", warmup_epochs=0.5),
        config.replace(radius="teacher_mean", weight_decay=2e-2, seed=7),
    ]
    kept = DistillerPool()
    train_student.train_student(first, setup, folder_of(tmp_path / "first"), kept)
    for number, other in enumerate(others):
        reused, one = train_student.train_student(other, setup, folder_of(tmp_path / f"reused-{number}"), kept)
        assert reused.traces == setup.strategy.num_replicas_in_sync  # of the first trial, on each replica
        new, two = train_student.train_student(other, setup, folder_of(tmp_path / f"new-{number}"))
        mine, theirs = weights_after(reused), weights_after(new)
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs) and mine.keys() == theirs.keys()
        assert one["val_accuracy"] == two["val_accuracy"]


def test_trials_with_a_live_teacher_share_one_trace(tmp_path):
    config = Config(teacher_checkpoint=str(cases.teacher()), **SMALL | {"epochs": 1})
    plan = Plan(config, ("temperature:choice:1,2,4",), tuner="grid")
    with counting(Distiller, "_loss_and_gradients") as traced, counting(Distiller, "run_steps") as calls:
        tune.search(plan, tmp_path / "search")
    assert len(traced) == 1 and len({id(distiller) for distiller, *_ in calls}) == 1


def test_another_teacher_takes_the_place_of_the_one_before():
    ((images, labels),) = batches(1)
    distiller = make_distiller()
    first = distiller.train_on_batch(images, labels, return_dict=True)
    distiller.teacher = conv_net(7)
    assert (
        distiller.train_on_batch(images, labels, return_dict=True)["teacher_logit_norm"] != first["teacher_logit_norm"]
    )


def test_what_is_traced_makes_a_new_distiller_and_schedules_are_assigned(config, setup, tmp_path):
    kept = DistillerPool()
    config = config.replace(epochs=1, optimizer="adamw")
    schedule = config.replace(kd_weight="0.9, 0.5 from epoch 0.5")
    one, _ = train_student.train_student(schedule, setup, folder_of(tmp_path / "a"), kept)
    other_schedule = config.replace(kd_weight="linear 0.1 to 0.4 over 1 epochs", weight_decay=0.3)
    two, _ = train_student.train_student(other_schedule, setup, folder_of(tmp_path / "b"), kept)
    new, _ = train_student.train_student(other_schedule, setup, folder_of(tmp_path / "c"))
    assert two is one and one.traces == 1
    mine, theirs = weights_after(two), weights_after(new)
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
    for change in (
        {"loss": "kd"},
        {"center": False},
        {"label_weight": 0.1},
        {"radius": "teacher_sample"},
        {"batch_size": 50},
        {"label_smoothing": 0.1},
        {"momentum": 0.5, "optimizer": "sgd"},
        {"kd_weight": 0.5},
        {"student": "cnn_4"},
    ):
        assert kept(schedule.replace(**change), setup, 8) is not one, change
    assert len(kept._kept) == 4  # the oldest are given up


@pytest.mark.slow
def test_the_second_trial_starts_in_a_fifth_of_the_first_ones_time(config, setup, tmp_path, monkeypatch):
    """From the trial's beginning to the end of its first step, tracing included."""
    times, run_steps, begun = [], Distiller.run_steps, {}

    def timed(self, iterator, steps):
        waited = run_steps(self, iterator, steps)
        if "at" in begun:
            self.means.result()  # waits for the step
            times.append(time.perf_counter() - begun.pop("at"))
        return waited

    monkeypatch.setattr(Distiller, "run_steps", timed)
    kept = DistillerPool()
    config = config.replace(student="resnet20", steps_per_call=1, epochs=1)
    for number, temperature in enumerate((1.0, 2.0, 4.0)):
        begun["at"] = time.perf_counter()
        train_student.train_student(
            config.replace(temperature=temperature), setup, folder_of(tmp_path / str(number)), kept
        )
    assert times[1] < times[0] / 5, times
    print(f"first step of trials 1 to 3: {', '.join(f'{seconds:.1f}' for seconds in times)} s")


def test_a_search_goes_on_where_files_cannot_be_locked(tmp_path, monkeypatch):
    def refuse(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    refuse(errno.ENOLCK)
    with _alone(tmp_path):
        pass
    refuse(errno.EIO)
    with pytest.raises(OSError, match="Input/output"), _alone(tmp_path):
        pass


def test_a_second_worker_under_one_id_is_refused_and_a_trial_that_it_comes_too_late_for_is_not_trained_again(
    config, setup, tmp_path, monkeypatch
):
    plan = Plan(config, ("temperature:choice:1,4",), tuner="grid")
    records, trials = TrialRecords(tmp_path, plan), TrialRunner(TrialRecords(tmp_path, plan), setup=setup)
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
            trials.run(0)
        assert records.read(0) == record
        records.write(record | {"status": "finished", "objective": 0.5})
        assert trials.run(0)["objective"] == 0.5
    assert not trained


def test_the_teacher_runs_once_an_epoch_for_the_whole_search(tmp_path):
    config = Config(teacher_checkpoint=str(cases.teacher()), teacher_cache_dir=str(tmp_path / "cache"), **SMALL)
    plan = Plan(config, ("temperature:choice:1,2,4", "radius:choice:auto,teacher_mean"), tuner="grid")
    with counting(TeacherCache, "write") as writes, counting(data, "load") as loads:
        tune.search(plan, tmp_path / "search")
    passes = [cache for cache, *_ in writes if cache.dtype == np.float16]  # the exact ones are of un-augmented images
    assert len(passes) == config.epochs and len(loads) == 1
    # By construction: what a search holds has no test split.
    assert experiment.prepare(config, tmp_path, test=False).dataset.test is None


# A disk and a memory, which may lack room.

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
    assert "error: The disk is too small for the teacher cache" in err and "go on with:\n  python -m skd_tf.tune" in err
    (path,) = tmp_path.glob("trials/*/record.json")  # the second was not begun
    assert json.loads(path.read_text())["status"] == "running"
    assert command(monkeypatch, *flags) == 0
    assert "2 trials finished;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("search", "trained", "failing", "where", "fails"),
    [
        ("temperature:choice:1,4", None, 1, TRAINING, False),  # all trials take the same memory
        ("batch_size:choice:50,100", None, 100, TRAINING, True),
        ("batch_size:choice:50,100", 50, 100, TRAINING, True),
        ("batch_size:choice:50,100", 100, 50, TRAINING, False),  # twice as much has fitted
        ("student:choice:cnn_2,cnn_4", "cnn_2", "cnn_4", TRAINING, True),
        ("student:choice:cnn_2,cnn_4", "cnn_2", "cnn_4", (Teacher, "epoch_files"), False),  # in batches of its own
    ],
)
def test_memory_that_runs_out_fails_the_trial_only_where_what_is_searched_may_be_to_blame(
    search, trained, failing, where, fails, config, setup, tmp_path, monkeypatch
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
    trials = TrialRunner(records, setup=setup)
    if fails:
        assert trials.run(1)["reason"] == "OOM when allocating [1000]"
    else:
        with pytest.raises(
            EnvironmentFailure, match=r"^Memory has run out.*OOM when allocating \[1000\].*End what else"
        ):
            trials.run(1)
    assert records.read(1)["status"] == ("failed" if fails else "running")
