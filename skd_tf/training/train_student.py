"""One student's training: from settings, data and teacher to trained weights, recorded and resumable."""

import contextlib
import dataclasses

import tensorflow as tf

from skd_tf import data, schedules
from skd_tf.config import grammar
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import as_text, input_error
from skd_tf.losses import sphere_geometry
from skd_tf.models import precision
from skd_tf.models import student as students
from skd_tf.models.sync_batch_norm import synchronized
from skd_tf.runtime import cluster, devices
from skd_tf.runtime.console import say, warn
from skd_tf.runtime.files import write_json
from skd_tf.training import loop
from skd_tf.training.run_callbacks import RunCallbacks
from skd_tf.training.teacher import Teacher

_ADAPT_EXAMPLES = 10_000
# Below this the sphere cannot say more than "perhaps": with 100 classes, R = 10 and T = 4 no class can pass 0.11.
_LEAST_TOP_PROBABILITY = 0.25


@dataclasses.dataclass(frozen=True)
class SharedResources:
    """What several students can share: data, replicas, and a `Teacher` (None for a loss without one)."""

    dataset: data.Dataset
    strategy: tf.distribute.Strategy
    teacher: Teacher | None


def train_student(config, setup, folder, build=None, *, keep_best=True):
    """Builds the student of a Config and trains it to its last step, from the newest checkpoint in the folder.

    Args:
      config: a `Config`.
      setup: a `SharedResources`.
      folder: `Workdir` or path; gets metrics.jsonl, tensorboard/ and checkpoints/.
      build: what makes the Distiller; `build_distiller` unless given.
      keep_best: whether the checkpoint that is best on validation stays beside the newest.

    Returns:
      (the trained `Distiller`, {"seconds", "examples_per_second", "val_accuracy"}).

    Raises:
      InputError: a training split smaller than a batch, or a checkpoint of another network.
    """
    steps_per_epoch = _steps_per_epoch(config, setup.dataset)
    distiller = (build or build_distiller)(config, setup, steps_per_epoch)
    _announce(config, setup, distiller, steps_per_epoch)
    cached = setup.teacher.epoch_files(config.teacher_cache_epochs or config.epochs) if setup.teacher else None
    if not cached and setup.teacher:
        distiller.teacher = setup.teacher.model
    resolved = {"radius": float(distiller.radius.numpy()), "xla": distiller.xla, "xla_reason": distiller.xla_reason}
    resolved |= {
        "replicas": setup.strategy.num_replicas_in_sync,
        "teacher": setup.teacher and setup.teacher.fingerprint,
    }
    write_json(folder / "config.json", config.to_json() | {"resolved": resolved})
    history = _train(config, setup, folder, distiller, steps_per_epoch, cached, keep_best)
    optimizers.take_average(distiller)
    return distiller, history


def build_distiller(config, setup, steps_per_epoch):
    """The compiled Distiller of a Config, in the strategy's scope, its radius measured where it has to be."""
    with setup.strategy.scope():
        rates = schedules.learning_rate(config, steps_per_epoch)
        starts, tables = loss_weight_tables(config, steps_per_epoch, len(rates))
        tables = {name: schedules.Table(values) for name, values in tables.items()}
        distiller = Distiller(
            build_student(config, setup),
            None,
            config.loss,
            temperature=config.temperature,
            **starts,
            radius=config.radius,
            center=config.center,
            label_smoothing=config.label_smoothing,
            loss_settings=grammar.parse_loss_settings(config.loss_settings),
        )
        distiller.compile(
            optimizers.make_optimizer(config.pick(optimizers.OptimizerSettings), schedules.Table(rates)),
            jit_compile=config.jit_compile,
            schedules=tables if distiller.objective.needs_teacher else {},
        )
    adapt_radius(distiller, config, setup)
    return distiller


def build_student(config, setup):
    """The student of a Config with the initial weights of its seed, in the strategy's scope."""
    with setup.strategy.scope():
        student = students.build_student(config.pick(students.StudentSettings), setup.dataset)
        if config.sync_batch_norm and setup.strategy.num_replicas_in_sync > 1:
            student = synchronized(student)
        return precision.set_precision(student, config.precision)


