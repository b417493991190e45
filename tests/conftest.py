"""Two logical CPUs stand in for two accelerators. No test sees a GPU or the network."""

import gc
import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands set it

import filelock
import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it


def pytest_collection_finish():
    """Collects garbage less often: walking TensorFlow's and the tests' own objects takes 7% of the tests' time."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def two_logical_cpus():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(autouse=True)
def few_charts(request, monkeypatch):
    """Charts are a third of a small run's time: tests of reports draw them, and the runs of shared fixtures."""
    if "report" not in request.node.nodeid:
        from skd_tf.runs.report import charts
        from tests.helpers import runs

        monkeypatch.setattr(charts, "chart", runs.blank_chart)


@pytest.fixture(scope="session")
def two_replicas():
    from skd_tf.runtime import replicas

    return replicas.make_strategy(strategy="mirrored")


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """`once(name, make)` -> a folder that `make(folder)` has filled in the first of pytest-xdist's processes to ask."""
    mine = tmp_path_factory.getbasetemp()
    place = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "once"
    place.mkdir(exist_ok=True)

    def folder_of(name, make):
        with filelock.FileLock(place / f"{name}.lock"):
            if not (place / name / "result.json").exists():
                make(place / name)
        return place / name

    return folder_of


@pytest.fixture(scope="session")
def digits_teacher(once):
    """The workdir of a trained teacher of digits."""
    from tests.helpers import runs

    def make(folder):
        assert runs.train(folder, student="cnn_8", epochs=10, batch_size=32)["student"]["accuracy"] > 0.5

    return once("teacher", make)


@pytest.fixture(scope="session")
def digits_run(once, digits_teacher):
    """The workdir of a finished run: a small student distilled on the sphere from `digits_teacher`."""
    from tests.helpers import runs

    settings = {"student": "cnn_4", "epochs": 18, "batch_size": 32, "teacher_checkpoint": str(digits_teacher)}
    return once("run", lambda folder: runs.train(folder, runs.SMALL, **settings))
