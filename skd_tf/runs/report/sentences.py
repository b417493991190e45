"""What the sentences at the top of a report are made of."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from skd_tf.runs.report.run_data import Run

WORDS = {"accuracy": "right", "agreement": "agreement with the teacher"}  # what follows a number of percent


class Headline(NamedTuple):
    """The verdict at the top of a report.

    Attributes:
      tone: "ahead", "level", "behind" or "unknown".
      word: the verdict in a few words.
      text: a sentence.
      bar: the interval of the difference, in percent of the width of a bar: {"low", "middle", "high", "label"}, or None.
    """

    tone: str
    word: str
    text: str
    bar: dict[str, Any] | None


class Answer(NamedTuple):
    """A question, and what the report answers; each item is (text, whether it is a warning)."""

    question: str
    items: list[tuple[str, bool]]


def score_text(run: Run, measure: str) -> str:
    """ "91.2% right", or "no agreement with the teacher"."""
    score = run.result["student"].get(measure)
    return f"no {WORDS[measure]}" if score is None else f"{score:.1%} {WORDS[measure]}"


def warnings_of(run: Run) -> list[str]:
    """What a run's verdict and result warn of."""
    return [*run.verdict["warnings"], *run.result.get("warnings", [])]


def listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
