"""Records of the studies' cells: made from a finished workdir, read back, and compared with what their flagfiles resolve to.

`experiments/results/<study>/<pair>/<row>/seed<N>.json`. Nothing here imports TensorFlow.
"""

import dataclasses
import json
import pathlib

from experiments.lab import definitions
from skd_tf.config import Config
from skd_tf.config.fields import as_text, rules_of
from skd_tf.errors import InputError
from skd_tf.runs.workdir import write_json

CALIBRATED = "calibrated.json"  # in a workdir: what evaluate --calibrate measured
_FIELDS = {field.name: field for field in dataclasses.fields(Config) if rules_of(field).affects_result}
_BY_EPOCH = ("val_accuracy", "student_logit_norm", "radius_over_student_norm")


def settings(config):
    """The settings that could change a number, as plain values without paths of a machine: what makes two cells the same.

    A teacher's file or workdir counts by its name without folder and suffix, the teacher cache by whether there is one; a
    teacher that a loss makes no use of counts for nothing.
    """
    values = {}
    for name, field in _FIELDS.items():
        affects, value = rules_of(field).affects_result, getattr(config, name)
        values[name] = affects(value) if callable(affects) else value
    values["teacher_checkpoint"] = pathlib.PurePath(values["teacher_checkpoint"]).stem if config.needs_teacher else ""
    if config.teacher_checkpoint or not config.needs_teacher:
        values["teacher_flagfile"] = ""  # no teacher is trained by it
    if not config.needs_teacher:
        values["teacher"] = ""
    return values


def differences(recorded, wanted):
    """Lines "--flag: recorded -> wanted"; a setting that is younger than a record had its default then."""
    defaults = settings(Config())
    lines = [f"--{name}: {as_text(value)} -> no such setting" for name, value in recorded.items() if name not in wanted]
    for name, value in wanted.items():
        before = recorded.get(name, defaults[name])
        if before != value:
            lines.append(f"--{name}: {as_text(before)} -> {as_text(value)}")
    return lines


def file_of(cell, results):
    return pathlib.Path(results, f"{cell.path}.json")


def read(path):
    """A record; InputError for a file that is none."""
    try:
        record = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if not isinstance(record["config"], dict) or not isinstance(record["student"]["accuracy"], float):
            raise TypeError("config or student is of another form")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"A record is damaged ({error!r}). Expected the JSON of experiments/lab/reproduce.py. Received path={path}. "
            "Remove it: the cell is then run again."
        ) from error


def read_all(results, known=None):
    """{cell: record} of all studies' cells that have one."""
    cells = [cell for study in (known or definitions.STUDIES).values() for cell in definitions.cells(study)]
    return {cell: read(file_of(cell, results)) for cell in cells if file_of(cell, results).is_file()}


def same_cell(cell, records):
    """The cell of `records` that is the same training under another name, or None."""
    wanted = settings(definitions.config_of(cell))
    return next((other for other, record in records.items() if not differences(record["config"], wanted)), None)


def take_over(cell, other, record, results):
    """Writes a record of another cell's training as this cell's own; returns it."""
    record = record | {
        "flagfiles": list(cell.flagfiles),
        "same_training_as": record.get("same_training_as", other.path),
    }
    _write(cell, record, results)
    return record


def problems(cell, record):
    """What of a record is not what its cell's flagfiles give, in words."""
    lines = []
    if record.get("flagfiles") != list(cell.flagfiles):
        lines.append(f"its flagfiles are {record.get('flagfiles')}. The study has {list(cell.flagfiles)}.")
    try:
        wanted = settings(definitions.config_of(cell))
    except InputError as error:
        return [*lines, str(error)]
    other = differences(record["config"], wanted)
    if other:
        lines.append(
            f"its settings are not what its flagfiles give (record -> flagfiles): {'; '.join(other)}. "
            "Run the cell again, or correct the flagfile."
        )
    return lines


