"""What a run keeps while it trains: a record an epoch, checkpoints, and what a failed step leaves behind."""

import numpy as np
import tensorflow as tf

from skd_tf import schedules
from skd_tf.distillation import optimizers
from skd_tf.errors import DivergedError, input_error
from skd_tf.evaluation import metrics, predictor
from skd_tf.models import student
from skd_tf.runs import metrics_log
from skd_tf.runs.data_identity import data_facts, require_same_data
from skd_tf.runtime import cluster, console
from skd_tf.runtime.console import say, warn
from skd_tf.runtime.files import write_json
from skd_tf.runtime.signals import Interrupted
from skd_tf.training import checkpoints

_MOST_WAITING = 0.10
_MOST_SKIPPED = 0.01


class RunCallbacks:
    """The `skd_tf.training.loop.LoopCallbacks` of a run with a workdir; restores its newest checkpoint.

    Args:
      config: a `Config`.
      setup: a `skd_tf.training.train_student.SharedResources`.
      folder: the `Workdir` or its path.
      distiller: compiled and built.
      steps_per_epoch: full batches in an epoch.
      make_stream: as `skd_tf.training.loop.train` takes it.
      keep_best: whether the checkpoint that is best on validation stays beside the newest.

    Raises:
      InputError: a checkpoint of another network, or of training with another teacher.
    """

    def __init__(self, config, setup, folder, distiller, steps_per_epoch, make_stream, *, keep_best=True):
        self._config, self._setup, self._folder, self._distiller = config, setup, folder, distiller
        self._steps_per_epoch, self._make_stream = steps_per_epoch, make_stream
        self.last_step = config.epochs * steps_per_epoch
        self._checkpoints = checkpoints.Checkpoints(
            folder / "checkpoints", keep=config.keep_checkpoints, keep_best=keep_best
        )
        self._facts = {
            "teacher": setup.teacher and setup.teacher.fingerprint,
            "student": student.architecture_fingerprint(distiller.student),
            **data_facts(setup.dataset),
            "replicas": setup.strategy.num_replicas_in_sync,
        }
        self.first_step, extra = self._checkpoints.restore(distiller, warn) or (0, {"seconds": 0.0})
        if self.first_step:
            self._require_same(extra)
            say(f"Resuming at step {self.first_step} of {self.last_step}.")
        self._records = None  # the chief's
        cluster.agree(lambda: self._open_records(extra.get("records")))
        self._clock = console.EpochClock(
            config.student, config.epochs, self.first_step, steps_per_epoch, before=extra["seconds"]
        )
        self._validate = predictor.predictor_of(distiller)
        self._rates = schedules.learning_rate(config, steps_per_epoch)

    def _open_records(self, known):
        self._records = metrics_log.MetricsLog(self._folder, known=known, config=self._config)

    def _require_same(self, extra):
        """InputError where the checkpoint's `extra` tells of another teacher or student, other data or another program."""
        if extra.get("teacher") != self._facts["teacher"]:
            raise input_error(
                "The teacher has changed since this run began",
                expected="the same weights",
                received=f"others in {self._setup.teacher.path}",
                remedy="Choose another --workdir, or add --overwrite to begin anew",
            )
        require_same_data("run", extra, self._facts)  # first: a student holds the data's mean and std
        if extra.get("student", self._facts["student"]) != self._facts["student"]:
            raise input_error(
                "The student has changed since this run began",
                expected="the same layers, settings and connections",
                received=f"others from --student={self._config.student}",
                remedy="Choose another --workdir, or add --overwrite to begin anew",
            )
        if "records" not in extra:
            raise input_error(
                "The checkpoint is of another version of skd_tf",
                expected="a digest of metrics.jsonl in it",
                received=f"none in {self._folder / 'checkpoints'}",
                remedy="Go on with that version, or choose another --workdir",
            )
        if extra.get("replicas") != self._facts["replicas"]:
            began, now = extra.get("replicas"), self._facts["replicas"]
            warn(f"this run began on {began} replicas: on {now} its numbers round otherwise.")

    def on_call(self, step):
        self._clock.say_step(step)

    def on_epoch_end(self, step, means, pace):
        if "loss" not in means:
            raise DivergedError(
                "Training has diverged: float16's loss scaling has skipped every step of an epoch. Expected finite "
                f"gradients. Received none in epoch {step // self._steps_per_epoch}. Take --precision=bfloat16, or lower "
                "--learning_rate."
            )
        self._record(step, means, pace)

    @cluster.chief_only
    def _record(self, step, means, pace):
        distiller, validation, epoch = self._distiller, self._setup.dataset.validation, step // self._steps_per_epoch
        updates = int(
            distiller.optimizer.iterations.numpy()
        )  # fewer than steps where float16's loss scaling skipped some
        record = {"epoch": epoch - 1, "step": step, **means, **_in_force(distiller, self._rates[updates - 1], means)}
        if validation:
            with optimizers.averaged(distiller):
                logits = distiller.probability_logits(self._validate(validation.images))
            quality = metrics.quality(logits, validation.labels)
            record |= {f"val_{name}": quality[name] for name in ("accuracy", "nll", "ece")}
            self._checkpoints.save_best(distiller, step, quality["accuracy"], self._extra())
        if optimizers.may_skip(distiller.optimizer):  # rates and weights follow the updates, so a skip puts them off
            record["skipped_steps"] = step - updates
        record |= {
            "examples_per_second": pace.steps * self._config.batch_size / pace.seconds,
            "input_wait_share": float(pace.waited_seconds) / pace.seconds,
            "seconds": self._clock.seconds(),
        }
        self._records.add(record)
        self._clock.say_epoch(epoch, record)

    def save(self, step):
        self._checkpoints.save(self._distiller, step, self._extra())
        if step == self.last_step:
            self._checkpoints.wait()

    def on_interrupt(self, step, signal):
        self._checkpoints.wait()
        raise Interrupted(signal, f"Step {step} of {self.last_step} is saved.")

    def on_not_finite(self, step, names):
        """Leaves the state before the step, its batch and their names in post_mortem/, and raises `DivergedError`."""
        folder = self._folder / "post_mortem"
        left = f"The state before that step and its batch are in {folder}"
        try:
            self._leave(folder, step, names)
        except (OSError, tf.errors.OpError) as error:  # the failure itself must be told in any case
            left = f"Its state and batch could not be written ({' '.join(str(error).split())})"
        epoch = step // self._steps_per_epoch + 1
        raise DivergedError(
            f"Training has diverged at step {step + 1} of {self.last_step} (epoch {epoch} of {self._config.epochs}). "
            f"Expected finite values. Received others in: {', '.join(names)}; learning_rate={self._rates[step]:.4g}. "
            f"{left}; the last checkpoint stays. Lower --learning_rate, lengthen --warmup_epochs, or set --clip_norm."
        )

    @cluster.chief_only
    def _leave(self, folder, step, names):
        shards = self._setup.strategy.num_replicas_in_sync
        parts = [tf.nest.flatten(part) for part in self._make_stream(step, shards, range(shards)).take(shards)]
        x = self._make_stream(step, shards, range(shards)).element_spec[0]
        keys = [*(sorted(x) if isinstance(x, dict) else ["image"]), "label"]  # tf.nest's order
        folder.mkdir(exist_ok=True)
        arrays = {key: np.concatenate(column) for key, column in zip(keys, zip(*parts, strict=True), strict=True)}
        np.savez(folder / "batch.npz", **arrays)
        state = checkpoints.Checkpoints(folder)
        state.save(self._distiller, step, self._extra())
        state.wait()
        write_json(folder / "facts.json", {"step": step, "not_finite": names})

    def finish(self):
        """What the run's epochs come to; the same on all workers."""
        return cluster.agree(lambda: _history(self._records.rows(), self._clock.seconds()))

    def close(self):
        self._checkpoints.close()

    def _extra(self):
        lines = self._records.state() if self._records else None
        return self._facts | {"seconds": self._clock.seconds(), "records": lines}


