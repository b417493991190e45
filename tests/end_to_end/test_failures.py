"""What may go wrong on a user's machine: one line that says what to do, an exit code, and no harm to earlier files."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import socket
import sys

import pytest

from skd_tf import evaluate, export, train
from skd_tf.config import Config
from skd_tf.training import experiment
from skd_tf.training.checkpoints import Checkpoints
from tests.end_to_end.failure_cases import FINISHED, ROWS, Place, full_disk, image_folder, read_only

SETTINGS = {
    "student": "cnn_2",
    "loss": "cross_entropy",
    "epochs": 2,
    "batch_size": 100,
    "learning_rate": 0.1,
    "strategy": "one_device",
    "report": False,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "a räum"  # a space, and more than ASCII
    experiment.run(Config(**SETTINGS | FINISHED), folder)
    return folder


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs a command in this process: (exit code, what it prints on stderr)."""

    def command(module, *flags):
        monkeypatch.setattr(sys, "argv", [module.__name__, *flags])
        with pytest.raises(SystemExit) as end:
            module.cli_main()
        return end.value.code or 0, capsys.readouterr().err

    return command


@pytest.fixture
def run(command):
    """Runs the training command with the settings above, and others."""

    def run(**settings):
        given = [f"--{name}={value}" for name, value in (SETTINGS | settings).items() if name != "report"]
        return command(train, *given, "--noreport")

    return run


def fingerprints(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ROWS)
def test_what_goes_wrong_is_one_line_and_harms_nothing(name, finished, tmp_path, run, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[1] / "helpers"))
    do_it, message, expected_code = ROWS[name]
    before = fingerprints(finished)
    with contextlib.ExitStack() as during:
        flags = {"workdir": tmp_path / "run"} | do_it(Place(finished, tmp_path, during))
        harmed = fingerprints(tmp_path)
        code, errors = run(**flags)
    last = errors.strip().splitlines()[-1]
    assert code == expected_code and "Traceback" not in errors, errors
    assert last.startswith("error: ") and (code == 1 or ("Expected" in last and "Received" in last))
    assert re.search(message, last), last
    assert fingerprints(finished) == before and harmed.items() <= fingerprints(tmp_path).items()
    assert not list(tmp_path.rglob("*.tmp"))


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(tmp_path, run):
    assert run(workdir=tmp_path)[0] == 0
    before = json.loads((tmp_path / "result.json").read_text())["student"]
    (tmp_path / "result.json").unlink()
    newest = Checkpoints(tmp_path / "checkpoints").paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    code, errors = run(workdir=tmp_path)
    assert code == 0 and f"warning: Checkpoint {newest.name} is damaged" in errors
    assert json.loads((tmp_path / "result.json").read_text())["student"] == before
    assert newest.is_file() and newest.with_name(newest.name + ".damaged").is_file()


def test_after_a_full_disk_the_same_command_goes_on_and_a_whole_cache_may_be_read_only(finished, tmp_path, run):
    flags = {"loss": "kd", "teacher_checkpoint": finished, "teacher_cache_dir": tmp_path / "cache"}
    with contextlib.ExitStack() as during:
        full_disk(Place(finished, tmp_path, during), ".logits")
        assert run(**flags, workdir=tmp_path / "run")[0] == 2
    assert run(**flags, workdir=tmp_path / "run")[0] == 0
    abandoned = tmp_path / "cache" / "index.json.0123abcd.tmp"
    abandoned.write_text("")
    os.utime(abandoned, (0, 0))
    with contextlib.ExitStack() as during:
        read_only(Place(finished, tmp_path, during), "cache")
        code, errors = run(**flags, workdir=tmp_path / "other")
    assert code == 0, errors


def test_paths_with_spaces_and_other_letters(finished, tmp_path, run):
    folder = tmp_path / "gemischte Wäsche 2" / "日本"
    distilling = {"loss": "kd", "teacher_checkpoint": finished, "teacher_cache_dir": folder / "cache"}
    code, errors = run(workdir=folder / "run", student_alone="train", **distilling)
    assert code == 0, errors
    assert (folder / "run" / "saved_model" / "saved_model.pb").is_file()
    images = image_folder(Place(finished, folder / "Bilder, größer", None), dogs=16)
    code, errors = run(workdir=folder / "images", **images | {"epochs": 1})
    assert code == 0, errors


def test_nothing_asks_the_network(finished, tmp_path, run, command, monkeypatch):
    def refuse(*arguments, **_):
        pytest.fail(f"asked the network: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    distilling = {"loss": "kd", "teacher_checkpoint": finished, "teacher_cache_dir": tmp_path / "cache"}
    assert run(workdir=tmp_path / "run", **distilling)[0] == 0
    models = f"--model={tmp_path / 'run'}", f"--teacher={finished}", "--dataset=digits", "--notiming"
    assert command(evaluate, *models)[0] == 0
    files = "--format=keras", f"--output={tmp_path / 'out'}", "--check_images=10"
    assert command(export, f"--workdir={tmp_path / 'run'}", *files)[0] == 0
    code, errors = run(workdir=tmp_path / "other", dataset="cifar10", data_dir=tmp_path)
    assert code == 2 and "add --download" in errors
