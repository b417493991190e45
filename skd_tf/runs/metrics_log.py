"""What a run writes down: one JSON line and TensorBoard scalars an epoch, its settings as HParams, and where it ran."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from skd_tf.config.fields import rules_of
from skd_tf.errors import EnvironmentFailure
from skd_tf.runtime.console import warn
from skd_tf.runtime.files import write_text

_HPARAMS_METRICS = ("val_accuracy", "val_nll", "val_ece", "accuracy", "loss")


class MetricsLog:
    """metrics.jsonl and tensorboard/ of a workdir.

    Args:
      workdir: the run's folder.
      known: `state()` at the checkpoint that the run goes on from, None for a new one. The file is made to hold the lines
        of then: later ones are dropped; where it has lost or changed any, a copy beside the checkpoints has them still,
        and a warning says so.
      config: the run's `Config`, whose settings that could change a number are TensorBoard's HParams.

    Raises:
      OfTheMachine: the copy has not the lines either.
    """

    def __init__(self, workdir, *, known, config):
        self._file, self._copy = workdir / "metrics.jsonl", workdir / "checkpoints" / "metrics.jsonl"
        kept = self._kept(known) if known else b""
        self._digest, self._bytes = hashlib.sha256(kept), len(kept)
        self._copy.parent.mkdir(exist_ok=True)
        for file in (self._file, self._copy):
            write_text(file, kept.decode())
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
        line = json.dumps(record) + "\n"
        for path in (self._file, self._copy):
            try:
                with open(path, "a") as file:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())  # before the checkpoint that follows: its epochs are not run again
            except OSError as error:
                error.filename = str(path)  # a full disk names none
                raise
        self._digest.update(line.encode())
        self._bytes += len(line)
        # numpy's numbers: of Python's, TensorFlow keeps every one it has turned into a tensor, 0.7 kB each, for ever.
        with self._writer.as_default(step=np.int64(record["step"])):
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                    tf.summary.scalar(name, np.float32(value))
        self._writer.flush()

    def state(self):
        """What tells the lines so far from any others: their bytes, and the SHA-256 of these."""
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def rows(self):
        """All records so far."""
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    def _kept(self, known):
        for file in (self._file, self._copy):
            content = file.read_bytes()[: known["bytes"]] if file.is_file() else b""
            if hashlib.sha256(content).hexdigest() == known["sha256"]:
                if file == self._copy:
                    warn(
                        f"{self._file} has lost lines or was changed: the epochs done are written again from {self._copy}."
                    )
                return content
        raise EnvironmentFailure(
            f"The records of the epochs done are lost. Expected the lines that the checkpoint knows. Received others in "
            f"{self._file} and in {self._copy}. Put one back, or choose another --workdir."
        )
