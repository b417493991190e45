"""Searches in separate processes: killed at any moment, shared by several processes, and over many trials."""

import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from skd_tf.config import Config
from skd_tf.training import experiment
from tests.search.cases import numbers

pytestmark = pytest.mark.slow

SMALL = {"student": "cnn_2", "epochs": 4, "batch_size": 50, "learning_rate": 0.1, "strategy": "one_device"}
FLAGS = [f"--{name}={value}" for name, value in SMALL.items()] + [
    "--tuner=grid",
    "--search=temperature:choice:1,4",
    "--search=kd_weight:choice:0.5,0.9",
    "--checkpoint_every=5 steps",
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    config = Config(**SMALL | {"student": "cnn_8", "loss": "cross_entropy", "epochs": 12, "report": False})
    assert experiment.run(config, folder)["student"]["accuracy"] > 0.5
    return folder


def start(folder, teacher, **environment):
    command = [sys.executable, "-m", "skd_tf.tune", *FLAGS, f"--teacher_checkpoint={teacher}", f"--workdir={folder}"]
    path = pathlib.Path(folder).parent / f"{environment.get('KERASTUNER_TUNER_ID', 'alone')}.log"
    with open(path, "a") as log:
        everything = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"} | environment
        process = subprocess.Popen(command, env=everything, stdout=log, stderr=subprocess.STDOUT)
    process.log = path
    return process


def finish(process, timeout=600):
    try:
        code = process.wait(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    return code, process.log.read_text()


def records(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*/record.json"))]


@pytest.fixture(scope="module")
def straight(teacher, tmp_path_factory):
    """The records of an undisturbed search, and the seconds it took: kills must come earlier, on any machine."""
    folder, begun = tmp_path_factory.mktemp("straight") / "search", time.monotonic()
    code, out = finish(start(folder, teacher))
    assert code == 0, out
    return records(folder), time.monotonic() - begun


def test_killed_at_random_moments_nothing_is_lost_or_run_twice(straight, teacher, tmp_path):
    """After several SIGKILLs the records equal those of an undisturbed search, and no finished record was touched."""
    (undisturbed, seconds), chance, kills = straight, random.Random(0), 0
    folder, finished_at = tmp_path / "search", {}
    while True:
        process = start(folder, teacher)
        deadline = time.monotonic() + chance.uniform(0.3, 0.6) * seconds if kills < 6 else float("inf")
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        for path in (folder / "trials").glob("*/record.json"):
            record = json.loads(path.read_text())
            if record["status"] == "finished" and record["ended"] is not None:
                assert finished_at.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    code, out = finish(process)
    assert code == 0 and kills, out
    assert [numbers(record) for record in records(folder)] == [numbers(record) for record in undisturbed]
    print(f"{kills} kills")


def test_a_chief_and_two_workers_share_the_trials_and_the_teacher_cache(straight, teacher, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    together = {"KERASTUNER_ORACLE_IP": "localhost", "KERASTUNER_ORACLE_PORT": port}
    folder = tmp_path / "search"
    processes = {name: start(folder, teacher, KERASTUNER_TUNER_ID=name, **together) for name in ("chief", "one", "two")}
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

    def resident_mb():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    run = TrialRunner.run
    def measured(self, number):
        record = run(self, number)
        print("MB", number, resident_mb(), flush=True)
        return record
    TrialRunner.run = measured

    teacher, folder = sys.argv[1:]
    config = Config(teacher_checkpoint=teacher, teacher_cache_dir=folder + "/cache", student="resnet8", epochs=1,
                    batch_size=100, strategy="one_device")
    run_search(Plan(config, ("temperature:log:1:16", "kd_weight:linear:0.1:0.9"), max_trials=30), folder)
"""


def test_thirty_trials_grow_less_than_two_megabytes_each(teacher, tmp_path):
    program = [sys.executable, "-c", textwrap.dedent(MEMORY), str(teacher), str(tmp_path / "search")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(program, check=False, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    sizes = [float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("MB ")]
    assert len(sizes) == 30
    growth = (sizes[-1] - sizes[2]) / 27
    print(f"{sizes[2]:.0f} MB after the third trial, {sizes[-1]:.0f} MB after the thirtieth: {growth:.2f} MB a trial")
    assert growth < 2.0, sizes
