"""Whatever ends a run, the same command goes on from there: signals, kills, a full disk, a second run, a NaN."""

import errno
import fcntl
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

from skd_tf import data
from skd_tf.config import Config
from skd_tf.errors import DivergedError, InputError
from skd_tf.runs.workdir import locked
from skd_tf.runtime.signals import Interrupted
from skd_tf.training import checkpoints, experiment, run_callbacks
from skd_tf.training.checkpoints import Checkpoints
from tests.training.test_experiment import checkpoint_arrays, numbers

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = {
    "student": "cnn_2",
    "loss": "cross_entropy",
    "epochs": 3,
    "batch_size": 100,
    "learning_rate": 0.1,
    "strategy": "one_device",
    "steps_per_call": 3,
    "report": False,
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return folder, experiment.run(Config(**SETTINGS), folder)


def require_same(folder, straight):
    assert numbers(folder) == numbers(straight[0])
    one, other = checkpoint_arrays(folder), checkpoint_arrays(straight[0])
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    assert json.loads((folder / "result.json").read_text())["student"] == straight[1]["student"]


def at_step(monkeypatch, hook, at, action):
    """Does something in one of the loop's hooks, after a step."""
    original = getattr(run_callbacks.RunCallbacks, hook)

    def hooked(self, step, *arguments):
        original(self, step, *arguments)
        if step == at:
            action()

    monkeypatch.setattr(run_callbacks.RunCallbacks, hook, hooked)


@pytest.mark.parametrize(
    ("hook", "at", "number", "saved", "code"),
    [
        ("on_call", 11, signal.SIGTERM, 14, 143),
        ("save", 8, signal.SIGINT, 11, 130),
        ("on_epoch_end", 24, signal.SIGTERM, 24, 143),
    ],
)
def test_a_signal_ends_the_host_call_saves_and_the_same_run_goes_on(
    straight, tmp_path, monkeypatch, hook, at, number, saved, code
):
    before = signal.getsignal(number)
    at_step(monkeypatch, hook, at, lambda: signal.raise_signal(number))
    with pytest.raises(Interrupted, match=rf"Step {saved} of 24 is saved") as caught:
        experiment.run(Config(**SETTINGS), tmp_path)
    assert caught.value.exit_code == code and not (tmp_path / "result.json").exists()
    assert signal.getsignal(number) is before
    monkeypatch.undo()
    experiment.run(Config(**SETTINGS), tmp_path)
    require_same(tmp_path, straight)


def test_one_run_at_a_time_in_a_workdir(straight, tmp_path):
    (tmp_path / ".lock").write_text("process 1 on a machine that is gone")
    with locked(tmp_path), pytest.raises(InputError, match=rf"Another run has this workdir.*process {os.getpid()} on "):
        experiment.run(Config(**SETTINGS), tmp_path)
    with locked(tmp_path):  # the one before has ended, however it ended
        pass


def test_a_file_system_without_locks_is_warned_of_and_other_errors_are_told(tmp_path, monkeypatch, capsys):
    def refuse(number):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    for number in (errno.ENOLCK, errno.ENOTSUP):
        refuse(number)
        with locked(tmp_path), locked(tmp_path):
            warnings = capsys.readouterr().err.splitlines()
            assert len(warnings) == 2 and warnings[0].startswith(
                f"warning: {tmp_path} is on a file system without locks"
            )
    refuse(errno.EIO)
    with pytest.raises(InputError, match="workdir cannot be written"), locked(tmp_path):
        pass


def test_a_full_disk_is_told_and_loses_nothing(straight, tmp_path, monkeypatch):
    real, written = checkpoints.Checkpoints._write, []

    def full(self, arrays, name, step, extra):
        if len(written) == 2:
            (self.folder / "half.tmp").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / "half.tmp"))
        written.append(name)
        real(self, arrays, name, step, extra)

    monkeypatch.setattr(checkpoints.Checkpoints, "_write", full)
    with pytest.raises(OSError, match=r"The checkpoint of step \d+ cannot be written \(No space left") as caught:
        experiment.run(Config(**SETTINGS, checkpoint_every="3 steps"), tmp_path)
    assert caught.value.filename == str(tmp_path / "checkpoints")
    assert {path.name for path in (tmp_path / "checkpoints").glob("*.ckpt")} == {*written}
    monkeypatch.setattr(checkpoints.Checkpoints, "_write", real)
    experiment.run(Config(**SETTINGS), tmp_path)
    require_same(tmp_path, straight)


