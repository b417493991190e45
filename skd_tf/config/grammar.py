"""The grammars of text settings: text to structure, and structure to its one canonical text.

Epochs count from 0 and may be fractions: "0.5 from epoch 60" holds from the 61st epoch on.
"""

import itertools
import re
from typing import Any, NamedTuple

from skd_tf.errors import as_text, did_you_mean, flag_error
from skd_tf.losses.teacher_shares import teacher_shares

WEIGHT = (
    'a number >= 0, steps as "0.9, 0.5 from epoch 60, 0.1 from epoch 80", or a ramp as "linear 0 to 1 over '
    '20 epochs" or "cosine 1 to 0 over 240 epochs"'
)
LR_SCHEDULE = "constant, cosine, linear, or multistep:EPOCH,EPOCH,...[:FACTOR] (the factor is 0.1 unless given)"
LOSS_SETTINGS = 'numbers >= 0 by name, as "beta=2" or "alpha=1, beta=2"'
INTERVAL = '"epoch", "N steps" (or just N) or "N seconds" (or Ns)'
TEACHER_WEIGHTS = "numbers > 0, one for each of several teachers, as 2,1; or nothing, if all are equal"
STEP_RANGE = "A,B: two step numbers with 1 <= A <= B, or nothing"
LAYER_RATES = 'regular expressions of layer names with factors >= 0, as "^logits: 10, ^stage[12]_: 0.1", or nothing'
FEATURE_PAIRS = "TEACHER_LAYER:STUDENT_LAYER, with commas between several pairs, or nothing"

_NUMBER = r"(\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?)"
_STEP = re.compile(rf"{_NUMBER} from epoch {_NUMBER}")
_RAMP = re.compile(rf"(linear|cosine) {_NUMBER} to {_NUMBER} over {_NUMBER} epochs?")
_MULTISTEP = re.compile(rf"multistep ?: ?({_NUMBER}(?: ?, ?{_NUMBER})*)(?: ?: ?{_NUMBER})?")
_SETTING = re.compile(rf"([a-z_]\w*) ?= ?{_NUMBER}", re.IGNORECASE)
_LAYER_RATE = re.compile(rf"\s*(\S.*?)\s*:\s*{_NUMBER}\s*(?:,|$)")
_STEP_RANGE = re.compile(r"(\d+) ?, ?(\d+)")
_INTERVAL = re.compile(rf"{_NUMBER} ?(steps?|seconds?|s|)")


class StepwiseWeight(NamedTuple):
    """A weight that is values[i] from epochs[i] on; epochs[0] is 0."""

    epochs: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.values), max(self.values)

    @property
    def text(self) -> str:
        """The canonical text."""
        rest = [f", {_short(v)} from epoch {_short(e)}" for e, v in zip(self.epochs[1:], self.values[1:], strict=True)]
        return _short(self.values[0]) + "".join(rest)


class RampWeight(NamedTuple):
    """A weight that goes from `first` to `last` in the first `epochs` epochs, and stays there."""

    shape: str
    first: float
    last: float
    epochs: float

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.first, self.last), max(self.first, self.last)

    @property
    def text(self) -> str:
        """The canonical text."""
        return f"{self.shape} {_short(self.first)} to {_short(self.last)} over {_short(self.epochs)} epochs"


class RateSchedule(NamedTuple):
    """A learning rate schedule: its kind; for multistep the epochs at which the rate is multiplied by a factor."""

    kind: str
    epochs: tuple[float, ...] = ()
    factor: float = 0.1

    @property
    def text(self) -> str:
        """The canonical text."""
        if self.kind != "multistep":
            return self.kind
        factor = "" if self.factor == 0.1 else f":{_short(self.factor)}"
        return f"multistep:{','.join(map(_short, self.epochs))}{factor}"


