"""One student's training: from settings, data and teacher to trained weights, recorded and resumable."""

import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from skd_tf import data, losses, schedules
from skd_tf.config import Config, grammar
from skd_tf.data import unlabelled as mixed_batches
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from skd_tf.distillation.objective import Objective
from skd_tf.errors import counted
from skd_tf.models import frozen_layers, precision
from skd_tf.models.student import StudentSettings, make_student
from skd_tf.models.sync_batch_norm import synchronized
from skd_tf.runs import run_files
from skd_tf.runs.data_identity import images_in
from skd_tf.runs.run_record import to_json
from skd_tf.runtime import cluster, devices, replicas, user_code
from skd_tf.runtime.console import detail, warn
from skd_tf.runtime.files import write_json
from skd_tf.training import announcement, layers, loop, preflight, unlabelled
from skd_tf.training.resources import SharedResources
from skd_tf.training.run_callbacks import RunCallbacks
from skd_tf.training.trackers import NO_TRACKERS, Tracker

_ADAPT_EXAMPLES = 10_000


def train_student(
    config: Config,
    resources: SharedResources,
    folder: str | os.PathLike,
    build: Callable[[Config, SharedResources, int], Distiller] | None = None,
    *,
    keep_best: bool = True,
    track: Tracker = NO_TRACKERS,
) -> tuple[Distiller, dict[str, Any]]:
    """Builds the student of a Config and trains it to its last step, from the newest checkpoint in the folder.

    Args:
      config: a `Config`.
      resources: data, replicas and teacher.
      folder: gets metrics.jsonl, tensorboard/ and checkpoints/.
      build: makes the Distiller; `build_distiller` unless given.
      keep_best: whether the checkpoint with the best validation accuracy is kept beside the newest ones.
      track: called with the record of each epoch.

    Returns:
      (the trained `Distiller`, {"seconds", "examples_per_second", "input_wait_share", "val_accuracy" ("val_agreement"
      without labels), "epochs_trained",
      "shipped_epoch"}).

    Raises:
      InputError: the training split is smaller than a batch, a checkpoint belongs to another network, or no image is
        held out although a setting depends on them.
    """
    folder = pathlib.Path(folder)
    unlabelled.check(config)
    unlabelled.check_replicas(config, resources.strategy.num_replicas_in_sync)
    devices.per_replica_batch(config.batch_size, resources.strategy.num_replicas_in_sync, config.micro_batches)
    preflight.require_validation(config, resources.dataset.validation is not None)
    steps_per_epoch = count_steps(config, resources.dataset)
    distiller = (build or build_distiller)(config, resources, steps_per_epoch)
    announcement.announce(config, resources, distiller, steps_per_epoch)
    teacher = resources.teacher
    teacher_logits = cached_logits(config, resources, steps_per_epoch) if teacher else {}
    if teacher and not teacher_logits and distiller.teacher is None:
        distiller.teacher = teacher.model
    resolved: dict[str, Any] = {
        "radius": float(distiller.radius.numpy()),
        "xla": distiller.xla,
        "xla_reason": distiller.xla_reason,
        "deterministic": replicas.determinism(),
        "replicas": resources.strategy.num_replicas_in_sync,
        "images_in": images_in(resources.dataset),
        "teacher": teacher and teacher.fingerprint,
        "loss": user_code.fingerprint_if_own(config.loss),
    }
    write_json(folder / run_files.CONFIG, to_json(config, folder) | {"resolved": resolved})
    history = _train(config, resources, folder, distiller, steps_per_epoch, teacher_logits, keep_best, track)
    if distiller.xla != resolved["xla"]:  # XLA could not compile the first step
        resolved |= {"xla": distiller.xla, "xla_reason": distiller.xla_reason}
        write_json(folder / run_files.CONFIG, to_json(config, folder) | {"resolved": resolved})
    optimizers.take_average(distiller)
    if config.freeze:
        frozen_layers.thaw(distiller.student, config.freeze)
    return distiller, history


