"""The same command resumes a run that a signal, a kill, a full disk or a second run has ended; a post-mortem."""

import errno
import fcntl
import functools
import os
import pathlib
import re
import signal
import subprocess
import sys
import unittest.mock

import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.errors import DivergedError, InputError
from skd_tf.runs.workdir import locked
from skd_tf.runtime.signals import Interrupted
from skd_tf.training import run_callbacks
from skd_tf.training.checkpoints import Checkpoints, _read
from tests.end_to_end.failure_cases import Place, full_disk
from tests.helpers import images, runs
from tests.helpers.runs import assert_same_run, train

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETTINGS = runs.ALONE | {"steps_per_call": 3}
FLAGS = [*runs.as_flags(runs.SMALL), "--steps_per_call=3", "--noreport"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The workdir of a run that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    train(folder, SETTINGS)
    return folder


# A hook of the loop, its step, the signal that it gets there; the step that is saved, the exit code.
SIGNALS = [
    ("save", 8, signal.SIGINT, 11, 130),
    ("on_call", 19, signal.SIGTERM, 22, 143),
    ("on_epoch_end", 24, signal.SIGTERM, 24, 143),
]


@pytest.mark.parametrize(
    ("signals", "resumed"),
    [(SIGNALS[1:2], ["16"]), pytest.param(SIGNALS, ["11", "22", "22"], marks=pytest.mark.slow)],
    ids=["one", "all in turn"],
)
def test_after_a_signal_the_run_resumes_from_a_whole_checkpoint(
    straight, tmp_path, monkeypatch, capsys, signals, resumed
):
    for hook, at, number, saved, code in signals:
        before, original = signal.getsignal(number), getattr(run_callbacks.RunCallbacks, hook)

        def hooked(self, step, *arguments, original=original, at=at, number=number):
            original(self, step, *arguments)
            if step == at:
                signal.raise_signal(number)

        with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"Step {saved} of 24 is saved") as caught:
            patch.setattr(run_callbacks.RunCallbacks, hook, hooked)
            train(tmp_path, SETTINGS)
        assert caught.value.exit_code == code and not (tmp_path / "result.json").exists()
        assert signal.getsignal(number) is before
    newest = Checkpoints(tmp_path / "checkpoints").paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    train(tmp_path, SETTINGS)
    printed = capsys.readouterr()
    assert re.findall(r"Resuming at step (\d+)", printed.out) == resumed
    assert f"warning: Checkpoint {newest.name} is damaged" in printed.err
    last = Checkpoints(tmp_path / "checkpoints").paths()[-1]
    assert last.name == "step-000000024.ckpt" and newest.with_name(newest.name + ".damaged").is_file()
    assert_same_run(tmp_path, straight)


def test_a_file_system_without_locks_is_a_warning_and_another_error_is_an_error(tmp_path, monkeypatch, capsys):
    flock = unittest.mock.Mock()
    monkeypatch.setattr(fcntl, "flock", flock)
    for number in (errno.ENOLCK, errno.ENOTSUP):
        flock.side_effect = OSError(number, os.strerror(number))
        with locked(tmp_path), locked(tmp_path):
            warnings = capsys.readouterr().err.splitlines()
        assert len(warnings) == 2
        assert warnings[0].startswith(f"warning: {tmp_path} is on a file system without locks")
    flock.side_effect = OSError(errno.EIO, os.strerror(errno.EIO))
    with pytest.raises(InputError, match="workdir cannot be written"), locked(tmp_path):
        pass


