"""Runs cells, one process each: assigns them cores or GPUs, passes signals on, and records each cell when it ends."""

import ctypes
import dataclasses
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

from experiments.lab import definitions
from experiments.lab.definitions import Cell
from experiments.lab.records import CALIBRATED, file_of, from_workdir, read_all, same_cell, settings, take_over
from skd_tf.errors import InputError, counted
from skd_tf.runs import run_files
from skd_tf.runtime import devices, signals
from skd_tf.runtime.console import duration, say
from skd_tf.runtime.files import LockedError, file_lock

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


@dataclasses.dataclass
class _Job:
    """A cell in a slot: the process that runs, and the commands that follow it."""

    cell: Cell
    slot: int
    commands: list
    process: subprocess.Popen | None = None
    start: float = dataclasses.field(default_factory=time.monotonic)


class Runner:
    """Runs cells, `jobs` at a time.

    Args:
      places: {"data_dir" (or None), "runs_dir", "teachers_dir", "results_dir"}, absolute paths.
      jobs: processes at a time.
      keep_runs: whether the workdirs of recorded cells stay.
      commit: whether each record is committed.
    """

    def __init__(self, places: dict, jobs: int = 1, keep_runs: bool = False, commit: bool = False):
        self._places, self._jobs, self._keep_runs, self._commit = places, jobs, keep_runs, commit
        self._gpus = devices.gpu_count()
        self._announced: set[Cell] = set()  # cells whose workdir another process holds

    def workdir(self, cell: Cell) -> pathlib.Path:
        """The folder of a cell's run."""
        if cell.is_teacher:  # it stays, and the cells that it teaches name it
            return pathlib.Path(self._places["teachers_dir"], cell.row)
        return pathlib.Path(self._places["runs_dir"], cell.path)

    def command(self, cell: Cell) -> list[str]:
        """The training command, to run from the repository's root."""
        config, places, root = definitions.config_of(cell), self._places, definitions.ROOT
        command = ["python", "-m", "skd_tf.train", *cell.arguments]
        if config.teacher_checkpoint and places["teachers_dir"] != str(root / "teachers"):
            inside = pathlib.PurePosixPath("teachers")
            each = [pathlib.Path(path) for path in config.teachers]
            moved = [pathlib.Path(places["teachers_dir"], p.name) if inside in p.parents else p for p in each]
            command.append(f"--teacher_checkpoint={','.join(map(str, moved))}")
        if config.teacher_cache_dir and places["runs_dir"] != str(root / "runs/studies"):
            command.append(f"--teacher_cache_dir={pathlib.Path(places['runs_dir'], 'teacher_cache')}")
        workdir = self.workdir(cell)
        workdir = workdir.relative_to(root) if root in workdir.parents else workdir
        return [*command, *self._data_dir(), f"--workdir={workdir}"]

    def commands(self, cell: Cell) -> list[list[str]]:
        """The training, then for a student with held-out images the fit of one temperature on them."""
        commands, workdir = [self.command(cell)], self.workdir(cell)
        if not cell.is_teacher and definitions.config_of(cell).validation_fraction:
            evaluate = ["python", "-m", "skd_tf.evaluate", f"--model={workdir}", "--calibrate", "--notiming"]
            output = f"--output={workdir / CALIBRATED}"
            commands.append([*evaluate, "--bootstrap=0", output, *self._data_dir()])
        return commands

    def _data_dir(self):
        return [f"--data_dir={self._places['data_dir']}"] * bool(self._places["data_dir"])

    def run(self, cells: list[Cell]) -> int:
        """Runs cells in order, those of a study after its teachers; returns the number of failed ones.

        Raises:
          Interrupted: by a signal, after the running cells have saved their state and ended.
        """
        waiting, failed = list(cells), 0
        jobs: list[_Job] = []
        with signals.deferred() as interrupted:
            try:
                while waiting or jobs:
                    for slot in sorted(set(range(self._jobs)) - {job.slot for job in jobs}):
                        cell = None if interrupted() else self._next(waiting, [job.cell for job in jobs])
                        if cell is not None:
                            waiting.remove(cell)
                            if cell.is_teacher or not self._take_over(cell):  # a copied record has no weights
                                jobs.append(self._begin(cell, slot))
                    time.sleep(_POLL_SECONDS)
                    for job in [job for job in jobs if job.process.poll() is not None]:
                        if job.commands and not job.process.returncode and not interrupted():
                            self._start(job)
                        else:
                            jobs.remove(job)
                            if not self._ended(job, interrupted()):
                                failed += 1 + (0 if interrupted() else self._drop_taught_by(job.cell, waiting))
                    if interrupted():
                        self._pass_on(jobs, interrupted())
                        raise signals.Interrupted(interrupted(), "The running cells have saved their state.")
            finally:
                for job in jobs:  # after an error in this process, or a second signal
                    job.process.terminate()
        return failed

    def _next(self, waiting, running):
        """The first cell whose teachers are trained, whose twin is not running and whose workdir is free; or None."""
        begun = [settings(definitions.config_of(cell)) for cell in running]
        untrained = {cell.row for cell in (*waiting, *running) if cell.is_teacher}
        ready = (cell for cell in waiting if untrained.isdisjoint(teachers_of(cell)))
        alone = (cell for cell in ready if settings(definitions.config_of(cell)) not in begun)
        return next((cell for cell in alone if self._free(cell)), None)

    def _drop_taught_by(self, cell, waiting):
        """Removes the students of a teacher that failed from `waiting`, and returns their number."""
        dropped = [student for student in waiting if cell.is_teacher and cell.row in teachers_of(student)]
        for student in dropped:
            waiting.remove(student)
        if dropped:
            say(f"{cell.path}: {counted(len(dropped), 'cell')} that it teaches will not start.")
        return len(dropped)

    def left(self, cells: list[Cell]) -> list[Cell]:
        """The cells without a record, and the teachers of such cells whose weights are not there."""
        new = [cell for cell in cells if not file_of(cell, self._places["results_dir"]).is_file()]
        teaching = {name for cell in new for name in teachers_of(cell)}
        gone = [cell for cell in cells if cell.is_teacher and cell.row in teaching and not self._has_weights(cell)]
        return [cell for cell in cells if cell in new or cell in gone]

    def _has_weights(self, teacher):
        return (self.workdir(teacher) / run_files.STUDENT).is_file()

    def _take_over(self, cell):
        records = read_all(self._places["results_dir"])
        other = same_cell(cell, records)
        if other is not None:
            record = take_over(cell, other, records[other], self._places["results_dir"])
            say(f"{cell.path}: the same training as {other.path}, its record is copied.")
            self._recorded(cell, record)
        return other is not None

    def _free(self, cell):
        """Whether no process holds the workdir: one whose parent was killed may still be saving its state."""
        lock = self.workdir(cell) / ".lock"
        if not lock.is_file():
            return True
        try:
            with file_lock(lock, wait=False, without_locks="run one study at a time."):
                return True
        except LockedError as error:
            if cell not in self._announced:
                say(f"{cell.path}: waits for the {error.owner}, which has its workdir.")
            self._announced.add(cell)
            return False

    def _begin(self, cell, slot):
        log = self._log(cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        resumes = (self.workdir(cell) / "config.json").is_file()
        say(f"{cell.path}: {'resumes' if resumes else 'starts'}, log {log}")
        job = _Job(cell, slot, self.commands(cell))
        self._start(job)
        return job

    def _start(self, job):
        command = job.commands.pop(0)
        own = set() if self._gpus else cores(job.slot, self._jobs, os.sched_getaffinity(0))
        with open(self._log(job.cell), "a") as output:
            print(f"$ {shlex.join(command)}", file=output, flush=True)
            job.process = subprocess.Popen(
                [sys.executable, *command[1:]],
                cwd=definitions.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(job.slot, self._gpus, self._jobs),
                start_new_session=True,  # a Ctrl-C at the terminal must reach it once, from here
                preexec_fn=lambda: _prepare(own),  # noqa: PLW1509 (there are no threads)
            )

    def _log(self, cell):
        return pathlib.Path(self._places["runs_dir"], f"{cell.path}.log")

    def _ended(self, job, interrupted):
        """Records a cell whose last process has ended, prints how it went, and returns whether it succeeded."""
        cell, code = job.cell, job.process.returncode
        if code or job.commands:
            if not interrupted:
                say(f"{cell.path}: FAILED, exit code {code}: {_last_words(self._log(cell))}")
            return False
        try:
            record = from_workdir(cell, self.workdir(cell), self._places["results_dir"])
        except InputError as error:
            say(f"{cell.path}: FAILED: {error}")
            return False
        say(f"{cell.path}: test top-1 {record['student']['accuracy']:.4f}, in {duration(time.monotonic() - job.start)}")
        self._recorded(cell, record)
        if not self._keep_runs and not cell.is_teacher:
            shutil.rmtree(self.workdir(cell))
        return True

    def _recorded(self, cell, record):
        if self._commit:
            self.commit(cell, record)

    def commit(self, cell: Cell, record: dict) -> None:
        """Commits one record by itself, whatever else is staged. A failure is printed, and the next run tries again."""
        path = file_of(cell, self._places["results_dir"])
        message = f"--message=Record: {cell.path}, test top-1 {record['student']['accuracy']:.4f}"
        for words in (["add"], ["commit", "--quiet", message]):
            git = _git(*words, "--", path)
            if git.returncode:
                said = (git.stderr or git.stdout).strip().splitlines() or [f"git ended with exit code {git.returncode}"]
                say(f"{cell.path}: recorded, not committed: {said[-1]}")
                return

    def commit_left(self, records: dict) -> None:
        """Commits those of {cell: record} that an earlier run left uncommitted."""
        status = _git("status", "--porcelain", "--untracked-files=all", "-z").stdout
        changed = {entry[3:] for entry in status.split("\0")}  # without -z git quotes names with spaces
        for cell, record in records.items():
            path = file_of(cell, self._places["results_dir"])
            if path.relative_to(definitions.ROOT).as_posix() in changed:
                self.commit(cell, record)

    def _pass_on(self, jobs, number):
        for job in jobs:
            job.process.send_signal(number)
        for job in jobs:
            job.process.wait()
            self._ended(job, True)  # a cell that finished before the signal is recorded
        jobs.clear()


def teachers_of(cell: Cell) -> set[str]:
    """The names of the teachers that a cell names, without folder and suffix."""
    return {pathlib.PurePath(path).name.removesuffix(".keras") for path in definitions.config_of(cell).teachers}


def _git(*words):
    return subprocess.run(["git", *words], cwd=definitions.ROOT, capture_output=True, text=True, check=False)


def environment(slot: int, gpus: int, jobs: int) -> dict[str, str]:
    """The environment of a slot's process: one GPU in turn, whose memory it does not take whole."""
    if not gpus or jobs == 1:
        return dict(os.environ)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    ids = visible.split(",") if visible else [str(number) for number in range(gpus)]
    return os.environ | {"CUDA_VISIBLE_DEVICES": ids[slot % len(ids)], "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def cores(slot: int, jobs: int, available: set[int]) -> set[int]:
    """The CPU cores of a slot's process; empty for all of them.

    With a core each, two resnet8 train 1.4 times as many images a second as one resnet8 on both (2,860 against 2,040).
    """
    return set(sorted(available)[slot::jobs]) if 1 < jobs <= len(available) else set()


def _prepare(own):
    """In the child: its cores, and SIGTERM when the parent dies, so that it saves its state even if the parent is killed."""
    if own:
        os.sched_setaffinity(0, own)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_words(log):
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1])
