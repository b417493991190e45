"""The columns of every table of metrics: result table, evaluation, HTML report, model card."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Column(NamedTuple):
    """A metric in a table: its heading, its key in a model's record, and its number format."""

    heading: str
    key: str
    format: str

    def text(self, record: Mapping[str, Any], missing: str = "-") -> str:
        """The cell of one model; `missing` if the record has no such number."""
        value = record.get(self.key)
        return missing if value is None else self.format.format(value)


_COLUMNS = (
    Column("top-1", "accuracy", "{:.4f}"),
    Column("top-5", "top5_accuracy", "{:.4f}"),
    Column("balanced accuracy", "balanced_accuracy", "{:.4f}"),
    Column("macro F1", "macro_f1", "{:.4f}"),
    Column("worst class's recall", "worst_class_recall", "{:.4f}"),
    Column("NLL", "nll", "{:.4f}"),
    Column("Brier", "brier", "{:.4f}"),
    Column("ECE", "ece", "{:.4f}"),
    Column("confidence", "confidence", "{:.4f}"),
    Column("confidence - top-1", "overconfidence", "{:+.4f}"),
    Column("agreement", "agreement", "{:.4f}"),
    Column("agreement at 5", "agreement_at_5", "{:.4f}"),
    Column("KL to the teacher", "kl_to_teacher", "{:.4f}"),
    Column("confidence gap", "confidence_gap", "{:+.4f}"),
    Column("logit norm", "logit_norm", "{:.2f}"),
    Column("parameters", "parameters", "{:,}"),
)


def columns(*keys: str) -> list[Column]:
    """The columns of these keys, in this order.

    >>> [column.text({"accuracy": 0.5, "parameters": 1234}) for column in columns("accuracy", "nll", "parameters")]
    ['0.5000', '-', '1,234']
    """
    by_key = {column.key: column for column in _COLUMNS}
    return [by_key[key] for key in keys]
