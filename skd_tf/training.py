"""One student's training: from settings, data and teacher to trained weights, recorded and resumable."""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from skd_tf import (
    checkpoints,
    cluster,
    data,
    devices,
    evaluation,
    loop,
    metrics,
    networks,
    optimizers,
    precision,
    progress,
    records,
    schedules,
    teachers,
)  # fmt: skip
from skd_tf.distiller import Distiller
from skd_tf.errors import InputError
from skd_tf.knobs import as_text
from skd_tf.progress import say, warn
from skd_tf.sync_batch_norm import synchronized
from skd_tf.workdir import write_json

_ADAPT_EXAMPLES = 10_000
# Below this the sphere cannot say more than "perhaps": with 100 classes, R = 10 and T = 4 no class can pass 0.11.
_LEAST_TOP_PROBABILITY = 0.25
_MOST_WAITING = 0.10


@dataclasses.dataclass(frozen=True)
class Setup:
    """What several students can share: data, replicas, and a `Teacher` (None for a loss without one)."""

    dataset: data.Dataset
    strategy: tf.distribute.Strategy
    teacher: teachers.Teacher | None


def train_student(config, setup, folder):
    """Builds the student of a Config and trains it to its last step, from the newest checkpoint in the folder.

    Args:
      config: a `Config`.
      setup: a `Setup`.
      folder: `Workdir` or path; gets metrics.jsonl, tensorboard/ and checkpoints/.

    Returns:
      (the trained `Distiller`, {"seconds", "examples_per_second", "val_accuracy"}).

    Raises:
      InputError: a training split smaller than a batch, or a checkpoint of another network.
    """
    steps_per_epoch = _steps_per_epoch(config, setup.dataset)
    distiller = build_distiller(config, setup, steps_per_epoch)
    _announce(config, setup, distiller, steps_per_epoch)
    cached = setup.teacher.epoch_files(config.teacher_cache_epochs or config.epochs) if setup.teacher else None
    if not cached and setup.teacher:
        distiller.teacher = setup.teacher.model
    resolved = {"radius": float(distiller.radius.numpy()), "xla": distiller.xla, "xla_reason": distiller.xla_reason}
    resolved |= {"replicas": setup.strategy.num_replicas_in_sync, "teacher": setup.teacher and setup.teacher.fingerprint}
    write_json(folder / "config.json", config.to_json() | {"resolved": resolved})
    return distiller, _train(config, setup, folder, distiller, steps_per_epoch, cached)


def build_distiller(config, setup, steps_per_epoch):
    """The compiled Distiller of a Config, in the strategy's scope, its radius measured where it has to be."""
    dataset = setup.dataset
    with setup.strategy.scope():
        student = networks.build(
            config.student, input_shape=dataset.image_shape, num_classes=dataset.num_classes,
            mean=dataset.mean, std=dataset.std, seed=config.seed,
        )  # fmt: skip
        if config.sync_batch_norm and setup.strategy.num_replicas_in_sync > 1:
            student = synchronized(student)
        precision.set_precision(student, config.precision)
        rates = schedules.learning_rate(config, steps_per_epoch)
        starts, tables = {}, {}
        for name in ("kd_weight", "label_weight"):
            starts[name] = weight = getattr(config, name)
            if isinstance(weight, str):
                values = schedules.loss_weight(weight, steps_per_epoch, len(rates))
                starts[name] = float(values[0])
                tables[name] = schedules.Table(values)
        distiller = Distiller(
            student, None, config.loss, temperature=config.temperature, **starts, radius=config.radius,
            center=config.center, label_smoothing=config.label_smoothing,
        )  # fmt: skip
        distiller.compile(
            optimizers.make_optimizer(config, schedules.Table(rates)),
            jit_compile=config.jit_compile,
            schedules=tables if distiller.objective.needs_teacher else {},
        )
    if config.radius in ("teacher_mean", "teacher_sample") and distiller.objective.needs_teacher:
        images = dataset.train.images[:_ADAPT_EXAMPLES]
        distiller.adapt({"image": images, "teacher_logits": tf.constant(setup.teacher.logits(images))})
        distiller.radius.assign(cluster.agree(lambda: float(distiller.radius.numpy())))
    return distiller


def _steps_per_epoch(config, dataset):
    steps, dropped = divmod(len(dataset.train), config.batch_size)
    if not steps:
        raise InputError(
            f"The training split is smaller than a batch. Expected at least {config.batch_size} examples. "
            f"Received {len(dataset.train)} from {config.dataset}. Lower --batch_size."
        )
    if dropped:
        say(f"The last {dropped} of {len(dataset.train)} images in each epoch's order fill no batch and are dropped.")
    return steps


