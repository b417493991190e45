"""Runs one trial: trains a student per execution, each in its own folder, and records the result or the failure."""

import contextlib
import dataclasses
import gc
import json
import math
import os
import shutil
import statistics

import tensorflow as tf

from skd_tf import data
from skd_tf.config.groups import SAME_GRAPH
from skd_tf.data.settings import DataSettings
from skd_tf.errors import DivergedError, EnvironmentFailure, InputError, flag_error, input_error, message, reason
from skd_tf.runs import data_identity, lineage, run_files
from skd_tf.runs.workdir import Workdir, locked
from skd_tf.runtime.console import say
from skd_tf.runtime.files import LockedError, file_lock
from skd_tf.search import tensorboard
from skd_tf.search.trial_records import FAILED, FINISHED, RUNNING, TrialRecord, TrialRecords, is_disk_full
from skd_tf.training import experiment, train_student
from skd_tf.training.resources import SharedResources


class TrialRunner:
    """Runs the trials of a search. It reads their settings from the records, and writes the results there.

    The first trial loads the data and the teacher.

    Args:
      records: records of the search.
      data_dir: TFDS data directory; None is TFDS' default.
      resources: data without a test split, strategy and teacher, if they are loaded already.
    """

    def __init__(
        self, records: TrialRecords, data_dir: str | None = None, resources: SharedResources | None = None
    ) -> None:
        self._records, self._plan = records, records.plan
        self._data_dir, self._resources = data_dir, resources
        self._cached_epochs: dict[int, int] = {}  # by the number of largest logits that are kept

    def run(self, number: int) -> TrialRecord:
        """Runs or resumes a trial; returns its record, finished or failed.

        Raises:
          InputError: a problem that the trial's settings did not cause. The same command then runs the trial again.
        """
        with _locked_by_worker(self._records.trial_folder(number)):
            record = self._records.read(number)
            return self._run(number, record) if record["status"] == RUNNING else record

    def _run(self, number, record):
        resources = self._open()
        seeds = range(self._plan.config.seed, self._plan.config.seed + self._plan.executions_per_trial)
        try:
            for seed in [record["values"].get("seed", seed) for seed in seeds][len(record["executions"]) :]:
                execution = self._execute(number, record["values"], seed, resources)
                record["executions"].append(execution)
                self._records.write(record)
        except (InputError, tf.errors.ResourceExhaustedError) as error:
            if isinstance(error, EnvironmentFailure) or is_disk_full(error) or isinstance(error.__cause__, OSError):
                raise
            if isinstance(error, tf.errors.ResourceExhaustedError) and self._is_known_to_fit(record["values"]):
                raise _out_of_memory("a student no larger than those of other trials", error) from error
            record |= {"status": FAILED, "reason": _reason(error, self._records.trial_folder(number))}
        else:
            values = [execution["metrics"][self._plan.goal.name] for execution in record["executions"]]
            record |= {
                "status": FINISHED,
                "objective": statistics.fmean(values),
                "spread": statistics.stdev(values) if len(values) > 1 else None,
                "validation_examples": len(resources.dataset.validation),
            }
        tensorboard.write_trial(self._records.folder, record, self._records.trial_folder(number))
        self._records.write(record)
        self.remove_weights(number)
        gc.collect()  # graphs are cyclic: of resnet8, 3.5 MB of each trial stay without this, and 1.3 with it
        return record

    def remove_weights(self, number: int) -> None:
        """Removes the weights of a trial that has finished or failed."""
        for name in (run_files.CHECKPOINTS, run_files.POST_MORTEM):
            for folder in self._records.trial_folder(number).glob(f"seed-*/{name}"):
                shutil.rmtree(folder)

    def _is_known_to_fit(self, values):
        """Whether the searched settings cannot be the reason that memory has run out.

        They cannot if all trials have the same graph, or if one with this graph was trained on batches as large.
        """
        return set(values) <= set(SAME_GRAPH) or any(
            record["executions"]
            and _graph_of(record["values"]) == _graph_of(values)
            and record["values"].get("batch_size", 0) >= values.get("batch_size", 0)
            for record in self._records.all()
        )

    def _execute(self, number, values, seed, resources):
        """Trains one student; returns {"seed", "seconds", "metrics": those of the epoch that ships}."""
        config = self._plan.config_of(values | {"seed": seed}).replace(keep_checkpoints=1)
        folder = Workdir(self._records.trial_folder(number) / f"seed-{seed}", config)
        lineage.require_unseen(lineage.start_weights(config), resources.dataset, config.pick(DataSettings))
        if config.needs_teacher:
            self._fill_cache(resources.teacher, config.cached_epochs, config.teacher_cache_top)
        else:
            resources = dataclasses.replace(resources, teacher=None)
        _, history = train_student.train_student(config, resources, folder.path, keep_best=False)
        lines = (folder / run_files.METRICS).read_text().splitlines()
        metrics = json.loads(lines[history["shipped_epoch"] - 1])
        self._require_finite_objective(metrics)
        return {"seed": seed, "seconds": history["seconds"], "metrics": metrics}

    def _fill_cache(self, teacher, epochs, top):
        """Computes the missing logits of the teacher, in one process at a time."""
        if epochs > self._cached_epochs.get(top, 0):
            with _teacher_lock(self._records.folder):
                try:
                    teacher.epoch_logits(epochs, top)
                except tf.errors.ResourceExhaustedError as error:
                    raise _out_of_memory("the teacher pass", error) from error
            self._cached_epochs[top] = epochs

    def _require_finite_objective(self, metrics):
        name = self._plan.goal.name
        if name not in metrics:
            problem = "names no value that this loss logs"
            raise flag_error("objective", name, problem, f"one of {', '.join(metrics)}", "Choose another")
        if not math.isfinite(metrics[name]):
            received, remedy = f"{name}={metrics[name]}", "Lower --learning_rate"
            raise DivergedError(
                message("The objective is not finite", expected="a finite number", received=received, remedy=remedy)
            )

    def _open(self):
        """Loads data and teacher once. Workers do so one after the other, so that only the first trains the teacher."""
        if self._resources is None:
            self._records.require_same()
            shared = self._plan.shared
            places = data_identity.places_of(self._records.images_were_in(), shared)
            with _teacher_lock(self._records.folder), data.as_decided(places):
                self._resources = experiment.prepare(shared, self._records.folder, self._data_dir, test=False)
            teacher, dataset = self._resources.teacher, self._resources.dataset
            if dataset.validation is None:
                problem = f"leaves no validation image of {len(dataset.train)} images"
                raise flag_error("validation_fraction", shared.validation_fraction, problem, "at least one", "Raise it")
            self._records.require_same_inputs(teacher and teacher.fingerprint, data_identity.data_facts(dataset))
            say()
        return self._resources


