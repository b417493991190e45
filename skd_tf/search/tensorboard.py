"""TensorBoard's view of a search: each trial once, under its settings, with its curves and as a row of HParams.

tensorboard --logdir=WORKDIR/tensorboard
"""

import contextlib
import json
import pathlib
import re
import shutil

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api, api_pb2, summary

from skd_tf.runs import run_files
from skd_tf.search.plan import Plan
from skd_tf.search.results import METRICS, short
from skd_tf.search.trial_records import TrialRecord

_NAME_LENGTH = 150  # a folder's name has at most 255 bytes


def write_space(folder: pathlib.Path, plan: Plan) -> None:
    """Writes the columns of the page; the objective comes first."""
    shutil.rmtree(folder / "tensorboard" / "space", ignore_errors=True)
    with _writing(folder / "tensorboard" / "space"):
        api.hparams_config(
            hparams=[api.HParam(dimension.name, _domain(dimension)) for dimension in plan.space],
            metrics=[api.Metric(name, display_name=name) for name in dict.fromkeys([plan.goal.name, *METRICS])],
        )


def write_trial(folder: pathlib.Path, record: TrialRecord, trial_folder: pathlib.Path) -> None:
    """Writes a finished or failed trial: the curves of its executions, and their sessions, over which HParams averages.

    The curves that the executions wrote while they trained are removed: TensorBoard would show them twice.
    """
    for place in (folder / "tensorboard").glob(f"{record['trial']:04d}*"):
        shutil.rmtree(place)
    place = folder / "tensorboard" / run_name(record)
    settings = {name: _plain(value) for name, value in record["values"].items()}
    status = api_pb2.STATUS_FAILURE if record["reason"] else api_pb2.STATUS_SUCCESS
    executions = record["executions"] or [{"seed": "none"}]
    for execution in executions:
        seed = f"seed-{execution['seed']}"
        with _writing(place / seed if len(executions) > 1 else place):
            api.hparams(settings, trial_id=place.name)
            for epoch in _epochs(trial_folder / seed / run_files.METRICS):
                for name, value in epoch.items():
                    if isinstance(value, (int, float)) and name not in ("epoch", "step"):
                        tf.summary.scalar(name, np.float32(value), step=np.int64(epoch["step"]))
            tf.summary.experimental.write_raw_pb(summary.session_end_pb(status).SerializeToString(), step=0)
        shutil.rmtree(trial_folder / seed / run_files.TENSORBOARD, ignore_errors=True)


def run_name(record: TrialRecord) -> str:
    """The name of a trial in TensorBoard, a folder: its number and its settings."""
    settings = ", ".join(f"{name}={short(value)}" for name, value in record["values"].items())
    return re.sub(r"[^\w.,=+ -]", "_", f"{record['trial']:04d} {settings}")[:_NAME_LENGTH]


def _epochs(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@contextlib.contextmanager
def _writing(folder):
    """Writes to a TensorBoard folder and closes its file, because a search writes many."""
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        yield
    writer.close()


def _domain(dimension):
    if dimension.values:
        values = [_plain(value) for value in dimension.values]
        one_kind = len({type(value) for value in values}) == 1
        return api.Discrete(values if one_kind else [str(value) for value in values])
    return (api.IntInterval if dimension.kind == "int" else api.RealInterval)(*dimension.ends)


def _plain(value):
    return "none" if value is None else value