def _announce(config, setup, distiller, steps_per_epoch):
    dataset, replica_count = setup.dataset, setup.strategy.num_replicas_in_sync
    say(
        f"{config.student} on {dataset.name} {dataset.version}: {len(dataset.train)} images, "
        f"{config.epochs} epochs x {steps_per_epoch} steps, batch {config.batch_size} = {replica_count} x "
        f"{config.batch_size // replica_count}, loss {config.loss}, XLA {'on' if distiller.xla else 'off'} "
        f"({distiller.xla_reason})."
    )
    authors = {name: value for name, value in distiller.objective.row.defaults.items() if getattr(config, name) != value}
    if authors:
        given = ", ".join(f"--{name}={as_text(getattr(config, name))} (theirs: {value})" for name, value in authors.items())
        say(f"Not the authors' settings of {config.loss}: {given}.")
    slow = devices.half_precision_warning((config.precision, config.teacher_precision))
    if slow:
        warn(slow)
    if distiller.objective.row.readout != "sphere":
        return
    radius, classes = float(distiller.radius.numpy()), dataset.num_classes
    top = 1 / (1 + (classes - 1) * math.exp(-radius * math.sqrt(classes / (classes - 1)) / config.temperature))
    say(f"Radius {radius:.4g} ({config.radius}), temperature {config.temperature:g}: top probability at most {top:.3f}.")
    if top < _LEAST_TOP_PROBABILITY:
        warn(f"--radius / --temperature is too small for the sphere to represent the teacher: no class can pass {top:.3f}.")


def _train(config, setup, folder, distiller, steps_per_epoch, logit_files):
    dataset, saved = setup.dataset, checkpoints.Checkpoints(folder / "checkpoints")
    facts = {"teacher": setup.teacher and setup.teacher.fingerprint}
    first_step, extra = saved.restore(distiller, warn) or (0, {"seconds": 0.0})
    last_step = config.epochs * steps_per_epoch
    if first_step and extra.get("teacher") != facts["teacher"]:
        raise InputError(
            "The teacher has changed since this run began. Expected the same weights. "
            f"Received others in {setup.teacher.path}. Choose another --workdir, or add --overwrite to begin anew."
        )
    if first_step:
        say(f"Resuming at step {first_step} of {last_step}.")
    log = records.Records(folder, epochs_done=first_step // steps_per_epoch) if cluster.is_chief() else None
    clock = progress.Clock(config.student, config.epochs, first_step / steps_per_epoch, before=extra["seconds"])
    validate = evaluation.Predictor(distiller)
    rates = schedules.learning_rate(config, steps_per_epoch)

    @cluster.chief_only
    def on_epoch_end(step, means, pace):
        epoch = step // steps_per_epoch
        record = {"epoch": epoch - 1, "step": step, **means, **_in_force(distiller, rates[step - 1], means)}
        if dataset.validation:
            logits = distiller.probability_logits(validate(dataset.validation.images))
            quality = metrics.quality(logits, dataset.validation.labels)
            record |= {f"val_{name}": quality[name] for name in ("accuracy", "nll", "ece")}
        record |= {
            "examples_per_second": pace.steps * config.batch_size / pace.seconds,
            "input_wait_share": float(pace.waited_seconds) / pace.seconds,
            "seconds": clock.seconds(),
        }
        log.add(record)
        clock.say_epoch(epoch, record)

    def make_stream(shards, shard_range):
        return data.train_stream(
            dataset, config, steps_per_epoch=steps_per_epoch, first_step=first_step, last_step=last_step,
            shards=shards, shard_range=shard_range, logit_files=logit_files,
        )  # fmt: skip

    if first_step < last_step:
        loop.train(
            distiller, make_stream, first_step=first_step, last_step=last_step, steps_per_epoch=steps_per_epoch,
            steps_per_call=config.steps_per_call, interval=loop.Interval(config.checkpoint_every),
            on_epoch_end=on_epoch_end, save=lambda step: saved.save(distiller, step, facts | {"seconds": clock.seconds()}),
        )  # fmt: skip
    return cluster.agree(lambda: _history(log.rows(), clock.seconds()))


def _history(rows, seconds):
    """What a run's epochs come to."""
    rate, waiting = (float(np.median([row[name] for row in rows])) for name in ("examples_per_second", "input_wait_share"))
    say(f"{rate:,.0f} images/s, {waiting:.1%} of the time spent waiting for input.")
    if waiting > _MOST_WAITING:
        warn(f"training waited for its input {waiting:.0%} of the time: the pipeline, not the step, sets the pace.")
    return {
        "seconds": seconds,
        "examples_per_second": rate,
        "input_wait_share": waiting,
        "val_accuracy": rows[-1].get("val_accuracy"),
    }


def _in_force(distiller, rate, means):
    """The settings that an epoch's last step ran with, and the gain R / ||z_s|| on the spherical gradient."""
    weights = {name: float(getattr(distiller, name).numpy()) for name in ("kd_weight", "label_weight")}
    gain = {}
    if distiller.objective.row.readout == "sphere":
        gain["radius_over_student_norm"] = float(distiller.radius.numpy()) / max(means["student_logit_norm"], 1e-30)
    return {"learning_rate": float(rate), **weights, **gain}
