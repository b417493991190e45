"""The space of a search: which settings take which values. Imports neither TensorFlow nor keras-tuner."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from skd_tf.config import Config
from skd_tf.config.fields import kinds_of, validate
from skd_tf.config.flags import FIELDS
from skd_tf.errors import as_text, did_you_mean, flag_error, input_error
from skd_tf.losses.names import LOSS_FACTS

if TYPE_CHECKING:
    import keras_tuner

# The settings of data, teacher and machine are missing here: all trials share them.
SEARCHABLE = (
    "student",
    "loss",
    "temperature",
    "kd_weight",
    "label_weight",
    "radius",
    "center",
    "gradient_scale",
    "loss_settings",
    "feature_pairs",
    "feature_weight",
    "feature_loss",
    "epochs",
    "batch_size",
    "learning_rate",
    "lr_schedule",
    "warmup_epochs",
    "min_warmup_steps",
    "optimizer",
    "momentum",
    "nesterov",
    "weight_decay",
    "layer_rates",
    "clip_norm",
    "label_smoothing",
    "unlabelled_share",
    "ema_momentum",
    "seed",
    "precision",
    "sync_batch_norm",
    "teacher_weights",
    "teacher_cache_epochs",
    "teacher_cache_top",
)
_DISTILLING = tuple(loss for loss, facts in LOSS_FACTS.items() if facts.needs_teacher)
# A setting that only some losses, optimizers or pairs of layers read -> (that setting, its values that read it).
READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        name: ("loss", tuple(loss for loss, facts in LOSS_FACTS.items() if name in facts.arguments))
        for name in ("temperature", "radius", "center", "teacher_weights")
    },
    "gradient_scale": ("loss", tuple(loss for loss, facts in LOSS_FACTS.items() if facts.probabilities == "sphere")),
    **dict.fromkeys(("kd_weight", "label_weight"), ("loss", _DISTILLING)),
    **dict.fromkeys(("momentum", "nesterov"), ("optimizer", ("sgd",))),
    **dict.fromkeys(("feature_weight", "feature_loss"), ("feature_pairs", ("TEACHER_LAYER:STUDENT_LAYER",))),
}
GRAMMAR = (
    "NAME:log:LOW:HIGH[:COUNT], NAME:linear:LOW:HIGH[:COUNT], NAME:int:LOW:HIGH[:COUNT], NAME:choice:A,B,... "
    "or, where values hold commas, NAME:choice:A|B|..."
)
_NUMBER_KINDS = {"log": float, "linear": float, "int": int}
_INTERPOLATION: dict[str, Callable[[float, float, float], float]] = {  # (low, high, fraction in [0, 1]) -> value
    "log": lambda low, high, fraction: low * (high / low) ** fraction,
    "linear": lambda low, high, fraction: low + (high - low) * fraction,
    "int": lambda low, high, fraction: round(low + (high - low) * fraction),
}


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One searched setting.

    Attributes:
      name: name of the `Config` field.
      kind: "log", "linear", "int" or "choice".
      ends: (low, high) of a range, both included; () for a choice.
      values: the values as `Config` holds them, if they are listed; () for all numbers of the range.
    """

    name: str
    kind: str
    ends: tuple[float, ...]
    values: tuple[Any, ...]

    def declare(self, parameters: "keras_tuner.HyperParameters") -> Any:
        """Adds the setting to keras-tuner's hyperparameters; returns its value there, which `to_config` converts."""
        if self.values:
            # As texts: keras-tuner requires choices of one type, and its processes send numbers as float32.
            return parameters.Choice(self.name, [as_text(value) for value in self.values])
        if self.kind == "int":
            return parameters.Int(self.name, *self.ends)
        return parameters.Float(self.name, *self.ends, sampling=self.kind)

    def to_config(self, drawn: Any) -> Any:
        """keras-tuner's value as `Config` holds it."""
        return validate(FIELDS[self.name], drawn)

    def to_keras_tuner(self, value: Any) -> Any:
        """`Config`'s value as keras-tuner holds it."""
        if self.values:
            return as_text(value)
        return int(value) if self.kind == "int" and value == int(value) else value

    def place_of(self, value: Any) -> float:
        """Where a value lies between the ends, from 0 to 1; the middle of its part of a list."""
        if self.values:
            return (self.values.index(value) + 0.5) / len(self.values)
        low, high = self.ends
        if self.kind == "log":
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def __contains__(self, value: Any) -> bool:
        if self.values:
            return value in self.values
        return is_number(value) and self.ends[0] <= value <= self.ends[1]

    @property
    def text(self) -> str:
        """The dimension in the grammar of --search."""
        if self.kind == "choice":
            texts = [as_text(value) for value in self.values]
            return f"{self.name}:choice:{('|' if any(',' in text for text in texts) else ',').join(texts)}"
        count = f":{len(self.values)}" if self.values else ""
        return f"{self.name}:{self.kind}:{self.ends[0]}:{self.ends[1]}{count}"


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def parse_space(texts: Iterable[str], config: Config) -> tuple[Dimension, ...]:
    """Reads all --search flags.

    Raises:
      InputError: no flag, an invalid one, a setting searched twice, or one that no student of the search reads.
    """
    space = tuple(parse_dimension(text, config) for text in texts)
    names = [dimension.name for dimension in space]
    twice = [dimension for dimension in space if names.count(dimension.name) > 1]
    if twice:
        raise input_error(
            "A setting is searched twice",
            expected="each name in one --search",
            received=" and ".join(f"--search={dimension.text}" for dimension in twice),
            remedy="Keep one. If a flagfile or recipe already searches it, drop yours, or change a copy of that file",
        )
    if not space:
        raise _refusal("", "is missing", "Add --search=temperature:log:1:16, for example")
    for dimension in space:
        _require_reader(dimension, space, config)
    return space


