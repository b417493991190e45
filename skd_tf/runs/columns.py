"""Rows and columns of every table of metrics: result table, evaluation, HTML report, model card."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# {model of a result.json: what tables call it}, in the order of their rows.
ROLES = {
    "teacher": "teacher",
    "student_alone": "student alone",
    "student_matched": "student alone, equal compute",
    "student": "student distilled",
}


class Column(NamedTuple):
    """A metric in a table.

    Attributes:
      heading: in words.
      key: of the number in a model's record. A timing there, {"median", ...}, counts as its median.
      format: of the number.
      better: "up", "down", or "" where neither direction is better.
      scale: factor of the number in the table.
    """

    heading: str
    key: str
    format: str
    better: str = ""
    scale: float = 1

    def number(self, record: Mapping[str, Any]) -> float | None:
        """The number of one model; None if its record has none."""
        value = record.get(self.key)
        value = value.get("median") if isinstance(value, Mapping) else value
        return value if value is None or self.scale == 1 else value * self.scale

    def text(self, record: Mapping[str, Any], missing: str = "-") -> str:
        """The cell of one model; `missing` if the record has no such number."""
        value = self.number(record)
        return missing if value is None else self.format.format(value)


_COLUMNS = (
    Column("top-1", "accuracy", "{:.4f}", "up"),
    Column("top-5", "top5_accuracy", "{:.4f}", "up"),
    Column("balanced accuracy", "balanced_accuracy", "{:.4f}", "up"),
    Column("macro F1", "macro_f1", "{:.4f}", "up"),
    Column("worst class's recall", "worst_class_recall", "{:.4f}", "up"),
    Column("NLL", "nll", "{:.4f}", "down"),
    Column("Brier", "brier", "{:.4f}", "down"),
    Column("ECE", "ece", "{:.4f}", "down"),
    Column("ECE debiased", "ece_debiased", "{:.4f}", "down"),
    Column("confidence", "confidence", "{:.4f}"),
    Column("confidence - top-1", "overconfidence", "{:+.4f}"),
    Column("agreement", "agreement", "{:.4f}", "up"),
    Column("agreement at 5", "agreement_at_5", "{:.4f}", "up"),
    Column("KL to the teacher", "kl_to_teacher", "{:.4f}", "down"),
    Column("confidence gap", "confidence_gap", "{:+.4f}"),
    Column("logit norm", "logit_norm", "{:.2f}"),
    Column("ms at batch 1", "latency_ms", "{:.2f}", "down"),
    Column("kB", "file_bytes", "{:,.0f}", "down", 1e-3),
    Column("MFLOPs", "flops", "{:,.1f}", "down", 1e-6),
    Column("parameters", "parameters", "{:,}", "down"),
)


def role_names(result: Mapping[str, Any]) -> dict[str, str]:
    """{model: what tables call it} of the models of a result.json, in the order of their rows.

    >>> role_names({"teacher": {}, "student": {}}), role_names({"student": {}})
    ({'teacher': 'teacher', 'student': 'student distilled'}, {'student': 'student'})
    """
    names = ROLES if "teacher" in result else ROLES | {"student": "student"}
    if "teachers" in result:
        names = names | {"teacher": f"mean of {len(result['teachers'])} teachers"}
    return {role: name for role, name in names.items() if role in result}


def columns(*keys: str) -> list[Column]:
    """The columns of these keys, in this order; without keys, all columns.

    >>> [column.text({"accuracy": 0.5, "parameters": 1234}) for column in columns("accuracy", "nll", "parameters")]
    ['0.5000', '-', '1,234']
    """
    by_key = {column.key: column for column in _COLUMNS}
    return [by_key[key] for key in keys or by_key]


def without_top_5(shown: Iterable[Column], classes: int) -> list[Column]:
    """The columns without those of the five most probable classes, if there are no more classes than these.

    >>> [column.key for column in without_top_5(columns("accuracy", "top5_accuracy"), classes=3)]
    ['accuracy']
    """
    return [column for column in shown if classes > 5 or column.key not in ("top5_accuracy", "agreement_at_5")]
