"""What a run recorded in its workdir, read back: its settings and its result."""

import json
import os
import pathlib
from collections.abc import Callable, Collection
from typing import Any

from skd_tf.config import Config, versions
from skd_tf.data.catalog import is_code
from skd_tf.errors import InputError, input_error
from skd_tf.runs import run_files
from skd_tf.runtime.console import say
from skd_tf.runtime.files import read_json
from skd_tf.runtime.local_paths import require_local

# Every version records these settings, and no other program does.
_SETTINGS = {"dataset", "student", "loss", "temperature", "kd_weight", "data_seed"}


def settings_record(path: str | os.PathLike) -> dict[str, Any] | None:
    """The contents of a workdir's config.json, whichever version wrote it; None without that file.

    Raises:
      InputError: the file is damaged, or another program wrote it.
    """
    require_local(path, "workdir")
    file = pathlib.Path(path) / run_files.CONFIG
    if not file.is_file():
        return None
    remedy = "Choose another folder, or remove this one to restart from scratch."
    record = read_json(file, "The record of settings", remedy)
    if not isinstance(record, dict) or not record.keys() >= _SETTINGS:
        raise input_error(
            "The folder is not a run's",
            expected=f"its settings in {run_files.CONFIG}",
            received=f"another program's file {file}",
            remedy="Choose another folder",
        )
    return record


def holds_run(path: str | os.PathLike) -> bool:
    """Whether a folder is the workdir of a run of any version."""
    try:
        return settings_record(path) is not None
    except InputError:
        return False


def recorded_config(path: str | os.PathLike) -> Config | None:
    """The `Config` in a workdir's config.json; None without that file.

    Raises:
      InputError: the file is damaged, or neither this version nor an earlier one wrote it.
    """
    record = settings_record(path)
    if record is None:
        return None
    return Config.from_json({name: value for name, value in record.items() if name != "resolved"})


def with_recorded_rules(
    config: Config, recorded: Callable[[], Config | None], explicit: Collection[str] = ()
) -> Config:
    """The settings with which a run or search goes on: earlier versions' rules stay those that it started with.

    A setting that is newer than the version which began the run, or whose default is, keeps the value that reproduces what
    was done then, unless the user gives another value than the default. It prints the loss that it keeps.

    Args:
      config: the settings of today's command.
      recorded: reads the recorded settings, or None for a new run. With --overwrite it is not called: a record that
        this version cannot read is about to be removed.
      explicit: the settings that the user has named. None of them is replaced.

    Raises:
      InputError: such a setting would have to be replaced.
    """
    before = None if config.overwrite else recorded()
    if before is None:
        return config
    defaults = Config()
    kept = {
        name: value
        for name, (introduced, value) in versions.BEFORE.items()
        if introduced > before.recorded_version
        and getattr(before, name) == value
        and getattr(config, name) == getattr(defaults, name) != value
    }
    named = {f"--{name}" for name in kept if name in explicit}
    changed = [line for line in before.differences(config) if line.partition(":")[0] in named]
    if changed:
        raise input_error(
            "An earlier version of skd_tf started this run with other settings",
            expected="the same settings",
            received="; ".join(changed),
            remedy="Drop these flags to resume the run, choose another --workdir, or add --overwrite",
        )
    kept = {name: value for name, value in kept.items() if name not in explicit}
    if "loss" in kept:
        say(f"This run started with --loss={kept['loss']} and keeps it. A new run has --loss={config.loss}.")
    return config.replace(**kept)


def to_json(config: Config, path: str | os.PathLike) -> dict[str, Any]:
    """The settings as JSON for a workdir's config.json, with the version that began the run there."""
    record = settings_record(path)
    return config.to_json() | ({} if record is None else {"version": record.get("version", 1)})


