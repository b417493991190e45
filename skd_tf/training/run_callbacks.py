"""What happens while a run trains: one record per epoch, checkpoints, resuming, and a post-mortem of a failed step."""

import functools
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from skd_tf import schedules
from skd_tf.config import Config
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import DivergedError, counted, input_error, message
from skd_tf.evaluation import metrics, predictor
from skd_tf.models.student import architecture_fingerprint
from skd_tf.runs import run_files
from skd_tf.runs.data_identity import data_facts, require_same_data
from skd_tf.runs.metrics_log import MetricsLog
from skd_tf.runtime import cluster, user_code
from skd_tf.runtime.console import EpochClock, detail, say, warn
from skd_tf.runtime.files import write_json
from skd_tf.runtime.signals import Interrupted
from skd_tf.training.checkpoints import Checkpoints
from skd_tf.training.loop import MakeStream, Pace
from skd_tf.training.resources import SharedResources
from skd_tf.training.trackers import NO_TRACKERS, Tracker

_MOST_WAITING = 0.10  # share of the time spent waiting for input
_SECONDS_WORTH_A_WARNING = 300
_FIRST_STEPS = 3  # too few for a learning rate to make finite numbers diverge
_MOST_SKIPPED = 0.01  # share of the steps


class RunCallbacks:
    """The `skd_tf.training.loop.LoopCallbacks` of a run with a workdir; restores its newest checkpoint.

    Args:
      config: a `Config`.
      resources: `SharedResources`.
      folder: the run's.
      distiller: compiled and built.
      steps_per_epoch: full batches in an epoch.
      make_stream: as `skd_tf.training.loop.train` takes it.
      keep_best: whether the checkpoint with the best validation accuracy is kept beside the newest ones.
      track: called with the record of each epoch.

    Raises:
      InputError: the checkpoint belongs to another network, another teacher or other data.
    """

    def __init__(
        self,
        config: Config,
        resources: SharedResources,
        folder: str | os.PathLike,
        distiller: Distiller,
        steps_per_epoch: int,
        make_stream: MakeStream,
        *,
        keep_best: bool = True,
        track: Tracker = NO_TRACKERS,
    ):
        self._config, self._resources, self._folder = config, resources, pathlib.Path(folder)
        self._distiller, self._steps_per_epoch, self._make_stream = distiller, steps_per_epoch, make_stream
        self.last_step, self._track = config.epochs * steps_per_epoch, track
        self._measure = "val_accuracy" if resources.dataset.has_labels else "val_agreement"
        self._checkpoints = Checkpoints(
            self._folder / run_files.CHECKPOINTS,
            keep=config.keep_checkpoints,
            keep_best=keep_best or config.ship == "best",
        )
        self._facts = {
            "teacher": resources.teacher and resources.teacher.fingerprint,
            "student": architecture_fingerprint(distiller.student),
            "loss": user_code.fingerprint_if_own(config.loss),
            **data_facts(resources.dataset),
            "replicas": resources.strategy.num_replicas_in_sync,
        }
        self.first_step, extra = self._checkpoints.restore(distiller, warn) or (0, {"seconds": 0.0})
        if self.first_step:
            self._require_same(extra)
            say(f"Resuming at step {self.first_step} of {self.last_step}.")
        self._log: Any = None  # a MetricsLog, which only the chief has
        cluster.agree(lambda: self._open_log(extra.get("records")))
        if self._stops():
            self.last_step = self.first_step
        seconds = extra["seconds"]
        self._clock = EpochClock(config.student, config.epochs, self.first_step, steps_per_epoch, before=seconds)
        self._validate = predictor.predictor_of(distiller)
        self._rates = schedules.learning_rate(config, steps_per_epoch)

    def _open_log(self, known: dict | None) -> None:
        self._log = MetricsLog(self._folder, known=known, config=self._config)

    def _require_same(self, extra: dict[str, Any]) -> None:
        """Checks that the checkpoint has this teacher, this data and this student, and a version we can read."""
        remedy = "Choose another --workdir, or add --overwrite to restart from scratch"
        if extra.get("teacher") != self._facts["teacher"]:
            raise input_error(
                "The teacher has changed since this run began",
                expected="the same weights",
                received=f"others in {self._resources.teacher and self._resources.teacher.path}",
                remedy=remedy,
            )
        require_same_data("run", extra, self._facts)  # before the student, which contains the data's mean and std
        if extra.get("student", self._facts["student"]) != self._facts["student"]:
            raise input_error(
                "The student has changed since this run began",
                expected="the same layers, settings and connections",
                received=f"others from --student={self._config.student}",
                remedy=remedy,
            )
        if extra.get("loss", self._facts["loss"]) != self._facts["loss"]:
            raise input_error(
                "The code of the loss has changed since this run began",
                expected="the same function, and what it uses of its module",
                received=f"other code in --loss={self._config.loss}",
                remedy=f"Restore it. {remedy}",
            )
        if "records" not in extra:
            raise input_error(
                "The checkpoint was written by another version of skd_tf",
                expected="a digest of metrics.jsonl in it",
                received=f"none in {self._folder / 'checkpoints'}",
                remedy="Continue with that version, or choose another --workdir",
            )
        now = self._facts["replicas"]
        began = extra.get("replicas", now)
        if began != now:
            warn(
                f"this run began on {counted(began, 'replica')} and continues on {now}: its numbers differ from those of a run "
                "on one number of replicas, by rounding at least (docs/devices.md)."
            )

    def on_call(self, step: int) -> None:
        self._clock.say_step(step)

    def on_epoch_end(self, step: int, means: dict[str, float], pace: Pace) -> bool:
        if "loss" not in means:
            raise DivergedError(
                message(
                    "Training has diverged: float16 loss scaling has skipped every step of an epoch",
                    expected="finite gradients",
                    received=f"none in epoch {step // self._steps_per_epoch}",
                    remedy="Use --precision=bfloat16, or lower --learning_rate",
                )
            )
        self._record(step, means, pace, self._validation_logits())
        if not self._stops():
            return False
        self.last_step = step
        patience = self._config.early_stopping_patience
        since, better = counted(patience, "epoch"), self._measure.removeprefix("val_")
        say(f"Stops after epoch {step // self._steps_per_epoch}: no better validation {better} in {since}.")
        return True

    def _stops(self) -> bool:
        """Whether the last --early_stopping_patience epochs brought no better validation accuracy, or agreement."""
        patience = self._config.early_stopping_patience
        if not patience:
            return False
        return cluster.agree(lambda: len(self._log.rows()) >= _best_epoch(self._log.rows(), self._measure) + patience)

    def _validation_logits(self) -> np.ndarray | None:
        """The student's logits of the validation images, which the workers divide; None without such images."""
        validation = self._resources.dataset.validation
        if not validation:
            return None
        with optimizers.averaged(self._distiller):
            return self._distiller.probability_logits(self._validate.shared(validation.images))

    @cluster.chief_only
    def _record(self, step: int, means: dict[str, float], pace: Pace, logits: np.ndarray | None) -> None:
        distiller, validation = self._distiller, self._resources.dataset.validation
        epoch = step // self._steps_per_epoch
        updates = int(distiller.optimizer.iterations.numpy())  # fewer than steps if float16 loss scaling skipped some
        record = {"epoch": epoch - 1, "step": step, **means, **_in_force(distiller, self._rates[updates - 1], means)}
        if validation and logits is not None:
            summary = metrics.summarize(logits, validation.labels)
            if self._resources.dataset.has_labels:
                measured = summary.quality() | summary.over_classes()
                names = ("accuracy", "nll", "ece", *summary.over_classes())
            else:
                measured, names = summary.comparison(self._teacher_on_validation), ("agreement", "kl_to_teacher")
            record |= {f"val_{name}": measured[name] for name in names}
            self._checkpoints.save_best(distiller, step, record[self._measure], self._extra())
        if optimizers.may_skip(distiller.optimizer):  # learning rate and loss weights follow updates, not steps
            record["skipped_steps"] = step - updates
        record |= {
            "examples_per_second": pace.steps * self._config.batch_size / pace.seconds,
            "input_wait_share": float(pace.waited_seconds) / pace.seconds,
            "seconds": self._clock.seconds(),
        }
        self._log.add(record)
        self._track(record)
        self._clock.say_epoch(epoch, record)

    @functools.cached_property
    def _teacher_on_validation(self) -> metrics.Summary:
        """What the teacher says about the validation images."""
        teacher, validation = self._resources.teacher, self._resources.dataset.validation
        assert teacher is not None and validation is not None
        return metrics.summarize(teacher.logits(validation.images), validation.labels)

    def save(self, step: int) -> None:
        self._checkpoints.save(self._distiller, step, self._extra())
        if step == self.last_step:
            self._checkpoints.wait()

    def on_interrupt(self, step: int, signal: int) -> None:
        self._checkpoints.wait()
        raise Interrupted(signal, f"Step {step} of {self.last_step} is saved.")

    def on_not_finite(self, step: int, names: list[str]) -> None:
        """Writes the state before the step and its batch to post_mortem/, and raises `DivergedError`."""
        folder = self._folder / run_files.POST_MORTEM
        left = f"The state before that step and its batch are in {folder}"
        try:
            self._write_post_mortem(folder, step, names)
        except (OSError, tf.errors.OpError) as error:  # the divergence itself must be reported in any case
            left = f"Its state and batch could not be written ({' '.join(str(error).split())})"
        epoch = f"epoch {step // self._steps_per_epoch + 1} of {self._config.epochs}"
        remedy = "Lower --learning_rate, lengthen --warmup_epochs, or set --clip_norm"
        if user_code.is_reference(self._config.loss) and step < _FIRST_STEPS:
            remedy = f"So early, {self._config.loss} may divide by 0 or take the logarithm of 0: call it on that batch"
        raise DivergedError(
            message(
                f"Training has diverged at step {step + 1} of {self.last_step} ({epoch})",
                expected="finite values",
                received=f"others in: {', '.join(names)}; learning_rate={self._rates[step]:.4g}",
                remedy=f"{left}; the last checkpoint stays. {remedy}",
            )
        )

    @cluster.chief_only
    def _write_post_mortem(self, folder: pathlib.Path, step: int, names: list[str]) -> None:
        shards = self._resources.strategy.num_replicas_in_sync
        parts = [tf.nest.flatten(part) for part in self._make_stream(step, shards, range(shards)).take(shards)]
        x = self._make_stream(step, shards, range(shards)).element_spec[0]
        keys = [*(sorted(x) if isinstance(x, dict) else ["image"]), "label"]  # tf.nest's order
        folder.mkdir(exist_ok=True)
        arrays = {key: np.concatenate(column) for key, column in zip(keys, zip(*parts, strict=True), strict=True)}
        np.savez(folder / "batch.npz", **arrays)  # type: ignore[arg-type]
        state = Checkpoints(folder)
        state.save(self._distiller, step, self._extra())
        state.wait()
        write_json(folder / "facts.json", {"step": step, "not_finite": names})

    def finish(self) -> dict[str, Any]:
        """Gives the Distiller the weights that ship. Returns the summary of all epochs, equal on all workers."""
        if self._log:  # the chief's, which alone prints
            self._clock.say_end(len(self._log.rows()))
        ships = self._config.ship
        if ships == "best":
            best = cluster.agree(lambda: self._log.rows()[_best_epoch(self._log.rows(), self._measure) - 1]["step"])
            self._checkpoints.restore_best(self._distiller, best)
        return cluster.agree(lambda: _summary(self._log.rows(), self._clock.seconds(), ships, self._measure))

    def close(self) -> None:
        self._checkpoints.close()

    def _extra(self) -> dict[str, Any]:
        lines = self._log.state() if self._log else None
        return self._facts | {"seconds": self._clock.seconds(), "records": lines}


