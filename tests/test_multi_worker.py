"""Several processes train as one: real workers on 127.0.0.1, on free ports, under a hard time limit."""

import importlib.util
import json
import os
import pathlib
import signal
import sys
import threading

import keras
import numpy as np
import pytest
from nets import batches, distance, make_distiller, run, weights_of
from test_experiment import checkpoint_arrays, numbers

from skd_tf import cluster, devices, dry_run
from skd_tf.config import Config
from skd_tf.errors import InputError

TESTS = pathlib.Path(__file__).resolve().parent
TOOL = TESTS.parent / "tools" / "launch_local_cluster.py"
_specification = importlib.util.spec_from_file_location("launch_local_cluster", TOOL)
launcher = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(launcher)


class Workers:
    """Processes of one command; `lines` is what they have printed so far, `codes` their exit codes after `wait`."""

    def __init__(self, *command, count=2, limit_seconds):
        environment = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        os.environ.update(environment)
        self.lines, self._seen = [], threading.Condition()
        self.processes = launcher.start([sys.executable, *command], launcher.free_addresses(count))
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
            assert self._seen.wait_for(lambda: any(all(t in line for t in texts) for line in self.lines), 120), self.lines

    def kill(self, *indices):
        for index in indices or range(len(self.processes)):
            self.processes[index].send_signal(signal.SIGKILL)

    def wait(self):
        self._waiting.join()
        self._limit.cancel()
        return [process.returncode for process in self.processes]


def test_two_workers_equal_two_replicas(tmp_path, two_replicas):
    """Summing two numbers in another order changes nothing: what is left is rounding inside differently threaded kernels,
    which 20 steps amplify as in test_replicas."""
    workers = Workers(str(TESTS / "cluster_worker.py"), str(tmp_path), limit_seconds=100)
    mirrored = {}
    for dtype in ("float32", "float64"):
        mirrored[dtype] = make_distiller(two_replicas, dtype=dtype)
        mirrored[dtype, "means"] = run(mirrored[dtype], batches(20, size=16, dtype=dtype), steps_per_call=5)
    assert workers.wait() == [0, 0], workers.lines
    facts = [json.loads((tmp_path / f"facts-{index}.json").read_text()) for index in (0, 1)]
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-12)):
        ours = weights_of(mirrored[dtype].student)
        theirs = [np.load(tmp_path / f"{dtype}-{index}.npy") for index in (0, 1)]
        assert np.array_equal(*theirs)
        assert distance(ours, theirs[0]) < tolerance
        assert facts[0][dtype] == facts[1][dtype] == pytest.approx(mirrored[dtype, "means"], rel=10 * tolerance)
        logits = mirrored[dtype].student(batches(1, size=16, dtype=dtype)[0][0]).numpy()
        np.testing.assert_allclose(np.load(tmp_path / f"{dtype}-logits.npy"), logits, rtol=1e-3, atol=1e-5)
    for index, fact in enumerate(facts):
        assert fact["replicas"] == 2 and fact["chief"] == (index == 0) and fact["long"]
        assert fact["within"] == 10 and fact["problem"] == "Worker 0 says no."
        assert fact["written"] == (0 if index == 0 else None)


def train_flags(workdir, *flags):
    return ("-m", "skd_tf.train", "--student=cnn_2", "--batch_size=50", "--learning_rate=0.1", f"--workdir={workdir}", *flags)


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
