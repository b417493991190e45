"""Settings that the others leave without effect: accepted, and named."""

from collections.abc import Collection

from skd_tf.config import Config
from skd_tf.errors import as_text
from skd_tf.losses.names import facts_of
from skd_tf.networks.names import NETWORK_NAMES
from skd_tf.runtime import user_code

# --teacher_cache_epochs and its folder are not here: with any loss, these epochs of augmented images are repeated.
_OF_A_TEACHER = (
    *("student_alone", "teacher", "teacher_checkpoint", "teacher_weights", "teacher_flagfile"),
    *("teacher_precision", "teacher_preprocessing"),
)
_OF_DISTILLING = ("temperature", "kd_weight", "label_weight", "radius", "center")


def lines(config: Config, own_arguments: Collection[str] | None = None) -> list[str]:
    """Lines about the settings that are not the default and change nothing in this run, one line for each cause.

    Args:
      config: of the run.
      own_arguments: those of a loss function of the user's own; None if it is not loaded, or a loss of the package.

    Example:
      >>> lines(Config(optimizer="adamw", nesterov=True, epochs=3, early_stopping_patience=3))
      ['--nesterov=true has no effect with --optimizer=adamw', '--early_stopping_patience=3 has no effect with --epochs=3']
    """
    facts, unused = facts_of(config.loss), []
    if config.optimizer != "sgd":
        unused += [("momentum", "optimizer"), ("nesterov", "optimizer")]
    elif not config.momentum:
        unused.append(("nesterov", "momentum"))
    if config.early_stopping_patience >= config.epochs:
        unused.append(("early_stopping_patience", "epochs"))
    if config.warmup_epochs is not None and config.min_warmup_steps:
        unused.append(("min_warmup_steps", "warmup_epochs"))
    if config.student in NETWORK_NAMES or user_code.published(config.student):  # they contain their preprocessing
        unused.append(("student_preprocessing", "student"))
    if not config.unlabelled:
        unused.append(("unlabelled_share", "unlabelled"))
    if not config.feature_pairs:
        unused += [("feature_weight", "feature_pairs"), ("feature_loss", "feature_pairs")]
    if config.virtual_devices and config.strategy == "one_device":
        unused.append(("virtual_devices", "strategy"))
    if not config.teacher_cache_dir:
        unused.append(("teacher_cache_dtype", "teacher_cache_dir"))
    if config.teacher_checkpoint:
        unused.append(("teacher_flagfile", "teacher_checkpoint"))
    if config.teacher_checkpoint and config.teacher not in NETWORK_NAMES:  # a loaded teacher is compared with these
        unused.append(("teacher", "teacher_checkpoint"))
    if not config.needs_teacher:
        unused += [(name, "teacher" if facts.needs_teacher else "loss") for name in _OF_A_TEACHER]
    if not facts.needs_teacher:
        unused += [(name, "loss") for name in _OF_DISTILLING]
    else:
        takes = facts.arguments if own_arguments is None else own_arguments
        unused += [(name, "loss") for name in ("temperature", "radius", "center") if name not in takes]
    value, default = (lambda name: f"--{name}={as_text(getattr(config, name))}"), Config()
    found: dict[str, list[str]] = {}
    for name, other in unused:
        if getattr(config, name) != getattr(default, name):
            cause = f"without --{other}" if getattr(config, other) == "" else f"with {value(other)}"
            found.setdefault(cause, []).append(value(name))
    return [f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no effect {c}" for c, names in found.items()]
