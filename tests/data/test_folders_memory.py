"""How much memory data in memory take, and how much they may take."""

import dataclasses
import gc
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.data import as_decided, memory_budget, training_stream
from skd_tf.data.dataset import Split
from skd_tf.errors import InputError
from skd_tf.runs.data_identity import places_of
from tests.helpers import runs
from tests.helpers.images import equal, load, make_folder, stream

GIB = 2**30


def group(folder, limit, used, names=("memory.max", "memory.current"), cached=0):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


def test_the_limit_of_a_container_counts_with_those_around_it(tmp_path):
    group(tmp_path / "a", 8 * GIB, 2 * GIB)
    group(tmp_path / "a" / "b", "max", 1 * GIB)
    group(tmp_path / "a" / "b" / "c", 4 * GIB, 3 * GIB, cached=2 * GIB)
    assert memory_budget._free_in_cgroups(tmp_path, "0::/a/b/c\n") == [3 * GIB, 6 * GIB]
    assert memory_budget._free_in_cgroups(tmp_path, "0::/\n") == []
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(tmp_path / "memory", 5 * GIB, 1 * GIB, names)
    assert memory_budget._free_in_cgroups(tmp_path, "3:cpu,memory:/gone\n2:cpuset:/x\n") == [4 * GIB]
    assert 0 < memory_budget.budget() <= memory_budget._free_on_machine() * 0.51


def test_what_does_not_fit_is_read_from_disk_and_said(tmp_path, monkeypatch, capsys):
    make_folder(tmp_path, size=lambda i: (8, 8))
    monkeypatch.setattr(memory_budget, "_free_on_machine", lambda: 10_000)
    dataset = load(tmp_path)
    assert not isinstance(dataset.train.images, np.ndarray)
    needed = sum(len(split) for split in (dataset.train, dataset.validation, dataset.test)) * 8 * 8 * 3 / 1024
    said = f"takes {needed:.3g} KiB at image size 8x8, more than half of the free memory (4.88 KiB)"
    assert said in capsys.readouterr().out
    with pytest.raises(InputError, match=r"does not fit in memory\..*loading takes up to 1\.3.*--cache_dataset=none"):
        load(tmp_path, cache_dataset="memory")


def test_images_stay_where_a_run_began_with_them(tmp_path, monkeypatch):
    """Whatever memory is free when it resumes, and however much that is less than half."""
    name = f"folder:{make_folder(tmp_path, size=lambda i: (8, 8))}"
    whole = load(tmp_path)
    images = len(whole.train) + len(whole.validation) + len(whole.test)
    monkeypatch.setattr(memory_budget, "_free_on_machine", lambda: images * 8 * 8 * 3 * 1.4)  # more than half of it
    for decided, in_memory in (
        ({}, False),
        ({name: True}, True),
        ({name: False}, False),
        ({"folder:other": True}, False),
    ):
        with as_decided(decided):
            assert isinstance(load(tmp_path).train.images, np.ndarray) == in_memory
    assert isinstance(load(tmp_path, cache_dataset="memory").train.images, np.ndarray)
    monkeypatch.setattr(memory_budget, "_free_on_machine", lambda: 10_000)
    with as_decided({name: True}), pytest.raises(InputError, match=r"where this run keeps its images.*Free memory"):
        load(tmp_path)
    monkeypatch.undo()
    with as_decided({name: False}):
        assert not isinstance(load(tmp_path).train.images, np.ndarray)
    unlabelled = Config(dataset=name, unlabelled="images:more", teacher_checkpoint="t")
    for where, places in (
        ("", {}),
        ("memory", {name: True, "images:more": True}),
        ("none, but memory for --unlabelled", {name: False, "images:more": True}),
    ):
        assert places_of(where, unlabelled) == places


@pytest.mark.slow
def test_a_run_resumes_with_less_free_memory(tmp_path, monkeypatch):
    folder, settings = make_folder(tmp_path / "images", size=lambda i: (8, 8)), {"student": "cnn_2", "batch_size": 4}
    settings |= {"dataset": f"folder:{folder}", "epochs": 2, "report": False}
    expected = runs.train(tmp_path / "run", **settings)["student"]
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.setattr(memory_budget, "budget", lambda: 1000.0 if not memory_budget._decided else 1e9)
    assert runs.train(tmp_path / "run", **settings)["student"]["accuracy"] == expected["accuracy"]


def test_a_validation_split_is_taken_out_in_place():
    images = memory_budget.aligned_empty(200, (2, 2, 1))
    images[:] = np.arange(200, dtype=np.uint8)[:, None, None, None]
    expected, rows = images.copy(), np.array([0, 5, 6, 77, 199])
    split = Split(images, np.arange(200, dtype=np.int32), np.arange(200), own_memory=True)
    rest = split.without(rows)
    kept = np.setdiff1d(np.arange(200), rows)
    assert np.array_equal(rest.images, expected[kept]) and np.array_equal(rest.labels, kept)
    assert np.shares_memory(rest.images, images)
    users = dataclasses.replace(split, images=expected.copy(), own_memory=False)
    before = users.images.copy()
    assert np.array_equal(users.without(rows).images, expected[kept]) and np.array_equal(users.images, before)


@pytest.mark.parametrize("shift", [1, *(pytest.param(shift, marks=pytest.mark.slow) for shift in (0, 16))])
def test_the_stream_shares_the_memory_of_images(shift):
    """Images that TensorFlow cannot read in place give the same batches."""
    base = memory_budget.aligned_empty(41, (8, 8, 1)).reshape(-1)
    base[:] = np.random.default_rng(0).integers(0, 256, base.size, np.uint8)
    images = base[shift : shift + 40 * 64].reshape(40, 8, 8, 1)
    digits = load(validation_fraction=0)
    labels = np.arange(40, dtype=np.int32) % 10
    shared, copied = (
        dataclasses.replace(digits, train=Split(array, labels, np.arange(40))) for array in (images, images.copy())
    )
    config = Config(batch_size=8)
    assert equal(stream(shared, config), stream(copied, config))
    assert (memory_budget.aligned(images) is images) == (shift == 0)
    tensor = training_stream._in_place(images)
    del shared, images
    gc.collect()
    assert tensor.shape == (40, 8, 8, 1) and tensor.numpy().any()


PROGRAM = """
import os, sys, threading, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
from skd_tf import data
from skd_tf.config import Config

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

config = Config(dataset="folder:" + sys.argv[1], image_size=int(sys.argv[2]), augmentation="none", batch_size=16)
small = config.replace(image_size=8)  # TensorFlow's own memory
stream = lambda d: data.train_stream(d, config.pick(data.StreamSettings), steps_per_epoch=2, first_step=0, last_step=2)
for _ in stream(data.load(small.pick(data.DataSettings))):
    pass
base, peak = resident(), [0]
def watch():
    while True:
        peak[0] = max(peak[0], resident())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
dataset = data.load(config.pick(data.DataSettings))
size = sum(split.images.nbytes for split in (dataset.train, dataset.validation, dataset.test))
for _ in stream(dataset):
    pass
print((peak[0] - base) / size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_folder_in_memory_takes_at_most_1_3_times_its_size(tmp_path):
    make_folder(tmp_path, size=lambda i: (16, 16), per_class=100, formats=(".png",))
    # 600 images of 700 x 700 x 3: 0.9 GB
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "700"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(output.splitlines()[-1]) < 1.3
