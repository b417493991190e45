"""What a run prints before its first step: what is trained, on what, and what is unusual about the settings."""

from skd_tf.config import Config
from skd_tf.data import unlabelled as mixed_batches
from skd_tf.distillation.distiller import Distiller
from skd_tf.errors import as_text, counted
from skd_tf.losses import sphere_geometry
from skd_tf.runtime import devices, replicas, user_code
from skd_tf.runtime.console import detail, warn
from skd_tf.training import no_effect, short_runs
from skd_tf.training.resources import SharedResources

# Below this the sphere can only express "perhaps": with 100 classes, R = 10 and T = 4 no class can exceed 0.11.
_LEAST_TOP_PROBABILITY = 0.25


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
    for line in short_runs.warnings(config, config.epochs * steps_per_epoch):
        warn(line)
    if distiller.features is not None:
        count = sum(variable.value.shape.num_elements() for variable in distiller.features.trainable_variables)
        detail(f"Features {config.feature_pairs}: {config.feature_loss}, projectors of {counted(count, 'parameter')}.")
    if distiller.objective.loss.readout == "sphere":
        announce_sphere(config, distiller, dataset.num_classes)


def announce_sphere(config: Config, distiller: Distiller, classes: int) -> None:
    radius = float(distiller.radius.numpy())
    top = sphere_geometry.top_probability(classes, radius, config.temperature)
    detail(
        f"Radius {radius:.4g} ({config.radius}), temperature {config.temperature:g}: top probability at most {top:.3f}."
    )
    if config.gradient_scale != "none":
        detail("Gradient: times the mean norm of the student's logits in the batch, divided by the radius.")
        if distiller.student.losses:
            warn("--gradient_scale also scales the gradient of the student's own regularizers, but not --weight_decay.")
    if top < _LEAST_TOP_PROBABILITY:
        warn(
            "--radius / --temperature is too small for the sphere to represent the teacher: "
            f"no class can exceed {top:.3f}. Lower --temperature or raise --radius."
        )
    weights = {name: float(getattr(distiller, name).numpy()) for name in ("kd_weight", "label_weight")}
    if classes > 2 and any(weights.values()):
        second = sphere_geometry.second_minimum_radius(classes, temperature=config.temperature, **weights)
        if radius > second:
            warn(
                f"R is {radius:.4g}. From R = {second:.3g} on, at this temperature and these weights, an image or a "
                "whole class can get stuck opposite its label (docs/sphere.md). Use a smaller --radius or a higher "
                "--temperature."
            )
