"""What a run writes down: one JSON line and TensorBoard scalars an epoch, its settings as HParams, and where it ran."""

import dataclasses
import json
import os
import pathlib
import platform
import subprocess

import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from skd_tf import cluster
from skd_tf.knobs import rules_of
from skd_tf.workdir import write_text

_HPARAMS_METRICS = ("val_accuracy", "val_nll", "val_ece", "accuracy", "loss")


class Records:
    """metrics.jsonl and tensorboard/ of a workdir; lines of epochs that a resumed run repeats are dropped first.

    Args:
      workdir: the run's folder.
      epochs_done: epochs that are not run again.
      config: the run's `Config`, whose settings that could change a number are TensorBoard's HParams.
    """

    def __init__(self, workdir, *, epochs_done, config):
        self._file = workdir / "metrics.jsonl"
        kept = [line for line in self._lines() if json.loads(line)["epoch"] < epochs_done]
        write_text(self._file, "".join(line + "\n" for line in kept))
        self._writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))
        fields = {field.name for field in dataclasses.fields(config) if rules_of(field).affects_result}
        settings = {name: value for name, value in config.to_json().items() if name in fields}
        with self._writer.as_default(step=0):
            hparams.hparams({name: "none" if value is None else value for name, value in settings.items()})
            hparams.hparams_config(
                hparams=[hparams.HParam(name) for name in settings],
                metrics=[hparams.Metric(name, display_name=name) for name in _HPARAMS_METRICS],
            )

    def add(self, record):
        """Appends one epoch; `record` has "epoch" and "step"."""
        with open(self._file, "a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that follows: its epochs are not run again
        with self._writer.as_default(step=record["step"]):
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                    tf.summary.scalar(name, value)
        self._writer.flush()

    def rows(self):
        return [json.loads(line) for line in self._lines()]

    def _lines(self):
        """Whole lines; a last line that a crash cut short is not one."""
        if not self._file.is_file():
            return []
        return [line for line in self._file.read_text().split("\n")[:-1] if line]


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
    return f"{len(names)} cores of {names[0]}" if names else platform.processor() or "CPU"