def _require_reader(dimension, space, config):
    """InputError if no loss, optimizer or pair of layers of the search reads a setting."""
    which, readers = READ_BY.get(dimension.name, ("", ()))
    if not which:
        return
    searched = next((other for other in space if other.name == which), None)
    values = searched.values if searched else [getattr(config, which)]
    # A loss of your own can read any of them, and all pairs of layers read theirs.
    own = any(value and value not in LOSS_FACTS for value in values) and which != "optimizer"
    given = f"--search={searched.text}" if searched else f"--{which}={getattr(config, which)}"
    if dimension.name == "gradient_scale" and not set(values) <= set(readers):
        raise input_error(
            "--gradient_scale is only for a loss on the sphere",
            expected=f"--loss={' or '.join(readers)} in all trials",
            received=f"--search={dimension.text} with {given}",
            remedy="Search the losses and the gradient's scale one after the other",
        )
    if not own and not set(readers) & set(values):
        raise input_error(
            f"No {which} in this search reads --{dimension.name}, so all its values train the same student",
            expected=f"--{which}={' or '.join(readers)}",
            received=f"--search={dimension.text} with {given}",
            remedy="Remove one of the two",
        )


def parse_dimension(text: str, config: Config) -> Dimension:
    """Reads one --search flag. Each value is checked together with the other settings of the Config.

    Raises:
      InputError: text outside the grammar, an unknown setting, or a value that the setting does not accept.
    """
    name, _, rest = text.partition(":")
    kind, _, values = rest.partition(":")
    if name not in SEARCHABLE:
        remedy = did_you_mean(name, SEARCHABLE, "Correct the name")
        raise flag_error("search", text, "names no setting to search", f"one of {', '.join(SEARCHABLE)}", remedy)
    if kind == "choice":
        return _choice(text, name, values, config)
    if kind not in _NUMBER_KINDS:
        raise _refusal(text, "does not follow its grammar", "Write --search=temperature:log:1:16, for example")
    accepted = kinds_of(FIELDS[name])
    if kind != "int" and float not in accepted:
        raise _refusal(
            text, f"asks for fractions of --{name}", f"Use {name}:{'int' if int in accepted else 'choice'}:..."
        )
    if not {int, float} & accepted:
        raise _refusal(text, f"asks for numbers of --{name}", f"Use {name}:choice:...")
    example = f"Write --search={name}:{kind}:1:16"
    number = _NUMBER_KINDS[kind]
    try:
        first, last, *counts = values.split(":")
        low, high, count = number(first), number(last), [int(piece) for piece in counts]
    except ValueError as error:
        raise _refusal(text, "does not give two numbers LOW:HIGH", f"{example}, for example") from error
    if not low < high or (kind == "log" and low <= 0):
        raise _refusal(text, "has ends out of order", f"Let LOW < HIGH{' and LOW > 0' * (kind == 'log')}")
    if count and (len(count) > 1 or count[0] < 2):
        raise _refusal(text, "needs a whole COUNT of at least 2", f"{example}:5, for example")
    ends = tuple(number(_validated(config, name, end)) for end in (low, high))
    inner = [_INTERPOLATION[kind](low, high, i / (count[0] - 1)) for i in range(1, count[0] - 1)] if count else []
    points = [low, *(float(f"{value:.6g}") for value in inner), high] if count else []
    return Dimension(name, kind, ends, tuple(dict.fromkeys(_validated(config, name, point) for point in points)))


def _choice(text, name, listed, config):
    pieces = [piece.strip() for piece in listed.split("|" if "|" in listed else ",")]
    values = tuple(_validated(config, name, piece) for piece in pieces)
    if len(set(values)) < len(values) or len(values) < 2:
        raise _refusal(text, "repeats a value or has only one", "List at least two different values")
    return Dimension(name, "choice", (), values)


def _validated(config, name, value):
    return getattr(config.replace(**{name: value}), name)


def _refusal(text, problem, remedy):
    return flag_error("search", text, problem, GRAMMAR, remedy)
