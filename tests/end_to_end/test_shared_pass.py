"""Processes that fill one teacher cache at the same time, each on two devices; one of them is killed."""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from tests.helpers.runs import SMALL, as_flags, assert_same_run, read_json

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).resolve().parents[2]
EPOCHS, SHARDS = 12, 48  # four of 256 images in each epoch of 808 digits
FLAGS = [*as_flags(SMALL | {"epochs": EPOCHS}), "--verbosity=full", "--noreport"]
TWO_DEVICES = ["--strategy=mirrored", "--virtual_devices=2"]


@pytest.fixture
def start(digits_teacher, tmp_path):
    """Starts a run that fills tmp_path / "cache", or another one, and kills itself at a moment of `killed_run`."""

    def start_it(name, *flags, moment=("never", "1"), cache="cache"):
        program = [sys.executable, str(ROOT / "tests" / "helpers" / "killed_run.py"), *moment]
        places = [f"--workdir={tmp_path / name}", f"--teacher_cache_dir={tmp_path / cache}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "SHARD_ROWS": "256"}
        command = [*program, *FLAGS, f"--teacher_checkpoint={digits_teacher}", *places, *flags]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, **options)

    return start_it


def computed(output):
    """The number of shards that a process has computed."""
    return sum(int(number) for number in re.findall(r"teacher pass: (\d+) shard", output))


def shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*/*.logits")}


def test_two_processes_with_two_devices_each_share_one_pass(start, tmp_path):
    """Every shard is computed once; the bytes are those of one process with one device, and so are the students."""
    both = [start(name, *TWO_DEVICES) for name in ("a", "b")]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    counts = [computed(output) for output in outputs]
    assert sum(counts) == SHARDS and all(counts), counts
    alone = start("c", cache="alone")
    output = alone.communicate(timeout=300)[0]
    assert computed(output) == SHARDS
    assert shards(tmp_path / "cache") == shards(tmp_path / "alone") and len(shards(tmp_path / "cache")) == SHARDS
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not [*(tmp_path / "cache").rglob("*.claim")]


def test_a_process_killed_in_mid_pass_loses_at_most_what_it_had_in_flight(start, tmp_path):
    """Another one, which ran beside it, goes on at once; later the same command goes on too. All ends alike."""
    victim, other = start("a", *TWO_DEVICES, moment=("cache", "2")), start("b", *TWO_DEVICES)
    outputs = [process.communicate(timeout=300)[0] for process in (victim, other)]
    assert victim.returncode == -signal.SIGKILL and other.returncode == 0, outputs
    assert 0 < computed(outputs[1]) <= SHARDS  # the killed one may not have finished its first
    again = start("a", *TWO_DEVICES)
    assert computed(again.communicate(timeout=300)[0]) == 0
    for moment in (("half cache", "8"), ("cache", "20")):
        killed = start(moment[0], moment=moment, cache=f"{moment[0]} of")
        killed.communicate(timeout=300)
        assert killed.returncode == -signal.SIGKILL
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / f"{moment[0]} of").glob("*/*.logits")}
        # The first file is that of the validation images, the last one has no name; a short shard has no half.
        assert int(moment[1]) - 2 <= len(kept) < int(moment[1]) + 4
        resumed = start(moment[0], cache=f"{moment[0]} of")
        assert computed(resumed.communicate(timeout=300)[0]) == SHARDS - len(kept)
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert shards(tmp_path / f"{moment[0]} of") == shards(tmp_path / "cache")
    assert read_json(tmp_path / "a" / "result.json")["student"] == read_json(tmp_path / "b" / "result.json")["student"]
