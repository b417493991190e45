"""Several processes train as one: real workers on 127.0.0.1, on free ports, under a hard time limit."""

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

from skd_tf.config import Config
from skd_tf.errors import InputError
from skd_tf.runtime import cluster, devices, replicas
from skd_tf.training import dry_run
from tests.helpers.cluster_worker import CASES
from tests.helpers.nets import batches, distance, make_distiller, run, weights_of
from tests.training.test_experiment import checkpoint_arrays, numbers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "launch_local_cluster.py"
_specification = importlib.util.spec_from_file_location("launch_local_cluster", TOOL)
launcher = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(launcher)


class Workers:
    """Processes of one command; `lines` is what they have printed so far, `codes` their exit codes after `wait`."""

    def __init__(self, *command, count=2, limit_seconds):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.lines, self._seen = [], threading.Condition()
        self.processes = launcher.start([sys.executable, *command], launcher.free_addresses(count), environment)
        self._limit = threading.Timer(limit_seconds, self.kill)
        self._limit.start()
        self._waiting = threading.Thread(target=launcher.wait, args=(self.processes, self._add), daemon=True)
        self._waiting.start()

    def _add(self, line):
        with self._seen:
            self.lines.append(line)
            self._seen.notify_all()

    def wait_for(self, *texts):
        """Waits until one line with all these texts is printed."""
        with self._seen:
            assert self._seen.wait_for(lambda: any(all(t in line for t in texts) for line in self.lines), 120), (
                self.lines
            )

    def kill(self, *indices):
        for index in indices or range(len(self.processes)):
            self.processes[index].send_signal(signal.SIGKILL)

    def wait(self):
        self._waiting.join()
        self._limit.cancel()
        return [process.returncode for process in self.processes]


ADDRESSES = ["10.0.0.1:2222", "10.0.0.2:2222"]


def tf_config(cluster, kind="worker", index=0):
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_a_place_in_the_cluster():
    two = tf_config({"worker": ADDRESSES}, index=1)
    assert cluster.member("auto", two) == cluster.member("multi_worker", two)
    assert (cluster.member("auto", two).workers, cluster.member("auto", two).index) == (2, 1)
    with_chief = {"chief": ADDRESSES[:1], "worker": ADDRESSES[1:]}
    assert [cluster.member("auto", tf_config(with_chief, kind)).index for kind in ("chief", "worker")] == [0, 1]
    one = tf_config({"worker": ADDRESSES[:1]})
    assert cluster.member("auto", one) is None and cluster.member("multi_worker", one).workers == 1
    nobody = {"TF_CONFIG": "{}"}
    for strategy, environment in (
        ("auto", {}),
        ("auto", nobody),
        ("mirrored", two),
        ("one_device", {"TF_CONFIG": "?"}),
    ):
        assert cluster.member(strategy, environment) is None


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({}, "TF_CONFIG is missing"),
        ({"TF_CONFIG": "worker"}, "malformed: Expecting value"),
        ({"TF_CONFIG": "[1]"}, "malformed"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "it lacks 'task'"),
        (tf_config({"ps": ["a:1"], "worker": ["b:1"]}), "jobs other than chief and worker: ps"),
        (tf_config({"worker": ["a"]}), "a is not host:port"),
        (tf_config({"worker": "a:1"}), "not host:port"),
        (tf_config({"worker": ["a:1", "a:1"]}), "same address"),
        (tf_config({"worker": ["a:1"]}, index=1), "no worker 1"),
        (tf_config({"chief": ["a:1", "b:1"], "worker": ["c:1"]}), "2 chiefs"),
    ],
)
def test_a_bad_tf_config_is_one_line(environment, problem):
    with pytest.raises(InputError, match=problem) as caught:
        cluster.member("multi_worker", environment)
    assert "Expected" in str(caught.value) and "Received" in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_cluster_cannot_do_is_told_up_front(monkeypatch):
    environment = tf_config({"worker": ADDRESSES})
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
    program = "import os, sys, time; index = os.environ['TF_CONFIG'][-3]; print('hello', flush=True); {}"
    lines, addresses = [], launcher.free_addresses(3)
    assert len({*addresses}) == 3
    fails = [sys.executable, "-c", program.format("sys.exit(7) if index == '1' else time.sleep(0.5) or sys.exit(1)")]
    assert launcher.wait(launcher.start(fails, addresses), lines.append) == 7
    assert sorted(lines) == ["[0] hello", "[1] hello", "[2] hello"]
    assert launcher.wait(launcher.start([sys.executable, "-c", ""], addresses), lines.append) == 0