def build_distiller(config: Config, resources: SharedResources, steps_per_epoch: int) -> Distiller:
    """The compiled Distiller of a Config, in the strategy's scope, with its radius measured if need be."""
    with resources.strategy.scope(), frozen_layers.numbered_in_the_model():
        rates = schedules.learning_rate(config, steps_per_epoch)
        starts, tables = loss_weight_tables(config, steps_per_epoch, len(rates))
        teacher = resources.teacher if config.feature_pairs else None  # the projectors need its layers
        distiller = Distiller(
            build_student(config, resources),
            teacher and teacher.members[0].network(layers.kept(config)),
            loss_of(config),
            temperature=config.temperature,
            kd_weight=starts["kd_weight"],
            label_weight=starts["label_weight"],
            radius=config.radius,
            center=config.center,
            label_smoothing=config.label_smoothing,
            gradient_scale=config.gradient_scale,
            loss_settings=grammar.parse_loss_settings(config.loss_settings),
            teacher_weights=grammar.parse_teacher_weights(config.teacher_weights) or None,
            feature_pairs=config.feature_pairs,
            feature_weight=starts.get("feature_weight", 1.0),
            feature_loss=config.feature_loss if config.feature_pairs else "mse",
            feature_seed=config.seed,
        )
        scheduled = {name: schedules.Table(values) for name, values in tables.items()}
        distiller.compile(
            optimizers.make_optimizer(config.pick(optimizers.OptimizerSettings), schedules.Table(rates)),
            jit_compile=config.jit_compile,
            micro_batches=config.micro_batches,
            layer_rates=config.layer_rates,
            schedules=scheduled if distiller.objective.needs_teacher else {},
        )
    adapt_radius(distiller, config, resources)
    return distiller


def loss_of(config: Config) -> str | losses.Loss:
    """The loss of a Config as `Distiller` takes it; imports your own."""
    if config.loss in losses.LOSSES:
        return config.loss
    function = user_code.resolve(config.loss, "loss")
    return losses.Loss(function, readout="raw", needs_teacher=config.needs_teacher, defaults={})


def check_loss(config: Config, classes: int | None = None, batch: int = 1) -> None:
    """Raises InputError if the loss does not take its settings.

    With the number of classes, your own loss is also called once, on random logits.

    Args:
      config: a `Config`.
      classes: of the dataset, or None.
      batch: images in a step of each replica.
    """
    settings = grammar.parse_loss_settings(config.loss_settings)
    objective = Objective(
        loss_of(config), center=config.center, label_smoothing=config.label_smoothing, settings=settings
    )
    objective.require_teachers(max(len(config.teachers), 1))
    if not classes or not user_code.is_reference(config.loss):
        return
    if not objective.try_out(batch, classes, max(len(config.teachers), 1)):
        warn(f"--loss={config.loss} is not finite for random logits, so training with it will probably stop.")


def build_student(config: Config, resources: SharedResources) -> keras.Model:
    """The student of a Config with the initial weights of its seed, in the strategy's scope."""
    with resources.strategy.scope():
        student = make_student(config.pick(StudentSettings), resources.dataset)
        if config.sync_batch_norm and resources.strategy.num_replicas_in_sync > 1:
            student = synchronized(student)
        student = precision.set_precision(student, config.precision)
        if config.freeze:
            frozen_layers.freeze(student, config.freeze)
        return student


