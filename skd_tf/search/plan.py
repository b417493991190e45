"""Plan: what a search varies, how it chooses values, what it optimises. Imports neither TensorFlow nor keras-tuner."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from skd_tf.config import Config
from skd_tf.data.catalog import IMAGES, has_labels
from skd_tf.errors import as_text, did_you_mean, flag_error, input_error
from skd_tf.losses.names import facts_of
from skd_tf.runtime import user_code
from skd_tf.search.space import Dimension, parse_space

TUNERS = ("random", "bayesian", "grid")
_TRIALS = 10  # of a tuner that draws, unless the user gives a number
# What a run logs each epoch, and which direction is better; None if that depends on the user.
OBJECTIVES = {
    "val_accuracy": "max",
    "val_nll": "min",
    "val_ece": "min",
    "val_balanced_accuracy": "max",
    "val_macro_f1": "max",
    "val_worst_class_recall": "max",
    "val_agreement": "max",
    "val_kl_to_teacher": "min",
    "loss": "min",
    "label_loss": "min",
    "distill_loss": "min",
    "feature_loss": "min",
    "accuracy": "max",
    "agreement": "max",
    "teacher_accuracy": "max",
    "student_logit_norm": None,
    "teacher_logit_norm": None,
    "radius_over_student_norm": None,
    "learning_rate": None,
    "kd_weight": None,
    "label_weight": None,
    "feature_weight": None,
    "examples_per_second": "max",
    "input_wait_share": "min",
    "seconds": "min",
}
_WITHOUT_LABELS = ("val_agreement", "val_kl_to_teacher")  # of validation images without labels
_OF_LABELS = {"accuracy", "label_loss", "teacher_accuracy"} | {
    name for name in OBJECTIVES if name.startswith("val_") and name not in _WITHOUT_LABELS
}
# An objective that only some settings log -> (a setting, whether a run with this value of it logs the objective).
_LOGGED_WITH: dict[str, tuple[str, Callable[[str], object]]] = {
    **dict.fromkeys(
        ("agreement", "distill_loss", "teacher_accuracy", "teacher_logit_norm"),
        ("loss", lambda loss: facts_of(loss).needs_teacher),
    ),
    "radius_over_student_norm": ("loss", lambda loss: facts_of(loss).probabilities == "sphere"),
    **dict.fromkeys(("feature_loss", "feature_weight"), ("feature_pairs", bool)),
}
OBJECTIVE_GRAMMAR = f"NAME, NAME:min or NAME:max, of the epoch that ships (--ship): {', '.join(OBJECTIVES)}"


@dataclasses.dataclass(frozen=True)
class SearchObjective:
    """A logged value of the epoch that ships, and the direction that is better: "min" or "max"."""

    name: str
    direction: str

    @property
    def sign(self) -> float:
        """The factor that makes the best value the smallest."""
        return -1.0 if self.direction == "max" else 1.0


def parse_objective(text: str) -> SearchObjective:
    """Reads --objective: NAME, NAME:min or NAME:max."""
    name, _, direction = text.partition(":")
    if name not in OBJECTIVES:
        remedy = did_you_mean(name, list(OBJECTIVES), "See metrics.jsonl of a run")
        raise flag_error("objective", text, "names no value that a run logs", f"one of {', '.join(OBJECTIVES)}", remedy)
    direction = direction or OBJECTIVES[name] or ""
    if direction not in ("min", "max"):
        raise flag_error("objective", text, "has no direction", f"{name}:min or {name}:max", "Add min or max")
    return SearchObjective(name, direction)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All settings of a search. Two searches with equal plans are the same search.

    Args:
      config: settings of every trial. Its values of the searched settings are "the default", which the best trial is
        compared with.
      search: texts in the grammar of --search, or a single one.
      tuner: "random", "bayesian" or "grid".
      objective: text in the grammar of --objective.
      max_trials: maximum number of trials; None means 10, or the whole grid. Never more than there are
        combinations of values.
      search_seed: seed of the values drawn.
      executions_per_trial: students per trial, with seeds `config.seed`, `config.seed + 1`, ...

    Attributes:
      space: the searched settings, parsed from `search`.
      goal: the objective, parsed from `objective`.

    Raises:
      InputError: an invalid argument, or no teacher.
    """

    config: Config
    search: Sequence[str]
    tuner: str = "random"
    objective: str = "val_accuracy"
    max_trials: int | None = None
    search_seed: int = 0
    executions_per_trial: int = 1
    space: tuple[Dimension, ...] = dataclasses.field(init=False, compare=False)
    goal: SearchObjective = dataclasses.field(init=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "search", (self.search,) if isinstance(self.search, str) else tuple(self.search))
        object.__setattr__(self, "space", parse_space(self.search, self.config))
        object.__setattr__(self, "goal", parse_objective(self.objective))
        if self.tuner not in TUNERS:
            remedy = did_you_mean(self.tuner, TUNERS, "Choose random")
            raise flag_error("tuner", self.tuner, "has an unknown value", f"one of {', '.join(TUNERS)}", remedy)
        for name in ("max_trials", "executions_per_trial"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise flag_error(name, value, "is too small", "at least 1", "Raise it")
        labelled, expected = has_labels(self.config.dataset), " or ".join(_WITHOUT_LABELS)
        if not labelled and self.goal.name in _OF_LABELS:
            problem = f"needs labels, and {IMAGES}PATH has none"
            raise flag_error("objective", self.objective, problem, expected, f"Add --objective={_WITHOUT_LABELS[1]}")
        if labelled and self.goal.name in _WITHOUT_LABELS:
            problem, remedy = f"is measured with --dataset={IMAGES}PATH only", "Choose agreement, or val_accuracy"
            raise flag_error("objective", self.objective, problem, "a measure with labels", remedy)
        self._require_logged()
        if "seed" in self.names and self.executions_per_trial > 1:
            raise input_error(
                "Seeds are both searched and averaged over",
                expected="only one of --search=seed:... and --executions_per_trial",
                received=f"both, with --executions_per_trial={self.executions_per_trial}",
                remedy="Remove one",
            )
        self.shared.require_teacher()
        unbounded = [dimension.text for dimension in self.space if not points(dimension)]
        if self.tuner == "grid" and unbounded:
            raise input_error(
                "A grid needs a number of points",
                expected="NAME:KIND:LOW:HIGH:COUNT or NAME:choice:A,B,...",
                received=f"--tuner=grid with --search={unbounded[0]}",
                remedy=f"Write --search={unbounded[0]}:5, for example",
            )

    def _require_logged(self):
        """InputError if a trial would be trained and then fail, because it does not log the objective."""
        if self.goal.name not in _LOGGED_WITH:
            return
        name, logs = _LOGGED_WITH[self.goal.name]
        searched = next((dimension.values for dimension in self.space if dimension.name == name), None)
        without = next((value for value in searched or (getattr(self.config, name),) if not logs(value)), None)
        if without is not None:
            problem = f"is not logged {f'with --{name}={without}' if without else f'without --{name}'}"
            expected, remedy = "one that every trial logs", "Choose another, such as val_accuracy"
            raise flag_error("objective", self.objective, problem, expected, remedy)

    @property
    def names(self) -> list[str]:
        """Names of the searched settings."""
        return [dimension.name for dimension in self.space]

    @property
    def first(self) -> Config:
        """The Config with the lowest or first value of each searched setting."""
        return self.config.replace(**{d.name: d.to_config((d.values or d.ends)[0]) for d in self.space})

    @property
    def trials(self) -> int:
        """Maximum number of trials."""
        wanted = self.max_trials or (self.size if self.tuner == "grid" else _TRIALS)
        return min(wanted, self.size or wanted)

    @property
    def size(self) -> int:
        """Number of points of the space; 0 stands for infinitely many."""
        return math.prod(len(points(dimension)) for dimension in self.space)

    @property
    def shared(self) -> Config:
        """The Config that prepares data and teacher. Its loss needs a teacher if the loss of any trial does."""
        losses = next((dimension.values for dimension in self.space if dimension.name == "loss"), ())
        distilling = next((loss for loss in losses if facts_of(loss).needs_teacher), self.config.loss)
        return self.config.replace(loss=distilling, loss_settings="" if losses else self.config.loss_settings)

    @property
    def own_values(self) -> dict[str, Any]:
        """The Config's own values of the searched settings; weights of teachers that are not given are equal ones."""
        values = {name: getattr(self.config, name) for name in self.names}
        if values.get("teacher_weights") == "":
            values["teacher_weights"] = ",".join("1" * len(self.config.teachers))
        return values

    @property
    def default(self) -> dict[str, Any] | None:
        """`own_values`; None if one of them lies outside the space."""
        values = self.own_values
        return values if all(values[dimension.name] in dimension for dimension in self.space) else None

    @property
    def own_code(self) -> dict[str, str]:
        """{"--loss=MODULE:FUNCTION": fingerprint of its code} of each loss and student of a trial that is the user's own."""
        found = {}
        for name in ("loss", "student"):
            searched = next((dimension.values for dimension in self.space if dimension.name == name), ())
            for value in searched or (getattr(self.config, name),):
                if code := user_code.fingerprint_if_own(value):
                    found[f"--{name}={value}"] = code
        return found

    @property
    def of_whole_runs(self) -> tuple[str, ...]:
        """The settings of the Config that trials leave out, and that best.flags and the final run have."""
        return tuple(n for n in ("student_alone", "callback") if getattr(self.config, n) != getattr(Config(), n))

    def config_of(self, values: dict[str, Any]) -> Config:
        """The Config of a trial with these values, without `of_whole_runs`."""
        own = {name: getattr(Config(), name) for name in self.of_whole_runs}
        return self.config.replace(**values, **own, overwrite=False, dry_run=False)

    def to_json(self) -> dict[str, Any]:
        """What identifies the search. The number of trials does not: more trials continue it."""
        return {
            "config": self.config.replace(overwrite=False, dry_run=False).to_json(),
            "search": [dimension.text for dimension in self.space],
            "tuner": self.tuner,
            "objective": f"{self.goal.name}:{self.goal.direction}",
            "search_seed": self.search_seed,
            "executions_per_trial": self.executions_per_trial,
        }

    def differences(self, recorded: dict[str, Any]) -> list[str]:
        """One text "--flag: recorded -> this" for each difference from another search's `to_json`."""
        mine = self.to_json()
        lines = [
            f"--{name}: {_text(recorded.get(name))} -> {_text(mine[name])}"
            for name in mine
            if name != "config" and mine[name] != recorded.get(name)
        ]
        return Config.from_json(recorded["config"]).differences(self.config) + lines


def points(dimension: Dimension) -> Sequence[Any]:
    """The values of a dimension; empty if they are infinitely many."""
    if dimension.kind == "int" and not dimension.values:
        return range(int(dimension.ends[0]), int(dimension.ends[1]) + 1)
    return dimension.values


def _text(value):
    return " ".join(value) if isinstance(value, list) else as_text(value)