def test_a_step_that_is_no_number_is_left_for_a_post_mortem(tmp_path, monkeypatch):
    config = Config(**SETTINGS | {"learning_rate": 1e20, "lr_schedule": "constant", "warmup_epochs": 0.0})
    expected = r"diverged at step \d+ of 24 \(epoch 1 of 3\).*gradient.*last checkpoint stays"
    with pytest.raises(DivergedError, match=expected) as caught:
        experiment.run(config, tmp_path)
    facts = json.loads((tmp_path / "post_mortem" / "facts.json").read_text())
    assert f"at step {facts['step'] + 1} of" in str(caught.value) and facts["not_finite"]
    stream = data.train_stream(data.load(config.pick(data.DataSettings)), config, steps_per_epoch=8, first_step=facts["step"], last_step=24)
    images, labels = next(stream.as_numpy_iterator())
    with np.load(tmp_path / "post_mortem" / "batch.npz", allow_pickle=False) as batch:
        assert np.array_equal(batch["image"], images) and np.array_equal(batch["label"], labels)
    (state,) = (tmp_path / "post_mortem").glob("*.ckpt")
    arrays, _ = checkpoints._read(state)
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert not (tmp_path / "result.json").exists() and not Checkpoints(tmp_path / "checkpoints").paths()


def test_the_best_on_validation_stays_beside_the_newest(straight):
    folder, _ = straight
    best = sorted((folder / "checkpoints").glob("best-*.ckpt"))
    scores = [row["val_accuracy"] for row in numbers(folder)]
    assert [path.name for path in best] == [f"best-{8 * (int(np.argmax(scores)) + 1):09d}.ckpt"]
    assert len(Checkpoints(folder / "checkpoints").paths()) == 2


# What the runs that are killed have beside the settings above, and the moments at which they are.
VARIANTS = {
    "cache": ["--teacher_cache_dir={folder}/cache"],
    "replicas": ["--strategy=mirrored", "--virtual_devices=2", "--ema_momentum=0.9"],
    "adamw": ["--teacher_cache_dir={folder}/cache", "--optimizer=adamw", "--learning_rate=0.01", "--ema_momentum=0.9"],
}
POSITIONS = {
    "cache": {
        "step": range(1, 11),
        "half": (1, 4, 8, 12),
        "checkpoint": (1, 5, 9),
        "renamed": range(2, 12, 2),
        "half cache": (1, 2, 4, 6, 8),
        "cache": (1, 3, 5, 7, 8),
        "half row": (1, 4),
        "half text": (1, 3, 5, 6),
    },
    "replicas": {"step": (3, 10), "half": (3,), "checkpoint": (5,), "renamed": (8,)},
    "adamw": {"step": (5,), "half": (7,)},
}
MOMENTS = [(variant, kind, n) for variant, kinds in POSITIONS.items() for kind, counts in kinds.items() for n in counts]


def command(folder, teacher, variant, *before):
    flags = [f"--{name}={value}" for name, value in SETTINGS.items() if name not in ("loss", "report")]
    flags += [f"--teacher_checkpoint={teacher}", "--loss=spherical", "--noreport"]
    flags += ["--epochs=6", "--checkpoint_every=3 steps", f"--workdir={folder}/run"]
    flags += [flag.format(folder=folder) for flag in VARIANTS[variant]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = before or ("-m", "skd_tf.train")
    return subprocess.run(
        [sys.executable, *start, *flags], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    experiment.run(Config(**SETTINGS | {"student": "cnn_8", "epochs": 12, "batch_size": 50}), folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(teacher, tmp_path_factory):
    """Of a variant: the folder of a run that nobody has killed, and its result."""

    @functools.cache
    def run(variant):
        folder = tmp_path_factory.mktemp("whole")
        whole = command(folder, teacher, variant)
        assert whole.returncode == 0, whole.stderr
        return folder / "run", json.loads((folder / "run" / "result.json").read_text())

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "kind", "count"), MOMENTS)
def test_killed_anywhere_the_same_command_ends_alike(uninterrupted, teacher, tmp_path, variant, kind, count):
    killed = command(tmp_path, teacher, variant, str(ROOT / "tests" / "helpers" / "killed_run.py"), kind, str(count))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(tmp_path.rglob("*.tmp")) or kind in ("step", "renamed", "half row")
    again = command(tmp_path, teacher, variant)
    assert again.returncode == 0, again.stderr
    require_same(tmp_path / "run", uninterrupted(variant))
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_a_command_says_how_to_go_on_when_it_is_stopped(tmp_path):
    flags = [f"--{name}={value}" for name, value in SETTINGS.items() if name != "report"]
    process = subprocess.Popen(
        [sys.executable, "-m", "skd_tf.train", *flags, "--epochs=4000", "--noreport", f"--workdir={tmp_path}"],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "epoch    3/" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in errors
    assert "stopped by SIGTERM. Step " in errors and f"--workdir={tmp_path}" in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_lock_ends_with_its_owner(tmp_path):
    program = "import sys, time; from skd_tf.runs.workdir import locked"
    program += "\nwith locked(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {owner.pid} on "), locked(tmp_path):
        pass
    owner.kill()
    owner.wait()
    with locked(tmp_path):
        pass