def _teacher_lock(folder):
    """Lets one process at a time work on the teacher and its logits; the others then find them finished.

    On a file system without locks, logits may be computed twice, which only costs time. But two processes that train
    the same teacher disturb each other.
    """
    remedy = "start further workers once the first trains students."
    return file_lock(folder / "teacher.lock", wait=True, without_locks=remedy)


@contextlib.contextmanager
def _locked_by_worker(folder):
    """Keeps other workers out of a trial's folder.

    keras-tuner hands out a trial twice if two workers have the same id, or if the chief was restarted. A search in a
    single process needs no such lock, because it locks the workdir.
    """
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
                expected="a different id for each worker",
                received=f"KERASTUNER_TUNER_ID={worker}, and {error.__cause__.owner} in {folder}",
                remedy="Choose another id, or wait until that process ends",
            ) from error
        yield


def _graph_of(values):
    """The values that determine the graph of a training step, and so its memory, apart from the batch size."""
    return {name: value for name, value in values.items() if name not in (*SAME_GRAPH, "batch_size")}


def _out_of_memory(what, error):
    received, remedy = reason(error.message)[:200], "End the other programs that use the device"
    return EnvironmentFailure(
        message("Memory has run out", expected=f"enough for {what}", received=received, remedy=remedy)
    )


def _reason(error, folder):
    """The message of a failure on one line, without sentences on files in the trial's folder, which are removed."""
    sentences = " ".join(reason(str(error)).split()).split(". ")
    return ". ".join(sentence for sentence in sentences if str(folder) not in sentence)[:500]
