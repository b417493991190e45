"""Where a result comes from: package versions, device and source commit."""

import pathlib
import platform
import subprocess

import tensorflow as tf

from skd_tf.runtime import cluster, devices


def versions():
    import keras
    import numpy

    from skd_tf import __version__

    return {
        "skd_tf": __version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


def device(replicas=1):
    """The machine in words: what computes on each worker, and how many replicas."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        name = f"{len(gpus)} x {name}"
    else:
        name = _cpu_name()
    workers = f", workers: {cluster.workers()}" if cluster.workers() > 1 else ""
    return f"{name}{workers}, replicas: {replicas}"


def git_commit():
    """Commit of the source this ran from, "-dirty" with changes on top; None outside a checkout."""
    folder = pathlib.Path(__file__).parent
    try:
        ask = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    count = devices.cpu_count()
    return f"{count} {'core' if count == 1 else 'cores'} of {names[0]}" if names else platform.processor() or "CPU"
