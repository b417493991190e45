"""Records of cells: written from a finished workdir, read back, and compared with what their flagfiles give. No TensorFlow.

experiments/results/<study>/<pair>/<row>/seed<N>.json
"""

import dataclasses
import json
import pathlib

from experiments.lab import definitions
from experiments.lab.definitions import Cell
from skd_tf.config import Config, versions
from skd_tf.config.fields import rules_of
from skd_tf.errors import InputError, as_text, input_error
from skd_tf.runtime.files import write_json

CALIBRATED = "calibrated.json"  # in a workdir: what evaluate --calibrate measured
_FIELDS = {field.name: field for field in dataclasses.fields(Config) if rules_of(field).affects_result}
_BY_EPOCH = ("val_accuracy", "student_logit_norm", "radius_over_student_norm")
# Conversions of teachers/cifar100_resnet56.npz, whose files once held addresses of objects: other bytes, equal weights.
_EQUAL_WEIGHTS = dict.fromkeys(
    (
        "e2719b8f06e06debda9f5f2804e335175a10b839cfadc06935df22837d318cd1",
        "59279bc32c5a4b0c805d50bc0e4cf9166b9593f857152827840e2b87e1ab7ad4",
    ),
    "958efae0b4afa14c2718e333a8bc9eb95c4e6376fcba7a7adfe11880af132d34",
)


def settings(config: Config) -> dict:
    """The settings that can change a number, without a machine's paths. Cells with equal settings are the same training.

    Each teacher counts by its file's name without folder and suffix, the teacher cache by whether there is one.
    A teacher that the loss does not use does not count.
    """
    values = {name: _counted(name, getattr(config, name)) for name in _FIELDS}
    names = [pathlib.PurePath(path).name.removesuffix(".keras") for path in config.teachers]
    values["teacher_checkpoint"] = ",".join(names) if config.needs_teacher else ""
    if config.teacher_checkpoint or not config.needs_teacher:
        values["teacher_flagfile"] = ""  # it trains no teacher
    if not config.needs_teacher:
        values["teacher"] = ""
    return values


def _counted(name, value):
    """What counts of a setting's value, as JSON holds it."""
    affects = rules_of(_FIELDS[name]).affects_result
    value = affects(value) if callable(affects) else value
    return list(value) if isinstance(value, tuple) else value


def differences(recorded: dict, wanted: dict) -> list[str]:
    """Lines "--flag: recorded -> wanted". A setting newer than a record has the value there that reproduces it."""
    defaults = settings(Config()) | {n: _counted(n, value) for n, (_, value) in versions.BEFORE.items() if n in _FIELDS}
    lines = [f"--{name}: {as_text(value)} -> no such setting" for name, value in recorded.items() if name not in wanted]
    for name, value in wanted.items():
        before = recorded.get(name, defaults[name])
        if before != value:
            lines.append(f"--{name}: {as_text(before)} -> {as_text(value)}")
    return lines


def file_of(cell: Cell, results) -> pathlib.Path:
    """The file of a cell's record under the folder `results`."""
    return pathlib.Path(results, f"{cell.path}.json")


def read(path) -> dict:
    """A record; InputError for a damaged file."""
    try:
        record = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if not isinstance(record["config"], dict) or not isinstance(record["student"]["accuracy"], float):
            raise TypeError("config or student has another form")
        if record["teacher"] is not None and not isinstance(record["teacher"]["fingerprint"], str):
            raise TypeError("teacher has another form")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise input_error(
            f"A record is damaged ({error!r})",
            expected="the JSON that `reproduce` writes",
            received=f"path={path}",
            remedy="Remove the file; the cell is then trained again",
        ) from error


def read_all(results, known: dict | None = None) -> dict[Cell, dict]:
    """{cell: record} of every cell that has a record."""
    cells = definitions.cells(*(known or definitions.STUDIES).values())
    return {cell: read(file_of(cell, results)) for cell in cells if file_of(cell, results).is_file()}


def training_seconds(record: dict) -> float:
    """Seconds of training at the median epoch's pace, so that a pause does not count."""
    return record["config"]["epochs"] * record["dataset"]["train"] / record["examples_per_second"]


def same_cell(cell: Cell, records: dict) -> Cell | None:
    """The recorded cell that is the same training under another name, or None."""
    wanted = settings(definitions.config_of(cell))
    return next((other for other, record in records.items() if not differences(record["config"], wanted)), None)


def take_over(cell: Cell, other: Cell, record: dict, results) -> dict:
    """Writes another cell's record as the record of this one, and returns it."""
    origin = record.get("same_training_as", other.path)
    return _write(cell, record | {"flagfiles": list(cell.flagfiles), "same_training_as": origin}, results)


def all_problems(results, known: dict | None = None) -> list[str]:
    """One line for every record that belongs to no cell, is damaged, or differs from what its flagfiles give."""
    known, results = known or definitions.STUDIES, pathlib.Path(results)
    files = {file_of(cell, results): cell for cell in definitions.cells(*known.values())}
    found = {*results.rglob("seed*.json"), *(p for name in known for p in (results / name).rglob("*") if p.is_file())}
    lines = [
        f"{path}: no study has this cell. Remove the file, or add the cell to experiments/lab/definitions.py."
        for path in sorted(found - set(files))
    ]
    records = {}
    for path in sorted(found & set(files)):
        try:
            records[files[path]] = read(path)
            lines += [f"{path}: {problem}" for problem in problems(files[path], records[files[path]])]
        except InputError as error:
            lines.append(str(error))
    return lines + _disagreements(records)


