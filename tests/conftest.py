"""Two logical CPUs stand in for two accelerators; no test sees a GPU or the network."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the commands set it

import pytest


@pytest.fixture(scope="session", autouse=True)
def two_logical_cpus():
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def two_replicas():
    from skd_tf import replicas
    from skd_tf.config import Config

    return replicas.make_strategy(Config(strategy="mirrored"))
