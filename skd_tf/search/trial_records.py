"""The records of a search: one atomic file per trial. They are its whole state: it continues from nothing else."""

import errno
import os
import pathlib
import shutil
from typing import Any

from skd_tf.config import Config, app
from skd_tf.errors import input_error
from skd_tf.runs import run_files
from skd_tf.runtime.files import read_json, write_json
from skd_tf.runtime.local_paths import require_local
from skd_tf.search.plan import Plan

# The JSON of a record.json: "trial" (its number), "status", "values" (of the searched settings), "started" and "ended"
# (places in the sequence of all starts and ends), "executions" (each {"seed", "seconds", "metrics"}), "objective" (mean
# over the executions), "spread" (their standard deviation), "reason" (of a failure), "validation_examples".
TrialRecord = dict[str, Any]
RUNNING, FINISHED, FAILED = "running", "finished", "failed"
_PLAN = run_files.SEARCH
_OUTPUTS = (_PLAN, "trials.csv", "trials.jsonl", "search.png", "best.flags", "trials", "tensorboard", "final")
_OTHER_WORKDIR = "Choose another --workdir, or add --overwrite to restart from scratch"
_RESTORE = "Put back a copy, or add --overwrite to restart from scratch"


class TrialRecords:
    """The trials of the search in a folder.

        search.json                 the plan
        trials/0003/record.json     a `TrialRecord`
        trials/0003/seed-0/         one execution: metrics.jsonl, tensorboard/, and checkpoints/ until it is finished

    Args:
      folder: folder of the search.
      plan: plan of the search.
    """

    def __init__(self, folder: str | os.PathLike, plan: Plan) -> None:
        require_local(folder, "workdir")
        self.folder, self.plan = pathlib.Path(folder), plan
        self._plan_file = self.folder / _PLAN

    def claim(self) -> None:
        """Starts or continues the search in this folder.

        `plan.config.overwrite` restarts it from scratch, but keeps the teacher and its cache.

        Raises:
          InputError: the folder belongs to another search (the message lists the differences), or to something else.
        """
        self.require_own()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.plan.config.overwrite:
                if self._plan_file.is_file():
                    self._clear()
                app.note_overwritten()
            if not self._plan_file.is_file():
                write_json(self._plan_file, self.plan.to_json())
        except OSError as error:
            raise input_error(
                f"The workdir cannot be written ({error.strerror})",
                expected="a writable folder",
                received=f"workdir={self.folder}",
                remedy="Choose another --workdir",
            ) from error

    def require_own(self) -> None:
        """InputError if the folder belongs to another search that is not to be restarted, or to something else."""
        if self._plan_file.is_file():
            if self.plan.config.overwrite:
                _recorded_plan(self._plan_file)  # refuses a search.json of another program
            else:
                self.require_same()
            return
        # A worker that starts before its chief makes an empty folder trials/.
        foreign = [name for name in (*_OUTPUTS[1:], run_files.CONFIG) if (self.folder / name).exists()]
        if not list((self.folder / "trials").glob("*")):
            foreign = [name for name in foreign if name != "trials"]
        if foreign:
            raise _not_of_a_search(f"{', '.join(foreign)} in {self.folder}, without search.json")

    def require_same(self) -> None:
        """InputError if the folder belongs to another search."""
        differences = self.plan.differences(_recorded_plan(self._plan_file))
        if differences:
            raise input_error(
                f"The workdir {self.folder} belongs to another search",
                expected="the same settings",
                received="; ".join(differences),
                remedy=_OTHER_WORKDIR,
            )

    def _clear(self):
        for name in reversed(_OUTPUTS):  # search.json last: without it the folder is no search's
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    def require_same_inputs(self, teacher: str | None, facts: dict[str, Any]) -> None:
        """InputError if earlier trials had another teacher, other data or other code of the user's own.

        The first call writes down which they are.

        Args:
          teacher: the teacher's fingerprint; None if no trial has a teacher.
          facts: `skd_tf.runs.data_identity.data_facts` of the data.
        """
        from skd_tf.runs.data_identity import require_same_data  # imports TensorFlow, which takes seconds

        recorded = _recorded_plan(self._plan_file)
        if teacher and recorded.get("teacher", teacher) != teacher:
            raise input_error(
                "The teacher has changed since this search started",
                expected="the same weights",
                received=f"other weights than {self._plan_file} names",
                remedy=_OTHER_WORKDIR,
            )
        require_same_data("search", recorded.get("facts", facts), facts)
        code, before = self.plan.own_code, recorded.get("code", {})
        for flag in code:
            if before.get(flag, code[flag]) != code[flag]:
                raise input_error(
                    f"The code of {flag} has changed since this search started",
                    expected="the same code in all trials",
                    received="other code",
                    remedy=_OTHER_WORKDIR,
                )
        inputs = {"facts": facts, "code": code} | ({"teacher": teacher} if teacher else {})
        if inputs.keys() - recorded.keys():
            write_json(self._plan_file, inputs | recorded)

    def images_were_in(self) -> str:
        """`skd_tf.runs.data_identity.images_in` of the data of earlier trials; "" if there are none."""
        return (_recorded_plan(self._plan_file).get("facts") or {}).get("images_in", "")

    def trial_folder(self, number: int) -> pathlib.Path:
        """The folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def exists(self, number: int) -> bool:
        """Whether a trial has a record."""
        return (self.trial_folder(number) / "record.json").is_file()

    def read(self, number: int) -> TrialRecord:
        """The record of a trial; InputError if it is missing, damaged or of another search."""
        file = self.trial_folder(number) / "record.json"
        record = _read_json(file)
        if not self._is_of_this_search(record):
            raise input_error(
                "A record belongs to another search",
                expected=f"a value from the space for each of {', '.join(self.plan.names)}",
                received=file,
                remedy=_RESTORE,
            )
        return record

    def _is_of_this_search(self, record):
        """Whether its values lie in the space. A foreign record could name a function of a stranger as the network."""
        values = record.get("values") if isinstance(record, dict) else None
        if not isinstance(values, dict) or values.keys() != set(self.plan.names):
            return False
        return all(values[dimension.name] in dimension.values for dimension in self.plan.space if dimension.values)

    def write(self, record: TrialRecord) -> None:
        """Writes a trial's record, whole or not at all."""
        folder = self.trial_folder(record["trial"])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "record.json", record)

    def all(self) -> list[TrialRecord]:
        """All records by number; InputError if a number is missing."""
        names = [file.parent.name for file in (self.folder / "trials").glob("*/record.json")]
        numbers = sorted(int(name) for name in names if name.isdecimal())
        if numbers != list(range(len(numbers))):
            missing = next(i for i, number in enumerate([*numbers, -1]) if i != number)
            raise input_error(
                "A record of the search is missing",
                expected=f"every trial up to {numbers[-1]}",
                received=f"no {self.trial_folder(missing) / 'record.json'}",
                remedy=_RESTORE,
            )
        return [self.read(number) for number in numbers]

    def ranked(self) -> list[TrialRecord]:
        """The finished trials, best first; of two equal ones, the earlier first."""
        finished = [record for record in self.all() if record["status"] == FINISHED]
        return sorted(finished, key=lambda record: (self.plan.goal.sign * record["objective"], record["trial"]))


def recorded_config(workdir: str | os.PathLike) -> Config | None:
    """The settings that the search in a folder started with; None for a new search."""
    file = pathlib.Path(workdir) / _PLAN
    return Config.from_json(_recorded_plan(file)["config"]) if file.is_file() else None


def _recorded_plan(file):
    """The content of search.json; InputError if it is damaged or of another program."""
    recorded = _read_json(file, "Put back a copy, or choose another --workdir.")
    if not isinstance(recorded, dict) or not recorded.keys() >= {"config", "search", "tuner", "objective"}:
        raise _not_of_a_search(f"a file of another program, {file}")
    return recorded


def _not_of_a_search(received):
    return input_error(
        "The workdir does not belong to a search",
        expected="an empty folder, or a search's plan in search.json",
        received=received,
        remedy="Choose another --workdir",
    )


def _read_json(file, remedy=_RESTORE):
    try:
        return read_json(file, "A record", remedy)
    except FileNotFoundError as error:
        raise input_error(
            "A record of the search is missing",
            expected="a workdir that chief and workers share",
            received=f"no {file}",
            remedy="Choose a shared --workdir",
        ) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, reports a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__
    return False