def _best_epoch(rows: list[dict], measure: str) -> int:
    """The first epoch with the best validation accuracy, or agreement, from 1; 0 without any row."""
    return 1 + int(np.argmax([row[measure] for row in rows])) if rows else 0


def _summary(rows: list[dict], seconds: float, ships: str, measure: str) -> dict[str, Any]:
    names = ("examples_per_second", "input_wait_share")
    rate, waiting = (float(np.median([row[name] for row in rows])) for name in names)
    detail(f"{rate:,.0f} images/s, {waiting:.1%} of the time spent waiting for input.")
    skipped, steps = rows[-1].get("skipped_steps", 0), rows[-1]["step"]
    if skipped > _MOST_SKIPPED * steps:
        warn(
            f"float16 loss scaling skipped {skipped} of {steps} steps. Learning rate and loss weights follow the other "
            "steps, so their schedules were cut short. --precision=bfloat16 skips none."
        )
    if waiting > _MOST_WAITING and seconds > _SECONDS_WORTH_A_WARNING:
        warn(f"training waited for its input {waiting:.0%} of the time: the input pipeline limits the speed.")
    shipped = _best_epoch(rows, measure) if ships == "best" else len(rows)
    return {
        "seconds": seconds,
        "examples_per_second": rate,
        "input_wait_share": waiting,
        measure: rows[shipped - 1].get(measure),
        "epochs_trained": len(rows),
        "shipped_epoch": shipped,
    }


def _in_force(distiller: Distiller, rate: float, means: dict[str, float]) -> dict[str, float]:
    """The settings of an epoch's last update, and on the sphere R / ||z_s||, the scale of its gradient."""
    values = {"learning_rate": float(rate)}
    names = ("kd_weight", "label_weight", *(["feature_weight"] if distiller.features is not None else []))
    values |= {name: float(getattr(distiller, name).numpy()) for name in names}
    if distiller.objective.loss.readout == "sphere":
        values["radius_over_student_norm"] = float(distiller.radius.numpy()) / max(means["student_logit_norm"], 1e-30)
    return values