def problems(cell: Cell, record: dict) -> list[str]:
    """How a record differs from what its cell's flagfiles give."""
    lines = []
    if record.get("flagfiles") != list(cell.flagfiles):
        lines.append(f"its flagfiles are {record.get('flagfiles')}, but the study has {list(cell.flagfiles)}.")
    try:
        other = differences(record["config"], settings(definitions.config_of(cell)))
    except InputError as error:
        return [*lines, str(error)]
    if other:
        lines.append(
            f"its settings differ from its flagfiles (record -> flagfiles): {'; '.join(other)}. "
            "Train the cell again, or correct the flagfile."
        )
    return lines


def _disagreements(records):
    """Lines about records that contradict each other: two teachers under one name, a copy that differs from its original."""
    lines, teachers, by_path = [], {}, {cell.path: record for cell, record in records.items()}
    for cell, record in records.items():
        if record["teacher"]:
            name, fingerprint = record["config"]["teacher_checkpoint"], record["teacher"]["fingerprint"]
            fingerprint = _EQUAL_WEIGHTS.get(fingerprint, fingerprint)
            first = teachers.setdefault(name, (fingerprint, cell.path))
            if first[0] != fingerprint:
                lines.append(f"{cell.path}: its teacher {name} has other weights than in {first[1]}. Train one again.")
        original = record.get("same_training_as")
        own = ("flagfiles", "same_training_as", "config")
        mine, theirs = ({k: v for k, v in r.items() if k not in own} for r in (record, by_path.get(original, {})))
        if original and mine != theirs:
            lines.append(f"{cell.path}: it differs from {original}, the record that it copies. Remove it.")
    return lines


def from_workdir(cell: Cell, workdir, results) -> dict:
    """Writes the record of a cell whose run has finished in `workdir`, and returns it.

    Raises:
      InputError: the run has other settings, or has not finished.
    """
    workdir = pathlib.Path(workdir)
    try:
        result, details, began = (
            json.loads((workdir / name).read_text()) for name in ("result.json", "measurements.json", "config.json")
        )
        epochs = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        student, teacher = details["models"]["student"], None
        calibrated = _calibrated(workdir / CALIBRATED) if (workdir / CALIBRATED).is_file() else None
        by_epoch = {name: [row.get(name) for row in epochs] for name in _BY_EPOCH if name in epochs[-1]}
        if "teacher" in result:
            teacher = {
                "name": details["teacher"]["name"],
                "fingerprint": began["resolved"]["teacher"],
                **result["teacher"],
            }
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise input_error(
            f"The run left no result ({error!r})",
            expected=f"result.json, measurements.json, metrics.jsonl and, if there, a whole {CALIBRATED}",
            received=f"workdir={workdir}",
            remedy="See its log, and start the same command again",
        ) from error
    config = settings(Config.from_json(result["config"]))
    other = differences(config, settings(definitions.config_of(cell)))
    if other:
        raise input_error(
            "The run has other settings than the cell's flagfiles",
            expected="equal ones",
            received=f"{'; '.join(other)} in {workdir}",
            remedy="Remove that folder; the cell then restarts from scratch",
        )
    record = {
        "flagfiles": list(cell.flagfiles),
        "config": config,
        "teacher": teacher,
        "student": {name: value for name, value in result["student"].items() if name != "val_accuracy"},
        "raw_softmax": student.get("raw"),
        "calibrated": calibrated,
        "radius": result["radius"],
        "reliability": {
            "as_shipped": _columns(student["reliability"]),
            "raw_softmax": _columns(student.get("raw_reliability")),
        },
        "by_epoch": by_epoch,
        "best_epoch": _best_epoch(epochs),
        "seconds": result["seconds"],
        "seconds_by_part": details["seconds"],
        "examples_per_second": result["examples_per_second"],
        **{name: result[name] for name in ("device", "xla", "versions", "git_commit")},
        "dataset": {name: value for name, value in details["dataset"].items() if name != "data_dir"},
        # As skd_tf.runs.predictions decodes them: McNemar's test and every subset follow.
        "test_labels": details.get("labels"),
        "test_predictions": {name: model.get("predictions") for name, model in details["models"].items()},
    }
    return _write(cell, record, results)


def _calibrated(path):
    row = json.loads(path.read_text())["models"][0]["calibrated"]
    return {name: row[name] for name in ("temperature", "accuracy", "confidence", "nll", "ece")}


def _columns(bins):
    """A reliability diagram as {"count", "confidence", "accuracy"}, a list each; None without one."""
    return bins and {name: [row[name] for row in bins] for name in bins[0]}


def _best_epoch(epochs):
    """The first epoch, counted from 1, with the highest validation accuracy; None without a validation split."""
    accuracies = [row["val_accuracy"] for row in epochs if "val_accuracy" in row]
    if not accuracies:
        return None
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    return {"epoch": best + 1, "val_accuracy": accuracies[best]}


def _write(cell, record, results):
    path = file_of(cell, results)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    return record