def loss_weight_tables(
    config: Config, steps_per_epoch: int, total_steps: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The loss weights: ({name: value at the first step}, {name: values of all steps, if scheduled})."""
    names = ("kd_weight", "label_weight", *(["feature_weight"] if config.feature_pairs else []))
    weights = {name: getattr(config, name) for name in names}
    tables = {
        name: schedules.loss_weight(weight, steps_per_epoch, total_steps)
        for name, weight in weights.items()
        if isinstance(weight, str)
    }
    return weights | {name: float(values[0]) for name, values in tables.items()}, tables


def adapt_radius(distiller: Distiller, config: Config, resources: SharedResources) -> None:
    """Measures the radius on the teacher if the settings ask for it; all workers get the chief's value."""
    measured = config.radius in ("teacher_mean", "teacher_sample") and distiller.objective.needs_radius
    if measured and resources.teacher:
        train = resources.dataset.train
        images = train.take(data.evenly_spaced(len(train), _ADAPT_EXAMPLES)).images
        distiller.adapt({"image": images, "teacher_logits": tf.constant(resources.teacher.logits_of_each(images))})
        distiller.radius.assign(cluster.agree(lambda: float(distiller.radius.numpy())))


def cached_logits(
    config: Config, resources: SharedResources, steps_per_epoch: int, epochs: int | None = None
) -> dict[str, Any]:
    """The arguments of `training_stream` for the teacher's cached logits of so many epochs; {} without a cache.

    Without a number of epochs it is that of the Config.
    """
    teacher, dataset, count = resources.teacher, resources.dataset, config.unlabelled_batch
    assert teacher is not None
    epochs, top = config.cached_epochs if epochs is None else epochs, config.teacher_cache_top
    found = teacher.epoch_logits(epochs, top)
    if not found or not count:
        return {"teacher_logits": found} if found else {}
    passes = mixed_batches.passes(dataset, count, epochs * steps_per_epoch)
    return {"teacher_logits": found, "unlabelled_logits": teacher.epoch_logits(passes, top, dataset.unlabelled)}


def training_stream(config: Config, resources: SharedResources, **limits: Any) -> tf.data.Dataset:
    """The batches of a run, with images of --unlabelled in each if there are any.

    Args:
      config, resources: as in `train_student`.
      limits: as in `data.train_stream`, with the result of `cached_logits`.
    """
    settings = config.pick(data.StreamSettings)
    if config.unlabelled_batch:
        return mixed_batches.mixed_stream(resources.dataset, settings, config.unlabelled_batch, **limits)
    return data.train_stream(resources.dataset, settings, **limits)


def count_steps(config: Config, dataset: data.Dataset) -> int:
    """Steps in an epoch; says how many images of an epoch are left out, and refuses a batch that is too large."""
    steps = preflight.steps_per_epoch(config, len(dataset.train))
    dropped = len(dataset.train) - steps * config.labelled_batch
    if dropped:
        detail(
            f"Each epoch drops its last {dropped} of {counted(len(dataset.train), 'image')}, which do not fill a batch."
        )
    return steps


def _train(config, resources, folder, distiller, steps_per_epoch, teacher_logits, keep_best, track) -> dict[str, Any]:
    last_step = config.epochs * steps_per_epoch

    def make_stream(first_step, shards, shard_range):
        limits = {"steps_per_epoch": steps_per_epoch, "first_step": first_step, "last_step": last_step}
        limits |= {"shards": shards, "shard_range": shard_range} | teacher_logits
        return training_stream(config, resources, **limits)

    callbacks = RunCallbacks(
        config, resources, folder, distiller, steps_per_epoch, make_stream, keep_best=keep_best, track=track
    )
    with contextlib.closing(callbacks), _raising_errors_of(teacher_logits.values()):
        if callbacks.first_step < callbacks.last_step:
            loop.train(
                distiller,
                make_stream,
                callbacks,
                first_step=callbacks.first_step,
                last_step=last_step,
                steps_per_epoch=steps_per_epoch,
                steps_per_call=config.steps_per_call,
                interval=loop.Interval(*grammar.parse_interval(config.checkpoint_every)),
                profile=_profile(config, folder, callbacks.first_step),
            )
        return callbacks.finish()


@contextlib.contextmanager
def _raising_errors_of(logits):
    """Raises what ended the reading of cached logits, in place of TensorFlow's error that has only its text."""
    try:
        yield
    except tf.errors.OpError:
        for found in logits:
            if found.error:
                raise found.error from None
        raise


def _profile(config: Config, folder: pathlib.Path, first_step: int) -> loop.Profile:
    steps = grammar.parse_step_range(config.profile_steps)
    if steps and steps[0] <= first_step:
        warn(f"--profile_steps={config.profile_steps} traces nothing: the run resumes at step {first_step}.")
    return loop.Profile(steps, folder / run_files.TENSORBOARD)