def _history(rows, seconds):
    """What a run's epochs come to."""
    rate, waiting = (
        float(np.median([row[name] for row in rows])) for name in ("examples_per_second", "input_wait_share")
    )
    say(f"{rate:,.0f} images/s, {waiting:.1%} of the time spent waiting for input.")
    skipped, steps = rows[-1].get("skipped_steps", 0), rows[-1]["step"]
    if skipped > _MOST_SKIPPED * steps:
        warn(
            f"float16's loss scaling skipped {skipped} of {steps} steps, and rates and weights follow the others: their "
            "schedules ended so much early. --precision=bfloat16 skips none."
        )
    if waiting > _MOST_WAITING:
        warn(f"training waited for its input {waiting:.0%} of the time: the pipeline, not the step, sets the pace.")
    return {
        "seconds": seconds,
        "examples_per_second": rate,
        "input_wait_share": waiting,
        "val_accuracy": rows[-1].get("val_accuracy"),
    }


def _in_force(distiller, rate, means):
    """The settings that an epoch's last update was made with, and the gain R / ||z_s|| on the spherical gradient."""
    weights = {name: float(getattr(distiller, name).numpy()) for name in ("kd_weight", "label_weight")}
    gain = {}
    if distiller.objective.row.readout == "sphere":
        gain["radius_over_student_norm"] = float(distiller.radius.numpy()) / max(means["student_logit_norm"], 1e-30)
    return {"learning_rate": float(rate), **weights, **gain}
