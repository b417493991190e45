"""metrics.jsonl and TensorBoard: one record per epoch, which survives interruptions and damage."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from skd_tf.config import Config
from skd_tf.config.fields import rules_of
from skd_tf.errors import EnvironmentFailure, message
from skd_tf.runs import run_files
from skd_tf.runtime import atomic_files
from skd_tf.runtime.console import warn
from skd_tf.runtime.files import write_text

_HPARAMS_METRICS = ("val_accuracy", "val_nll", "val_ece", "accuracy", "loss")
# Subfolders of the same tags, as Keras' own callback writes them: TensorBoard then draws both curves in one chart.
_TRAINING, _VALIDATION = "train", "validation"


class MetricsLog:
    """metrics.jsonl and the TensorBoard scalars of a run, one record per epoch; its settings as TensorBoard's HParams.

    Args:
      workdir: the run's folder.
      known: `state()` at the checkpoint from which the run resumes, None for a new run. The file is cut to the lines of
        that state. If it lost or changed any of them, a copy in checkpoints/ replaces them, with a warning.
      config: the run's `Config`. The settings that could change a number become HParams.

    Raises:
      EnvironmentFailure: the copy does not have these lines either.
    """

    def __init__(self, workdir: pathlib.Path, *, known: Mapping[str, Any] | None, config: Config) -> None:
        self._file = workdir / run_files.METRICS
        self._copy = workdir / run_files.CHECKPOINTS / run_files.METRICS
        kept = self._kept(known) if known else b""
        if not known and self._file.is_file() and self._file.stat().st_size:
            warn(f"{self._copy.parent} holds no readable checkpoint, so training starts again at step 0.")
        self._digest, self._bytes = hashlib.sha256(kept), len(kept)
        self._copy.parent.mkdir(exist_ok=True)
        for file in (self._file, self._copy):
            write_text(file, kept.decode())
        folder = workdir / run_files.TENSORBOARD
        self._writers = {name: tf.summary.create_file_writer(str(folder / name)) for name in (_TRAINING, _VALIDATION)}
        fields = {field.name for field in dataclasses.fields(config) if rules_of(field).affects_result}
        settings = {name: value for name, value in config.to_json().items() if name in fields}
        with tf.summary.create_file_writer(str(folder)).as_default(step=0):
            hparams.hparams({name: "none" if value is None else value for name, value in settings.items()})
            hparams.hparams_config(
                hparams=[hparams.HParam(name) for name in settings],
                metrics=[
                    hparams.Metric(_place(name)[1], group=_place(name)[0], display_name=name)
                    for name in _HPARAMS_METRICS
                ],
            )

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends the record of one epoch, which has at least "epoch" and "step"."""
        line = json.dumps(record) + "\n"
        for path in (self._file, self._copy):
            with atomic_files.naming(path), open(path, "a") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())  # before the checkpoint that follows: a resumed run does not repeat its epochs
        self._digest.update(line.encode())
        self._bytes += len(line)
        # NumPy numbers: TensorFlow caches every Python number that it converts to a tensor, 0.7 kB each, forever.
        for name, value in record.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                part, tag = _place(name)
                with self._writers[part].as_default(step=np.int64(record["step"])):
                    tf.summary.scalar(tag, np.float32(value))
        for writer in self._writers.values():
            writer.flush()

    def state(self) -> dict[str, Any]:
        """Identifies the lines so far: their number of bytes and their SHA-256."""
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def rows(self) -> list[dict[str, Any]]:
        """The records of all epochs so far."""
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    def _kept(self, known):
        """The lines of the state `known`, from the file or from its copy."""
        for file in (self._file, self._copy):
            content = file.read_bytes()[: known["bytes"]] if file.is_file() else b""
            if hashlib.sha256(content).hexdigest() == known["sha256"]:
                if file == self._copy:
                    warn(f"{self._file} has lost lines or was changed. The lines so far are restored from {file}.")
                return content
        text = message(
            "The records of the epochs done are lost",
            expected="the lines that the checkpoint knows",
            received=f"others in {self._file} and in {self._copy}",
            remedy="Restore one of the two files, or choose another --workdir",
        )
        raise EnvironmentFailure(text)


def _place(name):
    """(subfolder, tag) of a value in TensorBoard."""
    validation = name.startswith("val_")
    return (_VALIDATION if validation else _TRAINING), name.removeprefix("val_")
