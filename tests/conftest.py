"""Two logical CPUs stand in for two accelerators; no test sees a GPU or the network."""

import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands set it

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it


@pytest.fixture(scope="session", autouse=True)
def two_logical_cpus():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def two_replicas():
    from skd_tf.runtime import replicas

    return replicas.make_strategy(strategy="mirrored")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The folder of a finished run on digits: a small student distilled on the sphere, its teacher beside it."""
    from skd_tf.config import Config
    from skd_tf.training import experiment

    folder = tmp_path_factory.mktemp("digits_run")
    shared = {"batch_size": 32, "learning_rate": 0.1, "strategy": "one_device", "report": False}
    experiment.run(Config(student="cnn_8", loss="cross_entropy", epochs=10, **shared), folder / "teacher")
    settings = shared | {"teacher_checkpoint": str(folder / "teacher"), "report": True}
    experiment.run(Config(student="cnn_4", epochs=25, **settings), folder / "run")
    return folder / "run"
