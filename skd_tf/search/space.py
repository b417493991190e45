"""The space of a search: which settings, over which values. TensorFlow and keras-tuner are not imported here."""

import dataclasses

from skd_tf.config.fields import kinds_of, validate
from skd_tf.config.flags import FIELDS
from skd_tf.errors import as_text, did_you_mean, input_error
from skd_tf.losses.names import LOSS_FACTS

# Data, teacher and machine are shared by all trials, and so cannot be searched.
SEARCHABLE = (
    "student",
    "loss",
    "temperature",
    "kd_weight",
    "label_weight",
    "radius",
    "center",
    "loss_settings",
    "epochs",
    "batch_size",
    "learning_rate",
    "lr_schedule",
    "warmup_epochs",
    "optimizer",
    "momentum",
    "nesterov",
    "weight_decay",
    "clip_norm",
    "label_smoothing",
    "ema_momentum",
    "seed",
    "precision",
    "sync_batch_norm",
    "teacher_cache_epochs",
)
_DISTILLING = tuple(loss for loss, facts in LOSS_FACTS.items() if facts.needs_teacher)
READ_BY = {  # what not every loss, or not every optimizer, reads -> which of the two, and those that do
    **{
        name: ("loss", tuple(loss for loss, facts in LOSS_FACTS.items() if name in facts.arguments))
        for name in ("temperature", "radius", "center")
    },
    **dict.fromkeys(("kd_weight", "label_weight"), ("loss", _DISTILLING)),
    **dict.fromkeys(("momentum", "nesterov"), ("optimizer", ("sgd",))),
}
GRAMMAR = (
    "NAME:log:LOW:HIGH[:COUNT], NAME:linear:LOW:HIGH[:COUNT], NAME:int:LOW:HIGH[:COUNT], NAME:choice:A,B,... "
    "or, where values hold commas, NAME:choice:A|B|..."
)
_NUMBER_KINDS = {"log": float, "linear": float, "int": int}
_PLACES = {  # part of the way from low to high, between 0 and 1 -> value
    "log": lambda low, high, part: low * (high / low) ** part,
    "linear": lambda low, high, part: low + (high - low) * part,
    "int": lambda low, high, part: round(low + (high - low) * part),
}


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One searched setting.

    Attributes:
      name: of a Config field.
      kind: "log", "linear", "int" or "choice".
      ends: (low, high) of a range; () for a choice.
      values: the values, as Config holds them, where there is a list of them; () for all numbers of the range.
    """

    name: str
    kind: str
    ends: tuple
    values: tuple

    def declare(self, parameters):
        """Adds it to keras_tuner.HyperParameters; returns the value there, as `value` reads it."""
        if self.values:  # texts: keras-tuner's choices are of one type, and numbers lose digits between its processes
            return parameters.Choice(self.name, [as_text(value) for value in self.values])
        if self.kind == "int":
            return parameters.Int(self.name, *self.ends)
        return parameters.Float(self.name, *self.ends, sampling=self.kind)

    def value(self, drawn):
        """keras-tuner's value as Config holds it."""
        return validate(FIELDS[self.name], drawn)

    def drawn(self, value):
        """Config's value as keras-tuner holds it."""
        return as_text(value) if self.values else value

    def __contains__(self, value):
        if self.values:
            return value in self.values
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and self.ends[0] <= value <= self.ends[1]

    @property
    def text(self):
        """The --search that means the same."""
        if self.kind == "choice":
            texts = [as_text(value) for value in self.values]
            return f"{self.name}:choice:{('|' if any(',' in text for text in texts) else ',').join(texts)}"
        count = f":{len(self.values)}" if self.values else ""
        return f"{self.name}:{self.kind}:{self.ends[0]}:{self.ends[1]}{count}"