def loss_weight_tables(config, steps_per_epoch, total_steps):
    """({name: number at the first step}, {name: values of all steps, of scheduled ones}) of the two loss weights."""
    starts = {name: getattr(config, name) for name in ("kd_weight", "label_weight")}
    tables = {
        name: schedules.loss_weight(weight, steps_per_epoch, total_steps)
        for name, weight in starts.items()
        if isinstance(weight, str)
    }
    return starts | {name: float(values[0]) for name, values in tables.items()}, tables


def adapt_radius(distiller, config, setup):
    """Measures the radius where the settings ask for it, the same on all workers."""
    if config.radius in ("teacher_mean", "teacher_sample") and distiller.objective.needs_teacher:
        train = setup.dataset.train
        images = train.take(data.evenly_spaced(len(train), _ADAPT_EXAMPLES)).images
        distiller.adapt({"image": images, "teacher_logits": tf.constant(setup.teacher.logits(images))})
        distiller.radius.assign(cluster.agree(lambda: float(distiller.radius.numpy())))


def _steps_per_epoch(config, dataset):
    steps, dropped = divmod(len(dataset.train), config.batch_size)
    if not steps:
        raise input_error(
            "The training split is smaller than a batch",
            expected=f"at least {config.batch_size} examples",
            received=f"{len(dataset.train)} from {config.dataset}",
            remedy="Lower --batch_size",
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
    authors = {
        name: value for name, value in distiller.objective.row.defaults.items() if getattr(config, name) != value
    }
    if authors:
        given = ", ".join(
            f"--{name}={as_text(getattr(config, name))} (theirs: {value})" for name, value in authors.items()
        )
        say(f"Not the authors' settings of {config.loss}: {given}.")
    slow = devices.half_precision_warning((config.precision, config.teacher_precision))
    if slow:
        warn(slow)
    if distiller.objective.row.readout != "sphere":
        return
    radius, classes = float(distiller.radius.numpy()), dataset.num_classes
    top = sphere_geometry.top_probability(classes, radius, config.temperature)
    say(
        f"Radius {radius:.4g} ({config.radius}), temperature {config.temperature:g}: top probability at most {top:.3f}."
    )
    if top < _LEAST_TOP_PROBABILITY:
        warn(
            f"--radius / --temperature is too small for the sphere to represent the teacher: no class can pass {top:.3f}."
        )
    weights = {name: float(getattr(distiller, name).numpy()) for name in ("kd_weight", "label_weight")}
    if classes > 2 and any(weights.values()):
        second = sphere_geometry.second_minimum_radius(classes, temperature=config.temperature, **weights)
        if radius > second:
            warn(
                f"from R = {second:.3g}, at this temperature and these weights, an image or a whole class can come to rest "
                f"opposite its label (docs/sphere.md), and R is {radius:.4g}: take a smaller --radius or a higher "
                "--temperature."
            )


def _train(config, setup, folder, distiller, steps_per_epoch, logit_files, keep_best):
    last_step = config.epochs * steps_per_epoch

    def make_stream(first_step, shards, shard_range):
        return data.train_stream(
            setup.dataset,
            config.pick(data.StreamSettings),
            steps_per_epoch=steps_per_epoch,
            first_step=first_step,
            last_step=last_step,
            shards=shards,
            shard_range=shard_range,
            logit_files=logit_files,
        )

    keeping = RunCallbacks(config, setup, folder, distiller, steps_per_epoch, make_stream, keep_best=keep_best)
    with contextlib.closing(keeping) as kept:
        if kept.first_step < last_step:
            profile = _profile(config, folder, kept.first_step, last_step)
            loop.train(
                distiller,
                make_stream,
                kept,
                first_step=kept.first_step,
                last_step=last_step,
                steps_per_epoch=steps_per_epoch,
                steps_per_call=config.steps_per_call,
                interval=loop.Interval(config.checkpoint_every),
                profile=profile,
            )
        return kept.finish()


def _profile(config, folder, first_step, last_step):
    steps = grammar.parse_step_range(config.profile_steps)
    if steps and steps[1] > last_step:
        raise input_error(
            "--profile_steps lies beyond the run",
            expected=f"steps 1 to {last_step}",
            received=f"--profile_steps={config.profile_steps}",
            remedy="Choose earlier ones",
        )
    if steps and steps[0] <= first_step:
        warn(f"--profile_steps={config.profile_steps} traces nothing: the run resumes at step {first_step}.")
    return loop.Profile(steps, folder / "tensorboard")
