"""Searches in separate processes: killed at any moment, shared by several processes, and over many trials."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.helpers.commands import python
from tests.helpers.runs import SMALL, as_flags, read_json
from tests.search.cases import numbers

pytestmark = pytest.mark.slow

SETTINGS = SMALL | {"epochs": 4, "batch_size": 50, "tuner": "grid", "checkpoint_every": "5 steps"}
FLAGS = [
    *as_flags(SETTINGS),
    "--search=temperature:choice:1,4",
    "--search=kd_weight:choice:0.5,0.9",
    "--verbosity=full",
]


def start(folder, teacher, **environment):
    command = [sys.executable, "-m", "skd_tf.tune", *FLAGS, f"--teacher_checkpoint={teacher}", f"--workdir={folder}"]
    everything = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"} | environment
    path = folder.parent / f"{environment.get('KERASTUNER_TUNER_ID', 'alone')}.log"
    with open(path, "a") as log:
        process = subprocess.Popen(command, env=everything, stdout=log, stderr=subprocess.STDOUT)
    process.log = path
    return process


def finish(process, timeout=600):
    try:
        process.wait(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, process.log.read_text()


def records(folder):
    return [read_json(path) for path in sorted((folder / "trials").glob("*/record.json"))]


@pytest.fixture(scope="module")
def straight(digits_teacher, tmp_path_factory):
    """The records of an undisturbed search, and the seconds it took: kills must come earlier, on any machine."""
    folder, begun = tmp_path_factory.mktemp("straight") / "search", time.monotonic()
    code, out = finish(start(folder, digits_teacher))
    assert code == 0, out
    return records(folder), time.monotonic() - begun


def test_killed_at_random_moments_nothing_is_lost_or_run_twice(straight, digits_teacher, tmp_path):
    """After several SIGKILLs the records equal those of an undisturbed search, and no finished record was touched."""
    (undisturbed, seconds), chance, kills = straight, random.Random(0), 0
    folder, finished_at = tmp_path / "search", {}
    while True:
        process = start(folder, digits_teacher)
        deadline = time.monotonic() + chance.uniform(0.3, 0.6) * seconds if kills < 6 else float("inf")
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        for path in (folder / "trials").glob("*/record.json"):
            record = read_json(path)
            if record["status"] == "finished" and record["ended"] is not None:
                assert finished_at.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    code, out = finish(process)
    assert code == 0 and kills, out
    assert [numbers(record) for record in records(folder)] == [numbers(record) for record in undisturbed]


def test_a_chief_and_two_workers_share_the_trials_and_the_teacher_cache(straight, digits_teacher, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    together = {"KERASTUNER_ORACLE_IP": "localhost", "KERASTUNER_ORACLE_PORT": port}
    folder = tmp_path / "search"
    processes = {
        name: start(folder, digits_teacher, KERASTUNER_TUNER_ID=name, **together) for name in ("chief", "one", "two")
    }
    ended = {name: finish(process) for name, process in processes.items()}
    assert [code for code, _ in ended.values()] == [0, 0, 0], ended
    assert [numbers(record) for record in records(folder)] == [numbers(record) for record in straight[0]]
    passes = [ended[name][1].count("4 to compute") for name in ("one", "two")]
    assert sum(passes) == 1  # one of them ran the teacher, for both
    assert all("Trial " in ended[name][1] for name in ("one", "two"))  # both had work
    assert (folder / "best.flags").is_file() and "4 trials finished" in ended["chief"][1]


MEMORY = """
import os, pathlib, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from skd_tf.runtime import tf_logging
tf_logging.import_tensorflow()
from skd_tf.config import Config
from skd_tf.search.plan import Plan
from skd_tf.search.run_search import run_search
from skd_tf.search.trial_runner import TrialRunner

run = TrialRunner.run
def measured(self, number):
    record = run(self, number)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    print("MB", number, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, flush=True)
    return record
TrialRunner.run = measured

teacher, folder = sys.argv[1:]
settings = {"student": "resnet8", "epochs": 1, "batch_size": 100, "strategy": "one_device"}
config = Config(teacher_checkpoint=teacher, teacher_cache_dir=folder + "/cache", **settings)
run_search(Plan(config, ("temperature:log:1:16", "kd_weight:linear:0.1:0.9"), max_trials=30), folder)
"""


def test_thirty_trials_grow_less_than_two_megabytes_each(digits_teacher, tmp_path):
    printed = python("-c", MEMORY, digits_teacher, tmp_path / "search")
    sizes = [float(line.split()[2]) for line in printed.splitlines() if line.startswith("MB ")]
    assert len(sizes) == 30
    growth = (sizes[-1] - sizes[2]) / 27
    assert growth < 2.0, sizes