def parse_weight(value: float | str, name: str = "weight") -> StepwiseWeight | RampWeight:
    """Reads a loss weight, constant or scheduled.

    Args:
      value: a number, or text in the grammar `WEIGHT`.
      name: of the setting, for the error.

    Returns:
      A `StepwiseWeight`, with one step for a constant, or a `RampWeight`.

    Raises:
      InputError: the text does not follow the grammar, or the epochs do not increase.

    Examples:
      >>> parse_weight("0.9, 0.5 from epoch 60")
      StepwiseWeight(epochs=(0.0, 60.0), values=(0.9, 0.5))
    """
    remedy = f"Write for example --{name}=0.9"
    text = _plain(value)
    ramp = _RAMP.fullmatch(text)
    if ramp:
        result = RampWeight(ramp[1], float(ramp[2]), float(ramp[3]), float(ramp[4]))
        if not 0 < result.epochs < float("inf") or result.extremes[1] == float("inf"):
            raise flag_error(name, value, "has a ramp without length or to infinity", WEIGHT, remedy)
        return result
    constant, *rest = [piece.strip() for piece in text.split(",")]
    steps = [step for step in map(_STEP.fullmatch, rest) if step]
    if not re.fullmatch(_NUMBER, constant) or len(steps) < len(rest):
        raise flag_error(name, value, "is not a weight", WEIGHT, remedy)
    values = (float(constant), *(float(step[1]) for step in steps))
    epochs = (0.0, *(float(step[2]) for step in steps))
    if max(values + epochs) == float("inf"):
        raise flag_error(name, value, "is infinite", WEIGHT, remedy)
    _check_increasing(name, value, epochs, WEIGHT)
    return StepwiseWeight(epochs, values)


def parse_lr_schedule(value: str, name: str = "lr_schedule") -> RateSchedule:
    """Reads text in the grammar `LR_SCHEDULE`. Raises InputError for anything else."""
    text = _plain(value)
    smooth = ("constant", "cosine", "linear")
    if text in smooth:
        return RateSchedule(text)
    match = _MULTISTEP.fullmatch(text)
    if not match:
        remedy = did_you_mean(text.partition(":")[0], smooth, f"Write for example --{name}=cosine")
        raise flag_error(name, value, "is not a schedule", LR_SCHEDULE, remedy)
    epochs = tuple(float(epoch) for epoch in match[1].split(","))
    factor = float(match.groups()[-1] or 0.1)
    if not 0 < factor < float("inf") or max(epochs) == float("inf"):
        raise flag_error(name, value, "has a factor or an epoch out of range", LR_SCHEDULE, "Give finite numbers > 0")
    _check_increasing(name, value, (0.0, *epochs), LR_SCHEDULE)
    return RateSchedule("multistep", epochs, factor)


def parse_loss_settings(value: str, name: str = "loss_settings") -> dict[str, float]:
    """Reads text in the grammar `LOSS_SETTINGS` into {name: number}, sorted. Raises InputError for anything else."""
    text = " ".join(value.split())  # the names of a function's arguments keep their capital letters
    matches = [_SETTING.fullmatch(piece.strip()) for piece in text.split(",")] if value else []
    settings = {match[1]: float(match[2]) for match in matches if match}
    if len(settings) != len(matches) or float("inf") in settings.values():
        remedy = f'Write for example --{name}="beta=2", each name once'
        raise flag_error(name, value, "is not a list of loss settings", LOSS_SETTINGS, remedy)
    return dict(sorted(settings.items()))


def parse_teacher_weights(value: str, name: str = "teacher_weights") -> tuple[float, ...]:
    """Reads text in the grammar `TEACHER_WEIGHTS`; () if it is empty. Raises InputError for anything else."""
    parts = [part.strip() for part in _plain(value).split(",")] if value else []
    weights = tuple(float(part) for part in parts if re.fullmatch(_NUMBER, part))
    if len(weights) < len(parts) or not all(0 < weight < float("inf") for weight in weights):
        remedy = f"Write for example --{name}=2,1"
        raise flag_error(name, value, "is not a list of weights", TEACHER_WEIGHTS, remedy)
    return weights


def shares_of(value: str) -> tuple[float, ...]:
    """The weights of teachers divided by their sum; () if they are equal. Equal results lead to equal targets."""
    weights = parse_teacher_weights(value)
    return teacher_shares(weights, len(weights)) if len(set(weights)) > 1 else ()


def parse_interval(value: str, name: str = "checkpoint_every") -> tuple[float, str]:
    """Reads text in the grammar `INTERVAL` into (count, "epoch", "steps" or "seconds"). Raises InputError otherwise."""
    text = _plain(value)
    if text == "epoch":
        return 1, "epoch"
    match = _INTERVAL.fullmatch(text)
    count = float(match[1]) if match else 0.0
    unit = "steps" if match and match[2] in ("", "step", "steps") else "seconds"
    if not 0 < count < float("inf") or (unit == "steps" and not count.is_integer()):
        raise flag_error(name, value, "is not an interval", INTERVAL, f"Write for example --{name}='30 seconds'")
    return (int(count) if unit == "steps" else count), unit


