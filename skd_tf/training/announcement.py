"""What a run prints before its first step: what is trained, on what, and what is unusual about the settings."""

from skd_tf.config import Config
from skd_tf.data import unlabelled as mixed_batches
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import as_text, counted
from skd_tf.losses import sphere_geometry
from skd_tf.runtime import devices, replicas, user_code
from skd_tf.runtime.console import detail, warn
from skd_tf.training import no_effect, short_runs, sphere_limits
from skd_tf.training.resources import SharedResources


def announce(config: Config, resources: SharedResources, distiller: Distiller, steps_per_epoch: int) -> None:
    """Prints what is trained, on what, and what is unusual about the settings."""
    dataset, replica_count = resources.dataset, resources.strategy.num_replicas_in_sync
    detail(
        f"{config.student} on {dataset.name} {dataset.version}: {counted(len(dataset.train), 'image')}, "
        f"{counted(config.epochs, 'epoch')} x {counted(steps_per_epoch, 'step')}, batch {config.batch_size} = {replica_count} x "
        f"{config.batch_size // replica_count}, loss {config.loss}, XLA {'on' if distiller.xla else 'off'} "
        f"({distiller.xla_reason}). Deterministic: {replicas.determinism()}."
    )
    if dataset.unlabelled:
        detail(
            f"{config.unlabelled_batch} images of each batch come from the {counted(len(dataset.unlabelled.train), 'image')} "
            f"of {dataset.unlabelled.name}; all of them are used once in "
            f"{counted(mixed_batches.steps_per_pass(dataset, config.unlabelled_batch), 'step')}."
        )
    authors = {
        name: value for name, value in distiller.objective.loss.defaults.items() if getattr(config, name) != value
    }
    if authors:
        ours = (f"--{name}={as_text(getattr(config, name))} (theirs: {value})" for name, value in authors.items())
        detail(f"These settings differ from those of the authors of {config.loss}: {', '.join(ours)}.")
    slow = devices.half_precision_warning((config.precision, *config.teacher_precision.split(",")))
    if slow:
        warn(slow)
    own = distiller.objective.accepted if user_code.is_reference(config.loss) else None
    for line in no_effect.lines(config, own):
        warn(f"{line}.")
    if distiller.features is not None:
        count = sum(variable.value.shape.num_elements() for variable in distiller.features.trainable_variables)
        detail(f"Features {config.feature_pairs}: {config.feature_loss}, projectors of {counted(count, 'parameter')}.")
    if distiller.objective.loss.readout == "sphere":
        radius = float(distiller.radius.numpy())
        top = sphere_geometry.top_probability(dataset.num_classes, radius, config.temperature)
        detail(
            f"Radius {radius:.4g} ({config.radius}), temperature {config.temperature:g}: top probability at most {top:.3f}."
        )
        if config.gradient_scale != "none":
            detail("Gradient: times the mean norm of the student's logits in the batch, divided by the radius.")
    for line in warnings(config, distiller, dataset.num_classes, steps_per_epoch):
        warn(line)


def warnings(config: Config, distiller: Distiller, classes: int, steps_per_epoch: int) -> list[str]:
    """What a run warns of before it trains, and repeats in its result: settings with which it may go wrong."""
    found = short_runs.warnings(config, config.epochs * steps_per_epoch)
    if distiller.objective.loss.readout == "sphere":
        if config.gradient_scale != "none" and distiller.student.losses:
            found.append(
                "--gradient_scale also scales the gradient of the student's own regularizers, but not --weight_decay."
            )
        found += sphere_limits.warnings(config, float(distiller.radius.numpy()), classes)
    return found
