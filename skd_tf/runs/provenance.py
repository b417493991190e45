"""Where a result comes from: package versions, device and source commit."""

import pathlib
import platform
import subprocess

import keras
import numpy as np
import tensorflow as tf

import skd_tf
from skd_tf.runtime import cluster, devices


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that compute."""
    packages = {"skd_tf": skd_tf, "tensorflow": tf, "keras": keras, "numpy": np}
    return {name: package.__version__ for name, package in packages.items()} | {"python": platform.python_version()}


def device(replicas: int = 1) -> str:
    """What computes on each worker, in words, and the number of workers and replicas."""
    gpus = tf.config.list_physical_devices("GPU")
    name = _cpu_name()
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        name = f"{len(gpus)} x {details.get('device_name', 'GPU')}"
    workers = f", workers: {cluster.workers()}" if cluster.workers() > 1 else ""
    return f"{name}{workers}, replicas: {replicas}"


def git_commit() -> str | None:
    """The commit of this source, with "-dirty" if files have changed since; None outside a checkout."""
    file = pathlib.Path(__file__)

    def git(*command):
        command = ("git", "-C", str(file.parent), *command)
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # an installed package may lie inside another project's checkout
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    count = devices.cpu_count()
    return f"{count} {'core' if count == 1 else 'cores'} of {names[0]}" if names else platform.processor() or "CPU"
