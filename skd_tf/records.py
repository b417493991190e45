"""What a run writes down: one JSON line and TensorBoard scalars an epoch, its settings as HParams, and where it ran."""

import dataclasses
import json
import os
import pathlib
import platform
import subprocess

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from skd_tf import cluster
from skd_tf.knobs import rules_of
from skd_tf.progress import warn
from skd_tf.workdir import write_text

_HPARAMS_METRICS = ("val_accuracy", "val_nll", "val_ece", "accuracy", "loss")


class Records:
    """metrics.jsonl and tensorboard/ of a workdir.

    Args:
      workdir: the run's folder.
      rows: records of the epochs that are not run again, from the checkpoint. The file is made to hold these alone, and
        where it lacked one or held another, a warning says so.
      config: the run's `Config`, whose settings that could change a number are TensorBoard's HParams.
    """

    def __init__(self, workdir, *, rows, config):
        self._file, self._rows = workdir / "metrics.jsonl", list(rows)
        text = "".join(_line(row) for row in rows)
        if rows and not (self._file.is_file() and self._file.read_bytes().startswith(text.encode())):
            warn(f"{self._file} lacked epochs or was changed: the {len(rows)} done are written as the checkpoint has them.")
        write_text(self._file, text)
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
        self._rows.append(record)
        try:
            with open(self._file, "a") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = str(self._file)  # a full disk names none
            raise
        # numpy's numbers: of Python's, TensorFlow keeps every one it has turned into a tensor, 0.7 kB each, for ever.
        with self._writer.as_default(step=np.int64(record["step"])):
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                    tf.summary.scalar(name, np.float32(value))
        self._writer.flush()

    def rows(self):
        """All records so far."""
        return [*self._rows]


def _line(record):
    return json.dumps(record) + "\n"


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