def parse_step_range(value: str, name: str = "profile_steps") -> tuple[int, int] | None:
    """Reads text in the grammar `STEP_RANGE` into (first, last); None if it is empty. Raises InputError otherwise."""
    text = _plain(value)
    if not text:
        return None
    match = _STEP_RANGE.fullmatch(text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise flag_error(name, value, "is not a range of steps", STEP_RANGE, f"Write for example --{name}=100,110")
    return int(match[1]), int(match[2])


def parse_feature_pairs(value: str, name: str = "feature_pairs") -> tuple[tuple[str, str], ...]:
    """Reads text in the grammar `FEATURE_PAIRS` into pairs of layer names. Raises InputError for anything else.

    Examples:
      >>> parse_feature_pairs("stage2_relu:stage1_relu, stage3_relu:stage2_relu")
      (('stage2_relu', 'stage1_relu'), ('stage3_relu', 'stage2_relu'))
    """
    pieces = [piece.split(":") for piece in value.split(",")] if value.strip() else []
    pairs = tuple((piece[0].strip(), piece[-1].strip()) for piece in pieces if len(piece) == 2)
    if len(pairs) < len(pieces) or not all(map(all, pairs)):
        remedy = f"Write for example --{name}=stage3_relu:stage2_relu; --list_layers prints the names"
        raise flag_error(name, value, "is not a list of pairs of layers", FEATURE_PAIRS, remedy)
    if len({*pairs}) < len(pairs):
        raise flag_error(name, value, "has a pair twice", FEATURE_PAIRS, "Drop one of the two")
    return pairs


def parse_layer_rates(value: str, name: str = "layer_rates") -> dict[str, float]:
    """Reads text in the grammar `LAYER_RATES` into {regular expression: factor}. Raises InputError for anything else.

    Examples:
      >>> parse_layer_rates("^logits: 10, ^stage[12]_: .1")
      {'^logits': 10.0, '^stage[12]_': 0.1}
    """
    rates, end = {}, 0
    while value[end:].strip():
        piece = _LAYER_RATE.match(value, end)
        if not piece or not float(piece[2]) < float("inf"):
            remedy = f'Write for example --{name}="^logits: 10"'
            raise flag_error(name, value, "is not a list of layers and factors", LAYER_RATES, remedy)
        if piece[1] in rates:
            raise flag_error(name, value, f"has {piece[1]} twice", LAYER_RATES, "Drop one of the two")
        try:
            re.compile(piece[1])
        except re.error as error:
            problem = f"has an expression that does not parse ({error})"
            raise flag_error(name, value, problem, LAYER_RATES, "Correct it") from error
        rates[piece[1]], end = float(piece[2]), piece.end()
    return rates


# The canonical form of each, as `FieldSpec.check` wants it.


def canonical_weight(name: str, value: Any) -> float | str:
    """A constant as a float, a schedule as text."""
    parsed = parse_weight(value, name)
    return parsed.values[0] if isinstance(parsed, StepwiseWeight) and len(parsed.values) == 1 else parsed.text


def canonical_lr_schedule(name: str, value: str) -> str:
    """As in "multistep:150,180"."""
    return parse_lr_schedule(value, name).text


def canonical_loss_settings(name: str, value: str) -> str:
    """As in "alpha=1, beta=2"."""
    return ", ".join(f"{setting}={_short(number)}" for setting, number in parse_loss_settings(value, name).items())


def canonical_teacher_weights(name: str, value: str) -> str:
    """As in "2,1"."""
    return ",".join(map(_short, parse_teacher_weights(value, name)))


def canonical_interval(name: str, value: str) -> str:
    """As in "epoch" or "100 steps"."""
    count, unit = parse_interval(value, name)
    return "epoch" if unit == "epoch" else f"{_short(count)} {unit}"


def canonical_feature_pairs(name: str, value: str) -> str:
    """As in "stage2_relu:stage1_relu, stage3_relu:stage2_relu"."""
    return ", ".join(map(":".join, parse_feature_pairs(value, name)))


def canonical_layer_rates(name: str, value: str) -> str:
    """As in "^logits: 10, ^stage[12]_: 0.1"."""
    return ", ".join(f"{pattern}: {_short(factor)}" for pattern, factor in parse_layer_rates(value, name).items())


def canonical_step_range(name: str, value: str) -> str:
    """As in "100,110"."""
    return ",".join(map(str, parse_step_range(value, name) or ()))


def _plain(value):
    return " ".join(as_text(value).lower().split())


def _short(number):
    return as_text(number).removesuffix(".0")


def _check_increasing(name, value, epochs, grammar):
    if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
        remedy = "Put them in order, each > 0 and given once"
        raise flag_error(name, value, "has epochs that do not increase", grammar, remedy)
