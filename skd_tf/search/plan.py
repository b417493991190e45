"""Plan: what is searched, how, and for which objective. TensorFlow and keras-tuner are not imported here."""

import dataclasses
import math

from skd_tf.config import Config
from skd_tf.errors import as_text, did_you_mean, input_error
from skd_tf.losses.names import LOSS_FACTS
from skd_tf.search.space import parse_space

TUNERS = ("random", "bayesian", "grid")
# What a run logs each epoch, and which way is better; None where neither way is better by itself.
OBJECTIVES = {
    "val_accuracy": "max",
    "val_nll": "min",
    "val_ece": "min",
    "loss": "min",
    "label_loss": "min",
    "distill_loss": "min",
    "accuracy": "max",
    "agreement": "max",
    "teacher_accuracy": "max",
    "student_logit_norm": None,
    "teacher_logit_norm": None,
    "radius_over_student_norm": None,
    "learning_rate": None,
    "kd_weight": None,
    "label_weight": None,
    "examples_per_second": "max",
    "input_wait_share": "min",
    "seconds": "min",
}


@dataclasses.dataclass(frozen=True)
class SearchObjective:
    """A logged value of the last epoch, and the direction that is better."""

    name: str
    direction: str

    def better(self, one, other):
        return one > other if self.direction == "max" else one < other

    @property
    def sign(self):
        """What values are multiplied by so that the smallest is the best."""
        return -1.0 if self.direction == "max" else 1.0


def parse_objective(text):
    """Reads --objective: NAME or NAME:min or NAME:max."""
    name, _, direction = text.partition(":")
    if name not in OBJECTIVES:
        raise input_error(
            "No run logs such a value",
            expected=f"one of {', '.join(OBJECTIVES)}",
            received=f"--objective={text}",
            remedy=f"{did_you_mean(name, list(OBJECTIVES), 'See metrics.jsonl of a run.')}",
        )
    direction = direction or OBJECTIVES[name]
    if direction not in ("min", "max"):
        raise input_error(
            "The objective needs a direction",
            expected=f"{name}:min or {name}:max",
            received=f"--objective={text}",
            remedy="Add one",
        )
    return SearchObjective(name, direction)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole search.

    Args:
      config: a `Config`; its values of what is searched are "the default" that the best is compared with.
      search: texts in the grammar of --search.
      tuner: "random", "bayesian" or "grid".
      objective: text in the grammar of --objective.
      max_trials: students to train at most; None: 10, or the whole grid.
      search_seed: of the settings drawn.
      executions_per_trial: students a trial, with seeds `config.seed`, `config.seed + 1`, ...

    Raises:
      InputError: whatever is wrong with any of them.
    """

    config: Config
    search: tuple
    tuner: str = "random"
    objective: str = "val_accuracy"
    max_trials: int | None = None
    search_seed: int = 0
    executions_per_trial: int = 1
    space: tuple = dataclasses.field(init=False, compare=False)
    goal: SearchObjective = dataclasses.field(init=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "space", parse_space(self.search, self.config))
        object.__setattr__(self, "goal", parse_objective(self.objective))
        if self.tuner not in TUNERS:
            raise input_error(
                "Unknown tuner",
                expected=f"one of {', '.join(TUNERS)}",
                received=f"--tuner={self.tuner}",
                remedy=f"{did_you_mean(self.tuner, TUNERS, 'Choose random.')}",
            )
        for name in ("max_trials", "executions_per_trial"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise input_error(
                    "A search trains students", expected="at least 1", received=f"--{name}={value}", remedy="Raise it"
                )
        if not self.config.validation_fraction:
            raise input_error(
                "A search needs validation images: it never sees the test split",
                expected="--validation_fraction > 0",
                received="--validation_fraction=0",
                remedy="Set it to 0.1 for example",
            )
        if "seed" in self.names and self.executions_per_trial > 1:
            raise input_error(
                "Seeds are both searched and averaged over",
                expected="one of the two",
                received="--search=seed:..",
                remedy=f"with --executions_per_trial={self.executions_per_trial}. Leave out one.",
            )
        self.shared.require_teacher()
        unbounded = [dimension.text for dimension in self.space if not _points(dimension)]
        if self.tuner == "grid" and unbounded:
            raise input_error(
                "A grid needs a number of points",
                expected="NAME:KIND:LOW:HIGH:COUNT or NAME:choice:A,B,...",
                received=f"--tuner=grid with --search={unbounded[0]}",
                remedy=f"Write for example --search={unbounded[0]}:5",
            )

    @property
    def names(self):
        return [dimension.name for dimension in self.space]

    @property
    def trials(self):
        """Trials at most."""
        if self.tuner != "grid":
            return self.max_trials or 10
        size = math.prod(len(_points(dimension)) for dimension in self.space)
        return min(self.max_trials or size, size)

    @property
    def shared(self):
        """The Config that data and teacher are prepared with: of a loss with a teacher where any trial has one."""
        losses = next((dimension.values for dimension in self.space if dimension.name == "loss"), ())
        distilling = next((loss for loss in losses if LOSS_FACTS[loss].needs_teacher), self.config.loss)
        return self.config.replace(loss=distilling, loss_settings="" if losses else self.config.loss_settings)

    @property
    def default(self):
        """The Config's own values of what is searched; None where the space does not hold them."""
        values = {name: getattr(self.config, name) for name in self.names}
        return values if all(values[dimension.name] in dimension for dimension in self.space) else None

    def config_of(self, values):
        """The Config of a trial, without what concerns whole runs alone."""
        return self.config.replace(**values, overwrite=False, dry_run=False, student_alone="none")

    def to_json(self):
        """What makes two searches the same one; more trials continue a search."""
        return {
            "config": self.config.replace(overwrite=False, dry_run=False).to_json(),
            "search": [dimension.text for dimension in self.space],
            "tuner": self.tuner,
            "objective": f"{self.goal.name}:{self.goal.direction}",
            "search_seed": self.search_seed,
            "executions_per_trial": self.executions_per_trial,
        }

    def differences(self, recorded):
        """Lines "--flag: recorded -> this" against the `to_json` of another search."""
        mine = self.to_json()
        lines = [
            f"--{name}: {_text(recorded.get(name))} -> {_text(mine[name])}"
            for name in mine
            if name != "config" and mine[name] != recorded.get(name)
        ]
        return Config.from_json(recorded["config"]).differences(self.config) + lines


def _points(dimension):
    if dimension.kind == "int" and not dimension.values:
        return range(dimension.ends[0], dimension.ends[1] + 1)
    return dimension.values


def _text(value):
    return " ".join(value) if isinstance(value, list) else as_text(value)
