"""The records of a search: one atomic file a trial. They are its whole state; nothing else is read to continue it."""

import errno
import pathlib
import shutil

from skd_tf.errors import input_error
from skd_tf.runs.data_identity import require_same_data
from skd_tf.runtime.files import read_json, write_json

RUNNING, FINISHED, FAILED = "running", "finished", "failed"
_OUTPUTS = ("search.json", "trials.csv", "trials.jsonl", "search.png", "best.flags", "trials", "tensorboard", "final")


class TrialRecords:
    """The trials of the search in a folder.

        search.json                 the plan
        trials/0003/record.json     {"trial", "status", "values", "started", "ended", "executions", "objective", ...}
        trials/0003/seed-0/         the run of one execution: metrics.jsonl, tensorboard/, checkpoints/ while it is running

    Args:
      folder: of the search.
      plan: the `Plan`.
    """

    def __init__(self, folder, plan):
        self.folder, self.plan = pathlib.Path(folder), plan

    def claim(self):
        """Begins or continues the search in this folder; `plan.config.overwrite` begins anew, and leaves teacher and cache.

        Raises:
          InputError: another search's folder; the differences are listed.
        """
        file = self.folder / "search.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.plan.config.overwrite and file.is_file():
                self._recorded_plan()  # refuses what is no search's
                self._clear()
            if not file.is_file():
                self._require_unused()
                write_json(file, self.plan.to_json())
        except OSError as error:
            raise input_error(
                f"The workdir cannot be written ({error.strerror})",
                expected="a writable folder",
                received=f"workdir={self.folder}",
                remedy="Choose another --workdir",
            ) from error
        self.require_same()

    def _require_unused(self):
        # A worker that is there before its chief makes an empty folder of trials.
        foreign = [name for name in (*_OUTPUTS[1:], "config.json") if (self.folder / name).exists()]
        if not list((self.folder / "trials").glob("*")):
            foreign = [name for name in foreign if name != "trials"]
        if foreign:
            raise input_error(
                "The workdir is not a search's",
                expected="search.json beside what it holds",
                received=f"{', '.join(foreign)} in {self.folder}",
                remedy="Choose another --workdir",
            )

    def require_same(self):
        """InputError where the folder is another search's."""
        differences = self.plan.differences(self._recorded_plan())
        if differences:
            raise input_error(
                f"The workdir {self.folder} belongs to another search",
                expected="the same settings",
                received=f"{'; '.join(differences)}",
                remedy="Choose another --workdir, or add --overwrite to begin anew",
            )

    def _recorded_plan(self):
        """What search.json holds; InputError where it is damaged, or another program's."""
        file = self.folder / "search.json"
        recorded = _read_json(file, "Put back a copy, or choose another --workdir.")
        if not isinstance(recorded, dict) or not recorded.keys() >= {"config", "search", "tuner", "objective"}:
            raise input_error(
                "The workdir is not a search's",
                expected="its plan in search.json",
                received=f"another program's file {file}",
                remedy="Choose another --workdir",
            )
        return recorded

    def _clear(self):
        for name in _OUTPUTS:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def remember(self, teacher, data):
        """InputError where the trials before had another teacher or other data.

        Args:
          teacher: its fingerprint; None where no trial has one.
          data: `skd_tf.training.run_callbacks.data_facts`.
        """
        file = self.folder / "search.json"
        recorded = self._recorded_plan()
        if teacher and recorded.get("teacher", teacher) != teacher:
            raise input_error(
                "The teacher has changed since this search began",
                expected="the same weights",
                received=f"others in {self.folder}",
                remedy="Choose another --workdir, or add --overwrite to begin anew",
            )
        require_same_data("search", recorded.get("facts", data), data)
        known = {"facts": data} | ({"teacher": teacher} if teacher else {})
        if known.keys() - recorded.keys():
            write_json(file, known | recorded)

    def trial_folder(self, number):
        return self.folder / "trials" / f"{number:04d}"

    def read(self, number):
        """The record of a trial, or None."""
        file = self.trial_folder(number) / "record.json"
        if not file.is_file():
            return None
        record = _read_json(file)
        if not self._is_of_this_search(record):
            raise input_error(
                "A record is not of this search",
                expected=f"a value of each of {', '.join(self.plan.names)}, from its space",
                received=f"{file}",
                remedy="Put back a copy, or add --overwrite to begin anew",
            )
        return record

    def _is_of_this_search(self, record):
        """A setting that is not searched, or a network that is not listed, would be code of a stranger's choice."""
        values = record.get("values") if isinstance(record, dict) else None
        if not isinstance(values, dict) or values.keys() != set(self.plan.names):
            return False
        return all(values[dimension.name] in dimension.values for dimension in self.plan.space if dimension.values)

    def write(self, record):
        folder = self.trial_folder(record["trial"])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "record.json", record)

    def all(self):
        """All records in the order of their numbers, which have no gap."""
        numbers = sorted(int(file.parent.name) for file in (self.folder / "trials").glob("[0-9]*/record.json"))
        if numbers != list(range(len(numbers))):
            missing = next(i for i, number in enumerate([*numbers, -1]) if i != number)
            raise input_error(
                "A record of the search is missing",
                expected=f"every trial up to {numbers[-1]}",
                received=f"no {self.trial_folder(missing) / 'record.json'}",
                remedy="Put it back, or add --overwrite to begin anew",
            )
        return [self.read(number) for number in numbers]

    def ranked(self):
        """The finished trials, best first; the earlier one of two that are equal."""
        finished = [record for record in self.all() if record["status"] == FINISHED]
        return sorted(finished, key=lambda record: (self.plan.goal.sign * record["objective"], record["trial"]))


def _read_json(file, remedy="Put back a copy, or add --overwrite to begin anew."):
    try:
        return read_json(file, "A record", remedy)
    except FileNotFoundError as error:
        raise input_error(
            "A record of the search is not there",
            expected="a workdir that chief and workers share",
            received=f"{file}",
            remedy="Choose a shared --workdir",
        ) from error


def is_disk_full(error):
    """Whether an exception, or what it came from, is a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__
    return False
