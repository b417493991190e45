"""Runs cells, a process each, some at a time: dealt out to cores or GPUs, stopped and resumed, recorded as they end."""

import ctypes
import fcntl
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import studies
import study_records

from skd_tf import devices, interrupts
from skd_tf.errors import InputError
from skd_tf.progress import duration, say

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


class Runner:
    """Runs cells, `jobs` at a time.

    Args:
      places: {"data_dir" (or None), "runs_dir", "teachers_dir", "results_dir"}, absolute paths.
      jobs: processes at a time.
      keep_runs: whether workdirs of recorded cells stay.
      commit: whether each record is committed.
    """

    def __init__(self, places, jobs=1, keep_runs=False, commit=False):
        self._places, self._jobs, self._keep_runs, self._commit = places, jobs, keep_runs, commit
        self._gpus, self._waits_for = devices.gpu_count(), None

    def workdir(self, cell):
        if cell.is_teacher:  # which stays, and is named by the cells that it teaches
            return pathlib.Path(self._places["teachers_dir"], cell.row)
        return pathlib.Path(self._places["runs_dir"], cell.path)

    def command(self, cell):
        """The plain training command, run from the repository's root."""
        config, places = studies.config_of(cell), self._places
        command = ["python", "-m", "skd_tf.train", *cell.arguments]
        if config.teacher_checkpoint and places["teachers_dir"] != str(studies.ROOT / "teachers"):
            teacher = pathlib.Path(places["teachers_dir"], pathlib.Path(config.teacher_checkpoint).name)
            command.append(f"--teacher_checkpoint={teacher}")
        if config.teacher_cache_dir and places["runs_dir"] != str(studies.ROOT / "runs/studies"):
            command.append(f"--teacher_cache_dir={pathlib.Path(places['runs_dir'], 'teacher_cache')}")
        command += [f"--data_dir={places['data_dir']}"] * bool(places["data_dir"])
        workdir = self.workdir(cell)
        return [*command, f"--workdir={workdir.relative_to(studies.ROOT) if studies.ROOT in workdir.parents else workdir}"]

    def run(self, cells):
        """Runs cells in their order, those of a study after its teachers; returns the number of those that failed.

        Raises:
          Interrupted: by a signal, after the cells that were running have saved their state and ended.
        """
        waiting, running, failed = list(cells), {}, 0  # slot -> (cell, process, start)
        with interrupts.deferred() as interrupted:
            try:
                while waiting or running:
                    for slot in sorted(set(range(self._jobs)) - set(running)):
                        cell = None if interrupted() else self._next(waiting, [cell for cell, *_ in running.values()])
                        if cell is not None:
                            waiting.remove(cell)
                            if not self._take_over(cell):
                                running[slot] = cell, self._start(cell, slot), time.monotonic()
                    time.sleep(_POLL_SECONDS)
                    for slot, (cell, process, start) in list(running.items()):
                        if process.poll() is not None:
                            del running[slot]
                            failed += not self._ended(cell, process.returncode, time.monotonic() - start, interrupted())
                    if interrupted():
                        self._pass_on(running, interrupted())
                        raise interrupts.Interrupted(interrupted(), "Cells that were running have saved their state.")
            finally:
                for _, process, _ in running.values():  # after an error of our own, or a second signal
                    process.terminate()
        return failed

    def _next(self, waiting, running):
        """The first cell that can begin: with its study's teachers trained, no twin that runs, its workdir free; or None."""
        begun = [study_records.settings(studies.config_of(cell)) for cell in running]
        untaught = {cell.study for cell in (*waiting, *running) if cell.is_teacher}
        ready = (cell for cell in waiting if cell.is_teacher or cell.study not in untaught)
        alone = (cell for cell in ready if study_records.settings(studies.config_of(cell)) not in begun)
        return next((cell for cell in alone if self._free(cell)), None)

    def _take_over(self, cell):
        records = study_records.read_all(self._places["results_dir"])
        other = study_records.same_cell(cell, records)
        if other is not None:
            record = study_records.take_over(cell, other, records[other], self._places["results_dir"])
            say(f"{cell.path}: the same training as {other.path}, its record is taken over.")
            self._recorded(cell, record)
        return other is not None

    def _free(self, cell):
        """Whether no process has a cell's workdir: one whose parent was killed may still be saving its state."""
        lock = self.workdir(cell) / ".lock"
        if not lock.is_file():
            return True
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._waits_for != cell:
                    say(f"{cell.path}: waits for the {file.read()}, which has its workdir.")
                self._waits_for = cell
                return False
            except OSError:  # a file system without locks, which nobody can have
                return True
        return True

    def _start(self, cell, slot):
        workdir, command = self.workdir(cell), self.command(cell)
        log = self._log(cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        own = set() if self._gpus else cores(slot, self._jobs, os.sched_getaffinity(0))
        say(f"{cell.path}: {'resumes' if (workdir / 'config.json').is_file() else 'begins'}, log {log}")
        with open(log, "a") as output:
            print(f"$ {shlex.join(command)}", file=output, flush=True)
            # A session of its own: a Ctrl-C at the terminal must reach it once, from here.
            return subprocess.Popen(
                [sys.executable, *command[1:]], cwd=studies.ROOT, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, env=environment(slot, self._gpus, self._jobs), start_new_session=True,
                preexec_fn=lambda: _prepare(own),  # noqa: PLW1509 (there are no threads)
            )  # fmt: skip

    def _log(self, cell):
        return pathlib.Path(self._places["runs_dir"], f"{cell.path}.log")

    def _ended(self, cell, code, seconds, interrupted):
        """Records a cell whose process has ended; says how it went, and returns whether it went well."""
        if code:
            if not interrupted:
                say(f"{cell.path}: FAILED, exit code {code}: {_last_words(self._log(cell))}")
            return False
        try:
            record = study_records.from_workdir(cell, self.workdir(cell), self._places["results_dir"])
        except InputError as error:
            say(f"{cell.path}: FAILED: {error}")
            return False
        say(f"{cell.path}: test top-1 {record['student']['accuracy']:.4f}, in {duration(seconds)}")
        self._recorded(cell, record)
        if not self._keep_runs and not cell.is_teacher:
            shutil.rmtree(self.workdir(cell))
        return True

    def _recorded(self, cell, record):
        if self._commit:
            message = f"--message=Record: {cell.path}, test top-1 {record['student']['accuracy']:.4f}"
            path = study_records.file_of(cell, self._places["results_dir"])
            for words in (["add"], ["commit", "--quiet", message]):  # of this file alone, whatever else is staged
                command = ["git", *words, "--", path]
                git = subprocess.run(command, cwd=studies.ROOT, capture_output=True, text=True, check=False)
                if git.returncode:
                    say(f"{cell.path}: recorded, not committed: {(git.stderr or git.stdout).strip().splitlines()[-1]}")
                    return

    def _pass_on(self, running, number):
        for _, process, _ in running.values():
            process.send_signal(number)
        for cell, process, start in running.values():
            code = process.wait()
            if code == 0:  # its end came first
                self._ended(cell, code, time.monotonic() - start, True)
        running.clear()


def environment(slot, gpus, jobs):
    """The environment of the process in a slot: one GPU where there are some, and room on it for others."""
    if not gpus or jobs == 1:
        return dict(os.environ)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    ids = visible.split(",") if visible else [str(number) for number in range(gpus)]
    return os.environ | {"CUDA_VISIBLE_DEVICES": ids[slot % len(ids)], "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def cores(slot, jobs, available):
    """The CPU cores of a slot's process, so that its threads do not wait for those of the others; empty for all there are.

    Two resnet8 at a time on one core each train 1.4 times as many images a second as one on both (2,860 against 2,040).
    """
    return set(sorted(available)[slot::jobs]) if 1 < jobs <= len(available) else set()


def _prepare(own):
    """In the child: its cores, and SIGTERM when the parent dies, so that its state is saved even where we were killed."""
    if own:
        os.sched_setaffinity(0, own)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_words(log):
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line.startswith("error:")), lines[-1])