@pytest.mark.slow
def test_the_launcher_passes_ctrl_c_on():
    program = "import time; print('ready', flush=True); time.sleep(60)"
    command = f"import sys, launch_local_cluster as l; c = [sys.executable, '-c', {program!r}]; "
    command += "sys.exit(l.wait(l.start(c, l.free_addresses(2)), lambda line: print(line, flush=True)))"
    tool = subprocess.Popen(
        [sys.executable, "-c", command], cwd=TOOL.parent, text=True, stdout=subprocess.PIPE, start_new_session=True
    )
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
        ours[name] = make_distiller(strategy, dtype="float64", **settings | {"synchronize": False})
        ours[name, "means"] = run(ours[name], data, steps_per_call=5)
    assert workers.wait() == [0, 0], workers.lines
    facts = [json.loads((tmp_path / f"facts-{index}.json").read_text()) for index in (0, 1)]
    for name in CASES:
        theirs = [np.load(tmp_path / f"{name}-{index}.npy") for index in (0, 1)]
        assert np.array_equal(*theirs)
        assert distance(weights_of(ours[name].student), theirs[0]) < 1e-12
        assert facts[0][name] == facts[1][name] == pytest.approx(ours[name, "means"], rel=1e-11)
        logits = ours[name].student(data[0][0]).numpy()
        np.testing.assert_allclose(np.load(tmp_path / f"{name}-logits.npy"), logits, rtol=1e-4, atol=1e-6)
    for index, fact in enumerate(facts):
        assert fact["replicas"] == 2 and fact["chief"] == (index == 0) and fact["long"]
        assert fact["within"] == 10 and fact["problem"] == "Worker 0 says no."
        assert fact["written"] == (0 if index == 0 else None) and fact["largest"] == 1


def train_flags(workdir, *flags):
    shared = ("--student=cnn_2", "--batch_size=50", "--learning_rate=0.1")
    return ("-m", "skd_tf.train", *shared, f"--workdir={workdir}", *flags)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run of two workers that trains its teacher first and the student alone too; its flags and folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "teacher.flags").write_text("--student=cnn_8\n--epochs=12\n--batch_size=50\n--learning_rate=0.1\n")
    flags = (f"--teacher_flagfile={folder / 'teacher.flags'}", "--student_alone=train", "--epochs=20", "--clip_norm=5")
    workers = Workers(*train_flags(folder / "run", *flags), limit_seconds=300)
    assert workers.wait() == [0, 0], workers.lines
    return flags, folder / "run", workers.lines


@pytest.mark.slow
def test_the_whole_job_equals_that_of_two_replicas(uninterrupted, tmp_path):
    flags, folder, lines = uninterrupted
    assert all(line.startswith("[0] ") for line in lines)  # the chief alone prints
    alone = Workers(
        *train_flags(tmp_path, *flags, "--strategy=mirrored", "--virtual_devices=2"), count=1, limit_seconds=300
    )
    assert alone.wait() == [0], alone.lines
    results = [json.loads((path / "result.json").read_text()) for path in (folder, tmp_path)]
    assert results[0].keys() == results[1].keys() and results[0]["student"].keys() == results[1]["student"].keys()
    for name in ("teacher", "student_alone"):  # 16 steps; after some hundred, rounding has grown to anything
        first = [numbers(path / name)[0] for path in (folder, tmp_path)]
        assert first[0] == pytest.approx(first[1], rel=1e-4)
    assert "workers: 2" in results[0]["device"] and "replicas: 2" in results[0]["device"]
    assert keras.models.load_model(folder / "student.keras").predict(np.zeros([1, 8, 8, 1]), verbose=0).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_others_and_the_same_command_resumes(uninterrupted, tmp_path, victim):
    flags, folder, _ = uninterrupted
    # Workers' clocks differ: an interval that is over on one and not on the other must not matter.
    command = train_flags(tmp_path, *flags, "--checkpoint_every=0.2 seconds")
    workers = Workers(*command, limit_seconds=300)
    workers.wait_for("epoch  6/20", "agreement")  # the student itself trains
    workers.kill(victim)
    codes = workers.wait()  # the launcher ends a worker that does not notice only after ten seconds
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
    (problem,) = [line for line in workers.lines if "error" in line]
    assert problem.startswith(f"[{1 - victim}] error: Another worker has stopped")
    assert (tmp_path / "teacher" / "result.json").is_file() and not (tmp_path / "result.json").exists()
    again = Workers(*command, limit_seconds=300)
    assert again.wait() == [0, 0], again.lines
    assert any("Resuming at step" in line for line in again.lines)
    assert numbers(tmp_path) == numbers(folder)
    ours, theirs = checkpoint_arrays(tmp_path), checkpoint_arrays(folder)
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_two_workers_share_one_teacher_cache(uninterrupted, tmp_path):
    """Each computes a part of it, once; from it two workers train as two replicas do, and as they would live."""
    flags, live, _ = uninterrupted
    cached = f"--teacher_cache_dir={tmp_path / 'cache'}", "--teacher_cache_dtype=float32", "--student_alone=none"
    flags = [flag for flag in flags if not flag.startswith("--teacher_flagfile")]
    teacher = f"--teacher_checkpoint={live / 'teacher'}"
    workers = Workers(*train_flags(tmp_path / "run", *flags, *cached, teacher), limit_seconds=300)
    assert workers.wait() == [0, 0], workers.lines
    assert any("20 to compute" in line for line in workers.lines)
    assert any("teacher pass: 10 epochs" in line for line in workers.lines)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.logits")}
    again = train_flags(tmp_path / "one", *flags, *cached, teacher, "--strategy=mirrored", "--virtual_devices=2")
    alone = Workers(*again, count=1, limit_seconds=300)
    assert alone.wait() == [0] and any("0 to compute" in line for line in alone.lines), alone.lines
    assert {path: path.stat().st_mtime_ns for path in files} == files
    first = [numbers(folder)[0] for folder in (live, tmp_path / "run", tmp_path / "one")]  # 16 steps
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=1e-4)
    assert first[1] == pytest.approx(first[2], rel=1e-4)