def parse_space(texts, config):
    """The dimensions of several --search, each setting once, and each read by a student of the search at least."""
    space = [parse_dimension(text, config) for text in texts]
    names = [dimension.name for dimension in space]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise input_error(
            "A setting is searched twice",
            expected="each name in one --search",
            received=f"--search={twice}:..",
            remedy="twice. Join the two.",
        )
    if not space:
        raise _not_understood("", "is missing", "Add for example --search=temperature:log:1:16")
    for dimension in space:
        _require_reader(dimension, space, config)
    return tuple(space)


def _require_reader(dimension, space, config):
    """InputError where no loss, or no optimizer, of the search reads a setting: its trials would be one student's."""
    which, readers = READ_BY.get(dimension.name, ("", ()))
    if not which:
        return
    searched = next((other for other in space if other.name == which), None)
    if not set(readers) & set(searched.values if searched else [getattr(config, which)]):
        given = f"--search={searched.text}" if searched else f"--{which}={getattr(config, which)}"
        raise input_error(
            f"No {which} of this search reads --{dimension.name}: all its values would train the same student",
            expected=f"--{which}={' or '.join(readers)}",
            received=f"--search={dimension.text} with {given}",
            remedy="Leave one of the two out",
        )


def parse_dimension(text, config):
    """Reads one --search, its values checked as values of that setting beside the rest of the Config.

    Raises:
      InputError: text outside the grammar, an unknown setting, or a value that the setting does not take.
    """
    name, _, rest = text.partition(":")
    kind, _, values = rest.partition(":")
    if name not in SEARCHABLE:
        raise input_error(
            "--search names no setting that can be searched",
            expected=f"NAME one of {', '.join(SEARCHABLE)}",
            received=f"--search={text}",
            remedy=f"{did_you_mean(name, SEARCHABLE, 'Correct the name.')}",
        )
    if kind == "choice":
        return _choice(text, name, values, config)
    if kind not in _NUMBER_KINDS:
        raise _not_understood(text, "is not in its grammar", "Write for example --search=temperature:log:1:16")
    if kind != "int" and float not in kinds_of(FIELDS[name]):
        remedy = f"Use {name}:int:..." if int in kinds_of(FIELDS[name]) else f"Use {name}:choice:..."
        raise _not_understood(text, f"asks for fractions of --{name}, which takes none", remedy)
    if not {int, float} & kinds_of(FIELDS[name]):
        raise _not_understood(text, f"asks for numbers of --{name}, which takes none", f"Use {name}:choice:...")
    example = f"Write for example --search={name}:{kind}:1:16"
    try:
        low, high, *count = values.split(":")
        low, high, count = _NUMBER_KINDS[kind](low), _NUMBER_KINDS[kind](high), [int(number) for number in count]
    except ValueError as error:
        raise _not_understood(text, "has no two numbers LOW:HIGH", example) from error
    if not low < high or (kind == "log" and low <= 0):
        above = " and LOW > 0" if kind == "log" else ""
        raise _not_understood(text, "has ends out of order", f"Let LOW < HIGH{above}")
    if count and (len(count) > 1 or count[0] < 2):
        raise _not_understood(text, "has no whole COUNT of at least 2", f"{example}:5")
    ends = tuple(_NUMBER_KINDS[kind](_accepted(config, name, end)) for end in (low, high))
    places = [_PLACES[kind](low, high, i / (count[0] - 1)) for i in range(count[0])] if count else []
    points = [low, *(float(f"{place:.6g}") for place in places[1:-1]), high] if places else []
    return Dimension(name, kind, ends, tuple(dict.fromkeys(_accepted(config, name, point) for point in points)))


def _choice(text, name, values, config):
    pieces = [piece.strip() for piece in values.split("|" if "|" in values else ",")]
    values = tuple(_accepted(config, name, piece) for piece in pieces)
    if len(set(values)) < len(values) or len(values) < 2:
        raise _not_understood(text, "has one value twice, or only one", "Give at least two, each once")
    return Dimension(name, "choice", (), values)


def _accepted(config, name, value):
    return getattr(config.replace(**{name: value}), name)


def _not_understood(text, problem, remedy):
    return input_error(f"--search {problem}", expected=f"{GRAMMAR}", received=f"--search={text}", remedy=f"{remedy}")
