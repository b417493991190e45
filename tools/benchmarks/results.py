"""What the benchmarks share: Markdown tables, ratios round by round, and records with machine, versions and commit."""

import statistics
from collections.abc import Iterable, Sequence

from skd_tf.runs import provenance
from skd_tf.runtime.files import write_json


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """The smallest and the largest value: "1.0 to 2.5"."""
    return f"{min(values):{form}} to {max(values):{form}}"


def ratios(numerator: dict, denominator: dict) -> tuple[float, list[float]]:
    """Ratio of two contenders' times: (median, one per round). Rounds are pairs, since the machine's speed drifts."""
    found = [mine / its for mine, its in zip(numerator["ms"], denominator["ms"], strict=True)]
    return statistics.median(found), found


def machine() -> str:
    """The machine in words."""
    return provenance.device()


def write(output: str | None, record: dict) -> None:
    """Writes a record as JSON, with machine, versions and commit; does nothing without `output`."""
    if output:
        where = {"device": machine(), "versions": provenance.versions(), "git_commit": provenance.git_commit()}
        write_json(output, where | record)
