"""One trial: its executions, each a student trained in a folder of its own, and what it may fail from."""

import contextlib
import json
import math
import os
import shutil
import statistics
import time

import tensorflow as tf

from skd_tf.config import app
from skd_tf.errors import DivergedError, EnvironmentFailure, InputError, input_error
from skd_tf.runs import data_identity
from skd_tf.runs.workdir import Workdir, locked
from skd_tf.runtime.console import say
from skd_tf.runtime.files import LockedError, file_lock
from skd_tf.search import tensorboard
from skd_tf.search.distiller_pool import ASSIGNED, DistillerPool
from skd_tf.search.trial_records import FAILED, FINISHED, RUNNING, is_disk_full
from skd_tf.training import experiment, train_student


class TrialRunner:
    """Runs the trials of a search, from their records and into them.

    Data is read, and the teacher opened, when the first trial begins.

    Args:
      records: `Records`.
      data_dir: TFDS data directory.
      setup: a `training.SharedResources` without a test split, where there is one already.
    """

    def __init__(self, records, data_dir=None, setup=None):
        self._records, self._plan = records, records.plan
        self._data_dir, self._setup = data_dir, setup
        self._distillers, self._cached_epochs = DistillerPool(), 0

    def run(self, number):
        """Runs or resumes a trial; returns its record, finished or failed.

        Raises:
          InputError: what is no fault of the trial's settings: it then stays to be run again by the same command.
        """
        if self._records.read(number) is None:
            raise input_error(
                f"Trial {number} has no record",
                expected="a workdir that chief and workers share",
                received=f"{self._records.trial_folder(number)}",
                remedy="Choose a shared --workdir",
            )
        with _by_one_worker(self._records.trial_folder(number)):
            record = self._records.read(number)
            return self._run(number, record) if record["status"] == RUNNING else record

    def _run(self, number, record):
        setup = self._open()
        seeds = range(self._plan.config.seed, self._plan.config.seed + self._plan.executions_per_trial)
        try:
            for seed in [record["values"].get("seed", seed) for seed in seeds][len(record["executions"]) :]:
                execution = self._execute(number, record["values"], seed, setup)
                record["executions"].append(execution)
                self._records.write(record)
        except (InputError, tf.errors.ResourceExhaustedError) as error:
            if isinstance(error, EnvironmentFailure) or is_disk_full(error) or isinstance(error.__cause__, OSError):
                raise
            if isinstance(error, tf.errors.ResourceExhaustedError) and self._is_known_to_fit(record["values"]):
                raise _no_memory("a student no larger than the other trials'", error) from error
            record |= {"status": FAILED, "reason": _reason(error, self._records.trial_folder(number))}
        else:
            values = [execution["metrics"][self._plan.goal.name] for execution in record["executions"]]
            record |= {
                "status": FINISHED,
                "objective": statistics.fmean(values),
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "validation_examples": len(setup.dataset.validation),
            }
        tensorboard.write_trial(self._records.folder, record)
        self._records.write(record)
        self.remove_weights(number)
        return record

    def remove_weights(self, number):
        """A recorded trial needs none."""
        for name in ("checkpoints", "post_mortem"):
            for folder in self._records.trial_folder(number).glob(f"seed-*/{name}"):
                shutil.rmtree(folder)

    def _is_known_to_fit(self, values):
        """Whether what is searched is not to blame where memory runs out.

        It is not where one of the same graph has been trained, on batches as large, or where all trials have one graph.
        """
        return set(values) <= set(ASSIGNED) or any(
            record["executions"]
            and _graph_of(record["values"]) == _graph_of(values)
            and record["values"].get("batch_size", 0) >= values.get("batch_size", 0)
            for record in self._records.all()
        )

    def _execute(self, number, values, seed, setup):
        """Trains one student; returns {"seed", "seconds", "metrics" of the last epoch}."""
        start = time.monotonic()
        config = self._plan.config_of(values | {"seed": seed}).replace(keep_checkpoints=1)
        folder = Workdir(self._records.trial_folder(number) / f"seed-{seed}", config)
        if config.needs_teacher:
            self._fill_cache(setup.teacher, config.teacher_cache_epochs or config.epochs)
        else:
            setup = train_student.SharedResources(setup.dataset, setup.strategy, None)
        train_student.train_student(config, setup, folder, self._distillers, keep_best=False)
        metrics = _last_row(folder / "metrics.jsonl")
        self._require_number(metrics)
        return {"seed": seed, "seconds": time.monotonic() - start, "metrics": metrics}

    def _fill_cache(self, teacher, epochs):
        """Computes the logits that are missing, in one process of all."""
        if epochs > self._cached_epochs:
            with _alone(self._records.folder):
                try:
                    teacher.epoch_files(epochs)
                except tf.errors.ResourceExhaustedError as error:
                    raise _no_memory("the teacher pass", error) from error
            self._cached_epochs = epochs

    def _require_number(self, metrics):
        name = self._plan.goal.name
        if name not in metrics:
            raise input_error(
                f"This loss logs no {name}",
                expected=f"one of {', '.join(metrics)}",
                received=f"--objective={name}",
                remedy="Choose another",
            )
        if not math.isfinite(metrics[name]):
            raise DivergedError(
                f"The objective is no number. Expected a finite one. Received {name}={metrics[name]}. "
                "Lower --learning_rate."
            )

    def _open(self):
        """Data and teacher, opened once; several workers open them one after the other, so that one trains the teacher."""
        if self._setup is None:
            self._records.require_same()
            shared = self._plan.shared
            with _alone(self._records.folder):
                self._setup = experiment.prepare(shared, self._records.folder, self._data_dir, test=False)
            teacher, dataset = self._setup.teacher, self._setup.dataset
            if dataset.validation is None:
                raise input_error(
                    "A search needs validation images",
                    expected="a --validation_fraction that holds out at least one",
                    received=f"--validation_fraction={shared.validation_fraction} of {len(dataset.train)} images",
                    remedy="Raise it",
                )
            self._records.remember(teacher and teacher.fingerprint, data_identity.data_facts(dataset))
            say()
        return self._setup


