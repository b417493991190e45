"""Several processes train as one: real workers on 127.0.0.1, on free ports, under a hard time limit."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.runtime import cluster, devices, replicas
from skd_tf.training import dry_run
from tests.helpers.cluster_worker import CASES
from tests.helpers.nets import batches, distance, make_distiller, run, weights_of
from tests.helpers.runs import as_flags, assert_same_run, numbers, read_json
from tools import launch_local_cluster as launcher

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
TWO_REPLICAS = ("--strategy=mirrored", "--virtual_devices=2")
CNN_2 = {"student": "cnn_2", "batch_size": 50, "learning_rate": 0.1}
CNN_8 = CNN_2 | {"student": "cnn_8", "epochs": 12}


class Workers:
    """Processes of one command. `lines` is what they have printed so far; `wait` returns their exit codes."""

    def __init__(self, *command, count=2, limit_seconds=300):
        self.lines = []
        self.processes = launcher.start([sys.executable, *command], launcher.free_addresses(count), ENVIRONMENT)
        self._limit = threading.Timer(limit_seconds, self.kill)
        self._waiting = threading.Thread(target=launcher.wait, args=(self.processes, self.lines.append), daemon=True)
        self._limit.start()
        self._waiting.start()

    def printed(self, *texts):
        """Whether one line has all these texts."""
        return any(all(text in line for text in texts) for line in self.lines)

    def wait_for(self, *texts):
        deadline = time.monotonic() + 120
        while not self.printed(*texts):
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)

    def kill(self, *indices):
        for index in indices or range(len(self.processes)):
            self.processes[index].send_signal(signal.SIGKILL)

    def wait(self):
        self._waiting.join()
        self._limit.cancel()
        return [process.returncode for process in self.processes]


def train_flags(workdir, *flags):
    return ("-m", "skd_tf.train", *as_flags(CNN_2), f"--workdir={workdir}", "--verbosity=full", *flags)


def train(workdir, *flags, count=2):
    """Workers that have trained to the end."""
    workers = Workers(*train_flags(workdir, *flags), count=count)
    assert workers.wait() == [0] * count, workers.lines
    assert all(workers.printed(f"[{index}] This is worker {index}.") for index in range(1, count))
    return workers


def assert_killed_run_resumes(workdir, flags, expected, victim, *texts):
    """Kills one of two workers when a line has these texts; the same command then ends as `expected`.

    Returns the lines that the killed run printed.
    """
    killed = Workers(*train_flags(workdir, *flags))
    killed.wait_for(*texts)
    killed.kill(victim)
    codes = killed.wait()  # the launcher ends a worker that does not notice only after ten seconds
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    assert not (workdir / "result.json").exists()
    again = train(workdir, *flags)
    assert again.printed("Resuming at step") or not texts[0].startswith("epoch")
    assert_same_run(workdir, expected)
    return killed.lines


ADDRESSES = ["10.0.0.1:2222", "10.0.0.2:2222"]


def tf_config(kind="worker", index=0, **addresses):
    return {"TF_CONFIG": json.dumps({"cluster": addresses, "task": {"type": kind, "index": index}})}


def test_a_place_in_the_cluster():
    two = tf_config(worker=ADDRESSES, index=1)
    assert cluster.member("auto", two) == cluster.member("multi_worker", two)
    assert (cluster.member("auto", two).workers, cluster.member("auto", two).index) == (2, 1)
    jobs = {"chief": ADDRESSES[:1], "worker": ADDRESSES[1:]}
    assert [cluster.member("auto", tf_config(kind, **jobs)).index for kind in jobs] == [0, 1]
    one = tf_config(worker=ADDRESSES[:1])
    assert cluster.member("auto", one) is None and cluster.member("multi_worker", one).workers == 1
    assert cluster.member("auto", {}) is cluster.member("auto", {"TF_CONFIG": "{}"}) is None
    assert cluster.member("mirrored", two) is cluster.member("one_device", {"TF_CONFIG": "?"}) is None


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({}, "TF_CONFIG is missing"),
        ({"TF_CONFIG": "worker"}, "malformed: Expecting value"),
        ({"TF_CONFIG": "[1]"}, "malformed"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "it lacks 'task'"),
        (tf_config(ps=["a:1"], worker=["b:1"]), "jobs other than chief and worker: ps"),
        (tf_config(worker=["a"]), "a is not host:port"),
        (tf_config(worker="a:1"), "not host:port"),
        (tf_config(worker=["a:1", "a:1"]), "same address"),
        (tf_config(worker=["a:1"], index=1), "no worker 1"),
        (tf_config(chief=["a:1", "b:1"], worker=["c:1"]), "2 chiefs"),
    ],
)
def test_a_bad_tf_config_is_one_line(environment, problem):
    with pytest.raises(InputError, match=rf"{problem}.*Expected.*Received") as caught:
        cluster.member("multi_worker", environment)
    assert "\n" not in str(caught.value)


def test_what_a_cluster_cannot_do_is_an_error_up_front(monkeypatch):
    environment = tf_config(worker=ADDRESSES)
    monkeypatch.setenv("TF_CONFIG", environment["TF_CONFIG"])
    assert "multi_worker, replicas: 2, worker 0 of 2, the chief" in dry_run.describe(Config(loss="cross_entropy"))
    me = cluster.member("auto", environment)
    assert devices.replicas("auto", gpus=4, member=me) == ("multi_worker", 8)
    with pytest.raises(InputError, match="Virtual devices are for one process"):
        devices.replicas("auto", virtual_devices=2, member=me)
    with pytest.raises(InputError, match=r"multiple of 2.*batch_size=33"):
        replicas.make_strategy(batch_size=33)
    with pytest.raises(InputError, match=r"more replicas than examples.*at least 2.*batch_size=1"):
        replicas.make_strategy(batch_size=1)


@pytest.mark.slow
def test_the_launcher_ends_all_when_one_fails():
    program = "import os, sys, time; index = os.environ['TF_CONFIG'][-3]; print('hello', flush=True); "
    program += "sys.exit(7) if index == '1' else time.sleep(0.5) or sys.exit(1)"
    lines, addresses = [], launcher.free_addresses(3)
    assert len({*addresses}) == 3
    assert launcher.wait(launcher.start([sys.executable, "-c", program], addresses), lines.append) == 7
    assert sorted(lines) == ["[0] hello", "[1] hello", "[2] hello"]
    assert launcher.wait(launcher.start([sys.executable, "-c", ""], addresses), lines.append) == 0


@pytest.mark.slow
def test_the_launcher_passes_ctrl_c_on():
    program = "import time; print('ready', flush=True); time.sleep(60)"
    command = f"import sys; from tools import launch_local_cluster as l; c = [sys.executable, '-c', {program!r}]; "
    command += "sys.exit(l.wait(l.start(c, l.free_addresses(2)), lambda line: print(line, flush=True)))"
    options = {"env": ENVIRONMENT, "text": True, "stdout": subprocess.PIPE, "start_new_session": True}
    tool = subprocess.Popen([sys.executable, "-c", command], **options)
    assert sorted(tool.stdout.readline() for _ in range(2)) == ["[0] ready\n", "[1] ready\n"]
    tool.send_signal(signal.SIGINT)
    assert tool.wait(timeout=20) == 130


@pytest.mark.slow
def test_two_workers_equal_two_replicas(tmp_path, two_replicas):
    """And one replica, where BatchNorm is synchronized: in float64, to rounding, which 20 steps hardly amplify."""
    workers = Workers(str(ROOT / "tests" / "helpers" / "cluster_worker.py"), str(tmp_path), limit_seconds=100)
    ours, data = {}, batches(20, size=16, dtype="float64")
    for name, settings in CASES.items():
        strategy = None if settings.get("synchronize") else two_replicas
        distiller = make_distiller(strategy, dtype="float64", **settings | {"synchronize": False})
        ours[name] = run(distiller, data, steps_per_call=5), distiller.student
    assert workers.wait() == [0, 0], workers.lines
    facts = [read_json(tmp_path / f"facts-{index}.json") for index in (0, 1)]
    for name, (means, student) in ours.items():
        theirs = [np.load(tmp_path / f"{name}-{index}.npy") for index in (0, 1)]
        assert np.array_equal(*theirs)
        assert distance(weights_of(student), theirs[0]) < 1e-12
        assert facts[0].pop(name) == facts[1].pop(name) == pytest.approx(means, rel=1e-11)
        logits = student(data[0][0]).numpy()
        np.testing.assert_allclose(np.load(tmp_path / f"{name}-logits.npy"), logits, rtol=1e-4, atol=1e-6)
    assert [one.pop("batches") for one in facts] == [[16, 8, 5], [16]]
    shared = {
        "equal": [True, True],
        "replicas": 2,
        "long": True,
        "within": 10,
        "problem": "Worker 0 says no.",
        "largest": 1,
    }
    assert facts == [shared | {"chief": True, "written": 0}, shared | {"chief": False, "written": None}]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(flags, workdir, lines) of a run of two workers that first trains its teacher and the student alone."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "teacher.flags").write_text("\n".join(as_flags(CNN_8)))
    flags = (f"--teacher_flagfile={folder / 'teacher.flags'}", "--student_alone=train", "--epochs=20", "--clip_norm=5")
    return flags, folder / "run", train(folder / "run", *flags).lines


@pytest.mark.slow
def test_the_whole_job_equals_that_of_two_replicas(uninterrupted, tmp_path):
    flags, folder, lines = uninterrupted
    others = [line for line in lines if not line.startswith("[0] ")]
    assert len(others) == 2 and "Only worker 0" in others[1]  # otherwise only the chief prints
    train(tmp_path, *flags, *TWO_REPLICAS, count=1)
    results = [read_json(path / "result.json") for path in (folder, tmp_path)]
    assert results[0].keys() == results[1].keys() and results[0]["student"].keys() == results[1]["student"].keys()
    for name in ("teacher", "student_alone"):  # 16 steps; after some hundred, rounding has grown to anything
        assert numbers(folder / name)[0] == pytest.approx(numbers(tmp_path / name)[0], rel=1e-4)
    assert "workers: 2" in results[0]["device"] and "replicas: 2" in results[0]["device"]
    assert keras.models.load_model(folder / "student.keras").predict(np.zeros([1, 8, 8, 1]), verbose=0).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_others_and_the_same_command_resumes(uninterrupted, tmp_path, victim):
    flags, folder, _ = uninterrupted
    # Workers' clocks differ: an interval that is over on one and not on the other must not matter.
    flags = (*flags, "--checkpoint_every=0.2 seconds")
    lines = assert_killed_run_resumes(tmp_path, flags, folder, victim, "epoch  6/20", "agreement")
    (problem,) = [line for line in lines if "error" in line]
    assert problem.startswith(f"[{1 - victim}] error: Another worker has stopped")


@pytest.mark.slow
def test_two_workers_share_one_teacher_cache(uninterrupted, tmp_path):
    """Each computes a part of it, once. From it two workers train as two replicas do, and as without a cache."""
    flags, live, _ = uninterrupted
    flags = [*flags[2:], f"--teacher_checkpoint={live / 'teacher'}", "--teacher_cache_dtype=float32"]
    flags += [f"--teacher_cache_dir={tmp_path / 'cache'}"]
    workers = train(tmp_path / "run", *flags)
    counts = [int(count) for line in workers.lines for count in re.findall(r"teacher pass: (\d+) shard", line)]
    assert workers.printed("20 to compute") and len(counts) == 1 and 0 < counts[0] < 20, workers.lines
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.logits")}
    assert len(files) >= 20
    assert train(tmp_path / "one", *flags, *TWO_REPLICAS, count=1).printed("0 to compute")
    assert {path: path.stat().st_mtime_ns for path in files} == files
    live, cached, one = (numbers(folder)[0] for folder in (live, tmp_path / "run", tmp_path / "one"))  # 16 steps
    assert live["loss"] == pytest.approx(cached["loss"], rel=1e-4)
    assert cached == pytest.approx(one, rel=1e-4)
