"""Small training runs on digits, and what two equal runs have in common."""

import json

import numpy as np

from skd_tf.config import Config
from skd_tf.training import experiment
from skd_tf.training.checkpoints import Checkpoints, _read

# One device: --strategy=auto would make two replicas of the tests' two logical CPUs.
SMALL = {"student": "cnn_2", "epochs": 3, "batch_size": 100, "learning_rate": 0.1, "strategy": "one_device"}
SMALL |= {"loss": "spherical"}  # it has more parts than the default
ALONE = SMALL | {"loss": "cross_entropy", "report": False}


def train(workdir, base=ALONE, **settings):
    """Runs the settings of `base`, changed by `settings`, in this process; returns the result."""
    return experiment.run(Config(**base | settings), workdir)


def as_flags(settings):
    return [f"--{name}={value}" for name, value in settings.items()]


def read_json(path):
    return json.loads(path.read_text())


def student_of(workdir):
    return read_json(workdir / "result.json")["student"]


def numbers(workdir):
    """The lines of metrics.jsonl without what may differ between two runs of the same command."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("seconds", "examples_per_second", "input_wait_share")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def checkpoint_arrays(workdir):
    """{name: array} of the newest checkpoint, without the epoch means."""
    arrays, _ = _read(Checkpoints(workdir / "checkpoints").paths()[-1])
    return {name: array for name, array in arrays.items() if not name.startswith("mean")}


def assert_same_run(workdir, expected):
    """Two finished runs have the same metrics, checkpoint and measurements, to the last bit."""
    assert numbers(workdir) == numbers(expected) and student_of(workdir) == student_of(expected)
    np.testing.assert_equal(checkpoint_arrays(workdir), checkpoint_arrays(expected))


def blank_chart(draw, label, **size):
    """In place of `charts.chart`, where a test does not look at the drawing: charts are a third of a small run's time."""
    return f"<svg aria-label='{label}'></svg>"
