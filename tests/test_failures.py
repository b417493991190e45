"""What may go wrong on a user's machine: one line that says what to do, an exit code, and no harm to earlier files."""

import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from skd_tf import experiment, teacher_cache, train
from skd_tf.checkpoints import Checkpoints
from skd_tf.config import Config

SETTINGS = {
    "student": "cnn_2", "loss": "cross_entropy", "epochs": 2, "batch_size": 100, "learning_rate": 0.1,
    "strategy": "one_device", "report": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "a räum"  # a space, and more than ASCII
    experiment.run(Config(**SETTINGS | {"epochs": 12, "batch_size": 50}), folder)
    return folder


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the training command in this process: (exit code, what it prints on stderr)."""

    def run(*flags, **settings):
        given = [f"--{name}={value}" for name, value in (SETTINGS | settings).items() if name != "report"]
        monkeypatch.setattr(sys, "argv", ["skd-train", *given, "--noreport", *flags])
        with pytest.raises(SystemExit) as end:
            train.cli_main()
        return end.value.code or 0, capsys.readouterr().err

    return run


def fingerprints(folder):
    return {path: hashlib.sha256(path.read_bytes()).digest() for path in folder.rglob("*") if path.is_file()}


def truncated(teacher, tmp_path):
    file = tmp_path / "teacher.keras"
    file.write_bytes((teacher / "student.keras").read_bytes()[:-2000])
    return {"loss": "kd", "teacher_checkpoint": file}


def no_model(teacher, tmp_path):
    file = tmp_path / "teacher.keras"
    file.write_bytes(b"no model")
    return {"loss": "kd", "teacher_checkpoint": file}


def empty_class(teacher, tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
        for i in range(4):
            image = tf.io.encode_png(np.full([8, 8, 3], 40 * i, np.uint8)).numpy()
            (tmp_path / split / "cat" / f"{i}.png").write_bytes(image)
    return {"dataset": f"folder:{tmp_path}", "batch_size": 4}


def bad_pictures(teacher, tmp_path):
    empty_class(teacher, tmp_path)
    for split in ("train", "test"):
        for i in range(4):
            (tmp_path / split / "dog" / f"{i}.png").write_bytes(b"\x89PNG no more")
    return {"dataset": f"folder:{tmp_path}", "batch_size": 4}


def broken_tfrecord(teacher, tmp_path):
    features = tfds.features.FeaturesDict(
        {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    )
    examples = [(i, {"image": np.full([8, 8, 1], i, np.uint8), "label": i % 10}) for i in range(60)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny", version="1.0.0", features=features, split_datasets={"train": examples, "test": examples},
        data_dir=tmp_path, disable_shuffling=True,
    )  # fmt: skip
    info = tmp_path / "tiny" / "1.0.0" / "dataset_info.json"
    facts = json.loads(info.read_text()) | {"supervisedKeys": _SUPERVISED}
    info.write_text(json.dumps(facts))
    (file,) = tmp_path.rglob("*train.tfrecord*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    return {"dataset": "tiny", "data_dir": tmp_path, "batch_size": 10}


def under_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "below"


# what is done -> what the one line says
_SUPERVISED = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
ROWS = {
    "a workdir that cannot be made": (
        lambda t, p: {"workdir": under_a_file(p)}, r"workdir cannot be written \(Not a directory",
    ),
    "an unwritable cache": (
        lambda t, p: {"loss": "kd", "teacher_checkpoint": t, "teacher_cache_dir": under_a_file(p)},
        r"teacher cache cannot be written \(Not a directory",
    ),
    "a data directory that is gone": (
        lambda t, p: {"dataset": "cifar10", "data_dir": p / "gone"}, r"cifar10 is not prepared.*Point --data_dir at",
    ),
    "a corrupted TFRecord": (broken_tfrecord, r"tiny.*damaged|tiny.*cannot be read"),
    "corrupted images": (bad_pictures, r"Too many files of the train split do not decode: 4 of 8"),
    "an empty class": (empty_class, r"class.*dog"),
    "images of another dtype": (lambda t, p: {"dataset": "bad_data:floats"}, r"train split.*uint8.*float32"),
    "labels out of range": (lambda t, p: {"dataset": "bad_data:eleven_labels"}, r"label.*10"),
    "a dataset smaller than a batch": (
        lambda t, p: {"dataset": "bad_data:few"}, r"training split is smaller than a batch. Expected at least 100",
    ),
    "a teacher of other channels": (
        lambda t, p: {"dataset": "bad_data:colours", "loss": "kd", "teacher_checkpoint": t}, r"takes other images",
    ),
    "a truncated teacher": (truncated, r"teacher is damaged|does not load"),
    "a teacher that is none": (no_model, r"teacher is damaged|does not load"),
    "a teacher that is not there": (
        lambda t, p: {"loss": "kd", "teacher_checkpoint": p / "gone"}, r"gone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_what_goes_wrong_is_one_line_and_harms_nothing(name, finished, tmp_path, run, monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
    harm, message = ROWS[name]
    before = fingerprints(finished)
    flags = {"workdir": tmp_path / "run"} | harm(finished, tmp_path)
    harmed = fingerprints(tmp_path)
    code, errors = run(**flags)
    last = errors.strip().splitlines()[-1]
    assert code == 2 and "Traceback" not in errors
    assert last.startswith("error: ") and "Expected" in last and "Received" in last
    assert re.search(message, last), last
    assert fingerprints(finished) == before and harmed.items() <= fingerprints(tmp_path).items()


def test_a_checkpoint_of_another_network_is_refused(finished, tmp_path, run):
    assert run(workdir=tmp_path, epochs=1, student="cnn_4")[0] == 0
    (tmp_path / "result.json").unlink()
    newest = Checkpoints(finished / "checkpoints").paths()[-1]
    shutil.copy(newest, tmp_path / "checkpoints" / "step-999999999.ckpt")
    before = fingerprints(tmp_path / "checkpoints")
    code, errors = run(workdir=tmp_path, epochs=1, student="cnn_4")
    assert code == 2 and "is a checkpoint of another network or optimizer" in errors and "Use another --workdir" in errors
    assert fingerprints(tmp_path / "checkpoints") == before


def test_damaged_checkpoints_are_named_and_the_one_before_is_used(tmp_path, run, capsys):
    assert run(workdir=tmp_path)[0] == 0
    results = (tmp_path / "result.json").read_text()
    (tmp_path / "result.json").unlink()
    newest = Checkpoints(tmp_path / "checkpoints").paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    code, errors = run(workdir=tmp_path)
    assert code == 0 and f"warning: Checkpoint {newest.name} is damaged" in errors and results
    assert newest.is_file() and newest.with_name(newest.name + ".damaged").is_file()


def test_a_cache_that_fills_the_disk_stops_before_its_first_byte_and_in_the_middle(finished, tmp_path, run, monkeypatch):
    flags = {"loss": "kd", "teacher_checkpoint": finished, "teacher_cache_dir": tmp_path / "cache"}
    flags["workdir"] = tmp_path / "run"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    code, errors = run(**flags)
    assert code == 2 and "disk is too small for the teacher cache" in errors
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(teacher_cache.os, "fsync", full)
        code, errors = run(**flags)
        assert code in (1, 2) and "No space left on device" in errors and "Traceback" not in errors
    assert not list((tmp_path / "cache").glob("*.tmp"))
    assert run(**flags)[0] == 0


@pytest.mark.parametrize("place", ["a folder", "gemischte Wäsche 2"])
def test_paths_with_spaces_and_other_letters(finished, tmp_path, run, place):
    folder = tmp_path / place / "läuft"
    distilling = {"loss": "kd", "teacher_checkpoint": finished, "teacher_cache_dir": folder / "cache"}
    code, errors = run(workdir=folder / "run", student_alone="train", **distilling)
    assert code == 0, errors
    assert (folder / "run" / "saved_model" / "saved_model.pb").is_file()


def test_nothing_asks_the_network(tmp_path, run, monkeypatch):
    def refuse(*arguments, **_):
        pytest.fail(f"asked the network: {arguments[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert run(workdir=tmp_path / "run")[0] == 0
    code, errors = run(workdir=tmp_path / "other", dataset="cifar10", data_dir=tmp_path)
    assert code == 2 and "add --download" in errors


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="cutting the network off takes root's unshare")
def test_without_any_network_a_run_ends_well(tmp_path):
    """A network namespace without even a loopback device that is up: TensorFlow's own C++ is seen too."""
    flags = [f"--{name}={value}" for name, value in SETTINGS.items() if name != "report"]
    command = ["unshare", "-n", sys.executable, "-m", "skd_tf.train", *flags, f"--workdir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
