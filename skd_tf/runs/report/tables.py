"""The tables of measurements in a report. Every column of `skd_tf.runs.columns` that a record has is shown."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from skd_tf.runs.columns import Column, columns, without_top_5
from skd_tf.runs.report.run_data import ChartSeries, Run
from skd_tf.runs.result_tables import each_teacher

# The columns of the first table; the second has all others.
_FIRST = ("accuracy", "nll", "ece", "agreement", "latency_ms", "file_bytes", "parameters")


class Cell(NamedTuple):
    """A number in a table, with its 95% interval, and whether it is the best of its column."""

    text: str
    interval: str
    best: bool


class Row(NamedTuple):
    """A model in a table; `colour` names a CSS variable, or is empty."""

    name: str
    colour: str
    is_student: bool
    cells: list[Cell]


class Table(NamedTuple):
    """The models of a report, one row each."""

    columns: list[Column]
    rows: list[Row]


def tables(runs: Sequence[Run], series: Sequence[ChartSeries]) -> tuple[Table, Table]:
    """What to see first, and everything else that was measured."""
    models = list(_models(runs, series))
    shown = [column for column in columns() if any(column.number(model["record"]) is not None for model in models)]
    shown = without_top_5(shown, max(len(run.result["class_names"]) for run in runs))
    has_labels = any("accuracy" in model["record"] for model in models)
    first = [column for column in shown if column.key in _FIRST or (not has_labels and column.key == "kl_to_teacher")]
    rest = [column for column in shown if column not in first]
    others = [model for model in models if any(column.number(model["record"]) is not None for column in rest)]
    return _table(first, models, runs), _table(rest, others, runs)


def exported(runs: Sequence[Run]) -> Table | None:
    """The files of the last export of each run, as they were measured after quantization; None without any."""
    files = [
        {
            "name": file["file"] if len(runs) == 1 else f"{run.name}, {file['file']}",
            "colour": "",
            "is_student": False,
            "record": file | {"file_bytes": file["bytes"]},
            "intervals": file["intervals"],
        }
        for run in runs
        for file in run.exports
    ]
    shown = columns("accuracy", "nll", "ece", "ece_debiased", "latency_ms", "file_bytes")
    shown = [column for column in shown if any(column.number(file["record"]) is not None for file in files)]
    return _table(shown, files, runs) if files else None


def _table(shown, models, runs):
    best = {column.key: _best(column, models) for column in shown}
    if len(runs) > 1:  # their times were measured at other hours, perhaps on other machines
        best["latency_ms"] = None
    rows = [
        Row(
            model["name"],
            model["colour"],
            model["is_student"],
            [_cell(column, model, best[column.key]) for column in shown],
        )
        for model in models
    ]
    return Table(shown, rows)


def _cell(column, model, best):
    text = column.text(model["record"], "")
    ends = model["intervals"].get(column.key) if text else None
    interval = "\N{EN DASH}".join(column.format.format(end) for end in ends) if ends else ""
    return Cell(text, interval, bool(text) and text == best)


def _best(column, models):
    """The text of the best number of a column; None if there is nothing to compare."""
    numbers = [number for number in (column.number(model["record"]) for model in models) if number is not None]
    texts = {column.format.format(number) for number in numbers}
    if not column.better or len(texts) < 2:
        return None
    return column.format.format((max if column.better == "up" else min)(numbers))


def _models(runs: Sequence[Run], series: Sequence[ChartSeries]) -> Iterable[dict[str, Any]]:
    """All models of all runs, each followed by its calibrated form; those in the charts with their colour.

    A teacher or a student alone that gave the same numbers in several runs is shown once.
    """
    shown = {id(member.record): member for member in series}
    for run in runs:
        for role, label in run.roles.items():
            record, details = run.result[role], run.of_model(role)
            member = shown.get(id(record))
            name = label if len(runs) == 1 else f"{run.name}, {label}"
            same = [other for other in runs if role != "student" and other.result.get(role) == record]
            if len(same) > 1:
                if run is not same[0]:
                    continue
                name = f"{label} of {_named(same, runs)}"
            yield {
                "name": name,
                "colour": member.colour.replace("_", "-") if member else "",
                "record": record | details.get("cost", {}),
                "intervals": details.get("intervals", {}),
                "is_student": role == "student",
            }
            if record.get("calibrated"):
                temperature = record["calibrated"].get("temperature")
                divided = "" if temperature is None else f", logits / {temperature:.3g}"
                calibrated = {"name": f"{name}, calibrated{divided}", "record": record["calibrated"], "intervals": {}}
                yield calibrated | {"colour": "", "is_student": role == "student"}
            for i, (label, one) in enumerate(each_teacher(run.result) if role == "teacher" else [], 1):
                yield {
                    "name": label if len(runs) == 1 else f"{run.name}, {label}",
                    "colour": "",
                    "record": one,
                    "intervals": run.of_model(f"teacher_{i}").get("intervals", {}),
                    "is_student": False,
                }


def _named(some, runs):
    if len(some) == len(runs):
        return "all runs"
    others = some[1].name if len(some) == 2 else f"{len(some) - 1} more"
    return f"{some[0].name} and {others}"
