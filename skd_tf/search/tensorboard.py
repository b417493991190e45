"""TensorBoard's HParams page of a search: one row per trial with its searched settings and its metrics.

    tensorboard --logdir=WORKDIR/tensorboard

The curves of each execution are in trials/*/seed-*/tensorboard.
"""

import contextlib
import pathlib
import shutil

import tensorflow as tf
from tensorboard.plugins.hparams import api, api_pb2, summary

from skd_tf.search.plan import Plan
from skd_tf.search.results import METRICS
from skd_tf.search.trial_records import TrialRecord


def write_space(folder: pathlib.Path, plan: Plan) -> None:
    """Writes the columns of the page; the objective comes first."""
    shutil.rmtree(folder / "tensorboard" / "space", ignore_errors=True)
    with _writing(folder / "tensorboard" / "space"):
        api.hparams_config(
            hparams=[api.HParam(dimension.name, _domain(dimension)) for dimension in plan.space],
            metrics=[api.Metric(name, display_name=name) for name in dict.fromkeys([plan.goal.name, *METRICS])],
        )


def write_trial(folder: pathlib.Path, record: TrialRecord) -> None:
    """Writes the row of a finished or failed trial: one session per execution. The page averages over them."""
    place = folder / "tensorboard" / f"{record['trial']:04d}"
    shutil.rmtree(place, ignore_errors=True)
    settings = {name: _plain(value) for name, value in record["values"].items()}
    status = api_pb2.STATUS_FAILURE if record["reason"] else api_pb2.STATUS_SUCCESS
    for execution in record["executions"] or [{"seed": "none", "metrics": {}}]:
        with _writing(place / f"seed-{execution['seed']}"):
            api.hparams(settings, trial_id=place.name)
            for name, value in execution["metrics"].items():
                tf.summary.scalar(name, value, step=execution["metrics"]["step"])
            tf.summary.experimental.write_raw_pb(summary.session_end_pb(status).SerializeToString(), step=0)


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