def disagreements(records):
    """Lines on records that do not go together: another teacher under one name, a copy that is not its original's."""
    lines, teachers, by_path = [], {}, {cell.path: record for cell, record in records.items()}
    for cell, record in records.items():
        if record["teacher"]:
            name, fingerprint = record["config"]["teacher_checkpoint"], record["teacher"]["fingerprint"]
            first = teachers.setdefault(name, (fingerprint, cell.path))
            if first[0] != fingerprint:
                lines.append(
                    f"{cell.path}: its teacher {name} has other weights than {first[1]}'s. Run one of them again."
                )
        original = record.get("same_training_as")
        if original:
            mine, theirs = (
                {k: v for k, v in (r or {}).items() if k not in ("flagfiles", "same_training_as", "config")}
                for r in (record, by_path.get(original))
            )
            if mine != theirs:
                lines.append(f"{cell.path}: it is not what {original} holds, the training that it names. Remove it.")
    return lines


def from_workdir(cell, workdir, results):
    """Writes the record of a cell whose run has finished in `workdir`; returns it.

    Raises:
      InputError: the workdir holds a run with other settings, or none that has finished.
    """
    workdir = pathlib.Path(workdir)
    try:
        result, details, began = (
            json.loads((workdir / name).read_text()) for name in ("result.json", "measurements.json", "config.json")
        )
        epochs = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(
            f"The run left no result ({error}). Expected result.json, measurements.json and metrics.jsonl. "
            f"Received workdir={workdir}. See its log, and start the same command again."
        ) from error
    config = settings(Config(**result["config"]))
    other = differences(config, settings(definitions.config_of(cell)))
    if other:
        raise InputError(
            f"The run has other settings than the cell's flagfiles. Expected the same. Received {'; '.join(other)} in "
            f"{workdir}. Remove that folder: the cell is then run anew."
        )
    calibrated = workdir / CALIBRATED
    record = {
        "flagfiles": list(cell.flagfiles),
        "config": config,
        "teacher": _teacher(result, details, began),
        "student": {name: value for name, value in result["student"].items() if name != "val_accuracy"},
        "raw_softmax": details["models"]["student"].get("raw"),
        "calibrated": _calibrated(json.loads(calibrated.read_text())) if calibrated.is_file() else None,
        "radius": result["radius"],
        "reliability": {
            "as_shipped": _columns(details["models"]["student"]["reliability"]),
            "raw_softmax": _columns(details["models"]["student"].get("raw_reliability")),
        },
        "by_epoch": {name: [row.get(name) for row in epochs] for name in _BY_EPOCH if name in epochs[-1]},
        "best_epoch": _best_epoch(epochs),
        "seconds": result["seconds"],
        "seconds_by_part": details["seconds"],
        "examples_per_second": result["examples_per_second"],
        **{name: result[name] for name in ("device", "xla", "versions", "git_commit")},
        "dataset": details["dataset"],
    }
    _write(cell, record, results)
    return record


def _calibrated(evaluated):
    row = evaluated["models"][0]["calibrated"]
    return {name: row[name] for name in ("temperature", "accuracy", "confidence", "nll", "ece")}


def _teacher(result, details, began):
    if "teacher" not in result:
        return None
    return {"name": details["teacher"]["name"], "fingerprint": began["resolved"]["teacher"], **result["teacher"]}


def _columns(bins):
    """A reliability diagram's bins as {"count", "confidence", "accuracy"}, a list each; None for none."""
    return bins and {name: [row[name] for row in bins] for name in bins[0]}


def _best_epoch(epochs):
    """The first epoch, counted from 1, of the highest validation accuracy; None without a validation split. No result."""
    accuracies = [row["val_accuracy"] for row in epochs if "val_accuracy" in row]
    if not accuracies:
        return None
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    return {"epoch": best + 1, "val_accuracy": accuracies[best]}


def _write(cell, record, results):
    path = file_of(cell, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