@pytest.mark.slow
def test_a_full_disk_loses_nothing(straight, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    expected = r"The checkpoint of step \d+ cannot be written \(No space left"
    with Place(straight, tmp_path) as place, pytest.raises(OSError, match=expected) as caught:
        full_disk("step-00000001")(place)
        train(tmp_path, SETTINGS, checkpoint_every="3 steps")
    assert caught.value.filename == str(checkpoints)
    names = sorted(path.name for path in checkpoints.glob("*.ckpt"))
    assert names == ["best-000000008.ckpt", "step-000000006.ckpt", "step-000000009.ckpt"]
    train(tmp_path, SETTINGS)
    assert_same_run(tmp_path, straight)


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_left_for_a_post_mortem(tmp_path):
    settings = SETTINGS | {"learning_rate": 1e10, "lr_schedule": "constant", "warmup_epochs": 0.0}
    expected = r"diverged at step \d+ of 24 \(epoch 1 of 3\).*gradient.*last checkpoint stays"
    with pytest.raises(DivergedError, match=expected) as caught:
        train(tmp_path, settings)
    facts = runs.read_json(tmp_path / "post_mortem" / "facts.json")
    assert f"at step {facts['step'] + 1} of" in str(caught.value) and facts["not_finite"]
    steps = {"steps": 8, "first_step": facts["step"], "last_step": 24}
    image, label = images.stream(images.load(), Config(**settings), **steps)[0]
    with np.load(tmp_path / "post_mortem" / "batch.npz", allow_pickle=False) as batch:
        assert np.array_equal(batch["image"], image) and np.array_equal(batch["label"], label)
    (state,) = (tmp_path / "post_mortem").glob("*.ckpt")
    assert all(np.isfinite(array).all() for array in _read(state)[0].values())
    assert not (tmp_path / "result.json").exists() and not Checkpoints(tmp_path / "checkpoints").paths()


def test_the_best_on_validation_stays_beside_the_newest(straight):
    best = 1 + np.argmax([row["val_accuracy"] for row in runs.numbers(straight)])
    assert max(path.name for path in (straight / "checkpoints").glob("best-*")) == f"best-{8 * best:09d}.ckpt"
    assert len(Checkpoints(straight / "checkpoints").paths()) == 2


# More flags of the runs that are killed, and the moments at which they are.
CACHE = "--teacher_cache_dir={folder}/cache"
VARIANTS = {
    "live": [],
    "cache": [CACHE],
    "replicas": ["--strategy=mirrored", "--virtual_devices=2", "--ema_momentum=0.9"],
    "mixed": [CACHE, "--augmentation=auto, mirror, trivial, erase, mixup, cutmix", "--ship=best"],
    "adamw": [CACHE, "--optimizer=adamw", "--learning_rate=0.01", "--ema_momentum=0.9"],
}
CACHED = {"step": range(1, 11), "half": (1, 4, 8, 12), "checkpoint": (1, 5, 9), "renamed": range(2, 12, 2)}
CACHED |= {"half cache": (1, 2, 4, 6, 8), "cache": (1, 3, 5, 7, 8), "half row": (1, 4), "half text": (1, 3, 5, 6)}
REPLICAS = {"step": (3, 10), "half": (3,), "checkpoint": (5,), "renamed": (8,)}
POSITIONS = {"cache": CACHED, "replicas": REPLICAS, "adamw": {"step": (5,), "half": (7,)}}
POSITIONS |= {"mixed": {"step": (4,), "cache": (2,)}}
MOMENTS = [("live", "step", 6)] + [
    (variant, kind, n) for variant, kinds in POSITIONS.items() for kind, counts in kinds.items() for n in counts
]


def command(folder, teacher, variant, *program):
    flags = [f"--workdir={folder}/run", f"--teacher_checkpoint={teacher}", "--epochs=6", "--checkpoint_every=3 steps"]
    flags += [flag.format(folder=folder) for flag in VARIANTS[variant]]
    line = [sys.executable, *(program or ("-m", "skd_tf.train")), *FLAGS, *flags]
    options = {"capture_output": True, "text": True, "timeout": 300, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    return subprocess.run(line, check=False, **options)


@pytest.fixture(scope="module")
def uninterrupted(digits_teacher, tmp_path_factory):
    """The workdir of a variant's run that was not killed."""

    @functools.cache
    def run(variant):
        folder = tmp_path_factory.mktemp("whole")
        whole = command(folder, digits_teacher, variant)
        assert whole.returncode == 0, whole.stderr
        return folder / "run"

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "kind", "count"), MOMENTS)
def test_killed_anywhere_the_same_command_ends_alike(uninterrupted, digits_teacher, tmp_path, variant, kind, count):
    killer = str(ROOT / "tests" / "helpers" / "killed_run.py")
    killed = command(tmp_path, digits_teacher, variant, killer, kind, str(count))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(tmp_path.rglob("*.tmp")) or kind in ("step", "renamed", "half row")
    assert not (tmp_path / "run" / "result.json").exists()
    saved = list((tmp_path / "run" / "checkpoints").glob("step-*.ckpt"))
    again = command(tmp_path, digits_teacher, variant)
    assert again.returncode == 0 and ("Resuming at step" in again.stdout) == bool(saved), again.stderr
    assert_same_run(tmp_path / "run", uninterrupted(variant))
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_a_stopped_command_says_how_to_resume_and_frees_its_workdir(tmp_path):
    command = [
        sys.executable,
        "-u",
        "-m",
        "skd_tf.train",
        *FLAGS,
        "--loss=cross_entropy",
        "--epochs=4000",
        "--verbosity=full",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, f"--workdir={tmp_path}"], **pipes)
    assert any("epoch    3/" in line for line in process.stdout)  # ends with the process too
    with pytest.raises(InputError, match=f"process {process.pid} on "), locked(tmp_path):
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in errors
    assert "stopped by SIGTERM. Step " in errors and f"--workdir={tmp_path}" in errors.splitlines()[-1]
    with locked(tmp_path):
        pass
