"""Shared by the tests of the search: a teacher of the digits, its cache, a Config, its data, and the command."""

import contextlib
import functools
import pathlib
import sys
import tempfile

import pytest

from skd_tf import tune
from skd_tf.config import Config
from skd_tf.training import experiment

# One device, because --strategy=auto would make two replicas of the tests' two logical CPUs.
SMALL = {"student": "cnn_2", "epochs": 2, "batch_size": 100, "learning_rate": 0.1, "strategy": "one_device"}


@functools.cache
def temporary():
    return tempfile.TemporaryDirectory()  # removed when the process ends


@functools.cache
def teacher():
    """The workdir of a trained teacher."""
    folder = pathlib.Path(temporary().name) / "teacher"
    config = Config(
        **SMALL | {"student": "cnn_8", "loss": "cross_entropy", "epochs": 12, "batch_size": 50, "report": False}
    )
    assert experiment.run(config, folder)["student"]["accuracy"] > 0.5
    return folder


@functools.cache
def config():
    return Config(teacher_checkpoint=str(teacher()), teacher_cache_dir=f"{temporary().name}/cache", **SMALL)


@functools.cache
def resources():
    return experiment.prepare(config(), pathlib.Path(temporary().name), test=False)


def command(monkeypatch, *arguments):
    """The exit code of python -m skd_tf.tune in this process."""
    monkeypatch.setattr(sys, "argv", ["skd_tf/tune.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        tune.cli_main()
    return ended.value.code


@contextlib.contextmanager
def counting(owner, name):
    """Records the arguments of every call of a function, which still runs."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    setattr(owner, name, counted)
    try:
        yield calls
    finally:
        setattr(owner, name, function)


def folder_of(path):
    path.mkdir()
    return path


def numbers(record):
    """The part of a trial's record that is the same in every run of the search."""
    timed = ("seconds", "examples_per_second", "input_wait_share")
    runs = [{k: v for k, v in run["metrics"].items() if k not in timed} for run in record["executions"]]
    return [record["trial"], record["status"], record["values"], record["objective"], runs]