def _alone(folder):
    """Lets one process of a shared folder at a time do what the others will then find done.

    Without locks, logits may be computed more than once, which only costs time; two processes that train one teacher
    disturb each other.
    """
    remedy = "start further workers once the first trains students."
    return file_lock(folder / "teacher.lock", wait=True, without_locks=remedy)


@contextlib.contextmanager
def _by_one_worker(folder):
    """Keeps a trial's folder to this worker: keras-tuner gives a trial twice, to two workers with one id or by a chief that
    was started again. A search by itself has its workdir locked."""
    worker = os.environ.get("KERASTUNER_TUNER_ID")
    with contextlib.ExitStack() as held:
        try:
            if worker:
                held.enter_context(locked(folder))
        except InputError as error:
            if not isinstance(error.__cause__, LockedError):
                raise
            raise input_error(
                "Another process trains this trial",
                expected="each worker under an id of its own",
                received=f"KERASTUNER_TUNER_ID={worker}, and {(folder / '.lock').read_text()} at work in {folder}",
                remedy="Choose another id, or wait for the end of that process",
            ) from error
        yield


def _graph_of(values):
    """The values that the traced step depends on, and with it the memory that it takes, but for the size of a batch."""
    return {name: value for name, value in values.items() if name not in (*ASSIGNED, "batch_size")}


def _no_memory(what, error):
    return EnvironmentFailure(
        f"Memory has run out. Expected enough for {what}. Received: {app.reason(error.message)[:200]}. End what else uses "
        "the device."
    )


def _reason(error, folder):
    """What a failure says, on one line, but for sentences on files in the trial's folder, which do not stay."""
    sentences = " ".join(app.reason(str(error)).split()).split(". ")
    return ". ".join(sentence for sentence in sentences if str(folder) not in sentence)[:500]


def _last_row(file):
    return json.loads(file.read_text().splitlines()[-1])
