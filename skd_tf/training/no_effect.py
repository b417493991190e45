"""Settings that the others leave without effect: accepted, and named in a line each."""

from collections.abc import Collection

from skd_tf.config import Config
from skd_tf.errors import as_text
from skd_tf.losses.names import facts_of


def lines(config: Config, own_arguments: Collection[str] | None = None) -> list[str]:
    """A line for each setting that is not the default and changes nothing in this run.

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
    if not config.unlabelled:
        unused.append(("unlabelled_share", "unlabelled"))
    if not config.feature_pairs:
        unused += [("feature_weight", "feature_pairs"), ("feature_loss", "feature_pairs")]
    if facts.needs_teacher:
        takes = facts.arguments if own_arguments is None else own_arguments
        unused += [(name, "loss") for name in ("temperature", "radius", "center") if name not in takes]
    value, default = (lambda name: f"--{name}={as_text(getattr(config, name))}"), Config()
    changed = [pair for pair in unused if getattr(config, pair[0]) != getattr(default, pair[0])]
    return [f"{value(name)} has no effect with {value(other)}" for name, other in changed]