def workdir_of(model: str | os.PathLike) -> pathlib.Path:
    """The workdir that the path of a model points to: the path itself, or the parent of a run's student file."""
    path = pathlib.Path(model)
    return path.parent if path.name in (run_files.STUDENT, run_files.SAVED_MODEL) else path


def run_behind(model: str | os.PathLike) -> Config | None:
    """The `Config` of the run that trained a model; None if no run did.

    Raises:
      InputError: the record beside a run's student is damaged, or of a newer version.
    """
    workdir = workdir_of(model)
    try:
        return recorded_config(workdir)
    except InputError:
        students = workdir / run_files.STUDENT, workdir / run_files.SAVED_MODEL
        if any(student.exists() for student in students) and not _is_of_another_program(workdir):
            raise
        return None


def _is_of_another_program(workdir):
    """Whether config.json is whole, but has no settings of a run."""
    try:
        record = json.loads((workdir / run_files.CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return not isinstance(record, dict) or not record.keys() >= _SETTINGS


def recorded_png_bits(model: str | os.PathLike) -> int | None:
    """The bits that the run which trained a model took its 16-bit PNGs to have; None if it met none, or is not known.

    Raises:
      InputError: the file of measurements is damaged.
    """
    return measured_dataset(model).get("png_bits")


def measured_dataset(model: str | os.PathLike) -> dict[str, Any]:
    """What the measurements of the run that trained a model say of its dataset, such as "version"; {} if not known.

    Raises:
      InputError: the file of measurements is damaged.
    """
    file = workdir_of(model) / run_files.MEASUREMENTS
    if not file.is_file():
        return {}
    remedy = "Remove it and result.json: the run's command then measures again."
    return read_json(file, "The file of measurements", remedy).get("dataset", {})


def read_result(path: str | os.PathLike) -> dict[str, Any] | None:
    """The result.json in a workdir; None without that file.

    Raises:
      InputError: the file is damaged, or is not a run's result.
    """
    require_local(path, "workdir")
    file = pathlib.Path(path) / run_files.RESULT
    if not file.is_file():
        return None
    remedy = "Remove it: the run's command then measures again."
    result = read_json(file, "The result", remedy)
    if not isinstance(result, dict) or not all(isinstance(result.get(name), dict) for name in ("config", "student")):
        raise input_error(
            "The result is not a run's",
            expected="the measured numbers with the run's settings",
            received=f"another file {file}",
            remedy=remedy,
        )
    return result


def finished_result(workdir: str | os.PathLike) -> dict[str, Any]:
    """As `read_result`; raises `InputError` if there is no run, or it is not finished."""
    result = read_result(workdir)
    if result is None and not pathlib.Path(workdir).is_dir():
        expected, remedy = "the workdir of a finished run", "Correct the path"
        raise input_error("No such folder", expected=expected, received=f"--workdir={workdir}", remedy=remedy)
    if result is None:
        raise input_error(
            "The run is not finished",
            expected=f"a workdir with {run_files.RESULT}",
            received=f"--workdir={workdir}",
            remedy="Train it to the end first",
        )
    return result


def trusted_config(
    recorded: Config, place: str | os.PathLike, *, dataset: str | None = None, download: bool = False
) -> Config:
    """A recorded `Config` with which the run's data may be read.

    Somebody else may have written the record. Code that it names is called, and a download that it asks for is made,
    only if the user asks for the same.

    Args:
      recorded: the recorded `Config`.
      place: where it was read, for the message.
      dataset: the dataset that the user named, or None.
      download: whether the user allows downloads.

    Raises:
      InputError: the record names code, and the user does not.
    """
    if is_code(recorded.dataset) and dataset != recorded.dataset:
        raise input_error(
            "The run's data comes from code, and a record alone does not make that code run",
            expected=f"--dataset={recorded.dataset} from you",
            received=f"{f'--dataset={dataset}' if dataset else 'no --dataset'} with {place}",
            remedy="Add it if you trust that code",
        )
    return recorded.replace(download=download)
