"""Trains the cells of studies that have no record yet, one process a cell.

    python tools/reproduce.py capacity_gap --data_dir=DATA --dry_run
    python tools/reproduce.py capacity_gap temperature --data_dir=DATA --jobs=2 --commit

Seed by seed over all that are named. Stop it at any moment: the same command goes on, in the middle of the cell that was
stopped. A cell that fails is told, and the next one runs. What is the same training as a cell of any study that has a record
is not run again. The teachers' logits are computed once, for all cells and studies.
"""

import ctypes
import fcntl
import fnmatch
import json
import os
import pathlib
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # a checkout need not be installed

import studies
import study_records
from study_numbers import training_seconds

from skd_tf import cli, devices, interrupts
from skd_tf.errors import InputError
from skd_tf.knobs import did_you_mean
from skd_tf.progress import duration, say
from skd_tf.workdir import locked

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1  # of Linux' prctl


def define(flag_values):
    cli.define_flags(flag_values, names=("data_dir",))
    flags.DEFINE_multi_string("study", None, "what to run, also without the flag's name", flag_values=flag_values)
    flags.DEFINE_string("runs_dir", "runs/studies", "folder of the workdirs, their logs and the teacher cache",
                        flag_values=flag_values)  # fmt: skip
    flags.DEFINE_string("teachers_dir", "teachers", "folder of the teachers' files", flag_values=flag_values)
    flags.DEFINE_string("results_dir", studies.RESULTS, "folder of the records", flag_values=flag_values)
    flags.DEFINE_integer("jobs", 1, "cells at a time, each with its share of the CPU cores, or with one GPU in turn",
                         lower_bound=1, flag_values=flag_values)  # fmt: skip
    flags.DEFINE_multi_string("only", [], "cells, as STUDY/PAIR/ROW/seedN with * for any part; all unless given",
                              flag_values=flag_values)  # fmt: skip
    flags.DEFINE_integer("limit", None, "at most so many cells this time", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_boolean("commit", False, "commit each record to git, alone, when its cell ends", flag_values=flag_values)
    flags.DEFINE_boolean("keep_runs", False, "keep the workdirs of cells that have a record", flag_values=flag_values)
    flags.DEFINE_boolean("dry_run", False, "list the cells with their estimated time, and stop", flag_values=flag_values)


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


def estimate(cell, records):
    """Training seconds of a cell at the median pace of records with the same student and arithmetic; None without any.

    Of records on the same data where there are some, else on data of as many training images: the number of classes, all
    that CIFAR-10 and CIFAR-100 differ in, costs a student next to nothing.
    """
    config = studies.config_of(cell)
    wanted = study_records.settings(config)
    keys = "student", "validation_fraction", "batch_size", "precision", "teacher_cache_dir", "image_size"
    alike = [r for r in records.values() if all(r["config"].get(key) == wanted[key] for key in keys)
             and _family(r["config"]["dataset"]) == _family(config.dataset)]  # fmt: skip
    alike = [r for r in alike if r["config"]["dataset"] == config.dataset] or alike
    return statistics.median(training_seconds(r) / r["config"]["epochs"] for r in alike) * config.epochs if alike else None


def _family(dataset):
    """Sets whose images are alike count as one."""
    return dataset.rstrip("0123456789")


def plan_text(cells, runner, records, results, jobs=1):
    """The dry run's list: every cell with its state and its command."""
    lines, left, firsts = [], [], {}  # settings of what is to run -> its path
    for cell in cells:
        first = firsts.setdefault(json.dumps(study_records.settings(studies.config_of(cell))), cell.path)
        if study_records.file_of(cell, results).is_file():
            state = f"done, test top-1 {records[cell]['student']['accuracy']:.4f}"
        elif other := study_records.same_cell(cell, records):
            state = f"would be taken over from {other.path}"
        elif first != cell.path:
            state = f"the same training as {first}"
        else:
            seconds = estimate(cell, records)
            left.append(seconds)
            begun = "begun, at most " if (runner.workdir(cell) / "config.json").is_file() else ""
            state = f"{begun}{duration(seconds)}" if seconds is not None else f"{begun}unknown time"
        lines += [f"{cell.path}: {state}", f"    {shlex.join(runner.command(cell))}"]
    known = [seconds for seconds in left if seconds is not None]
    total = f"about {duration(sum(known) / jobs)} for {len(known)} of them" if known else "time unknown"
    passes = ", beside the passes of teachers whose logits are not cached yet" if known else ""
    return "\n".join([*lines, f"{len(cells)} cells, {len(left)} to run: {total}{passes}."])


def chosen(cells, patterns):
    """The cells whose paths match one of the patterns; InputError for a pattern that matches none."""
    for pattern in patterns:
        if not fnmatch.filter([cell.path for cell in cells], pattern):
            raise InputError(f"No cell has this name. Expected a path as --dry_run lists them, such as {cells[-1].path}, or "
                             f"a pattern as */seed0. Received only={pattern}. Correct it.")  # fmt: skip
    return [cell for cell in cells if not patterns or any(fnmatch.fnmatch(cell.path, pattern) for pattern in patterns)]


def main(flag_values):
    names = list(dict.fromkeys(flag_values.study or []))
    for name in names or [""]:
        if name not in studies.STUDIES:
            remedy = did_you_mean(name, studies.STUDIES, "Name one")
            raise InputError(
                f"No such study. Expected one of {', '.join(studies.STUDIES)}. Received study={name}. "
                f"{remedy}{'' if remedy.endswith('?') else '.'}"
            )
    places = {
        name: os.path.abspath(pathlib.Path(getattr(flag_values, name)).expanduser()) if getattr(flag_values, name) else None
        for name in ("data_dir", "runs_dir", "teachers_dir", "results_dir")
    }
    results = places["results_dir"]
    if flag_values.commit and studies.ROOT not in pathlib.Path(results).parents:
        raise InputError(
            f"Records outside the repository cannot be committed to it. Expected a folder under {studies.ROOT}. "
            f"Received results_dir={results}. Leave out --commit or --results_dir."
        )
    for name in names:
        study = studies.STUDIES[name]
        say(f"{name}: {study.question}")
        if not studies.cells(study):
            say(f"It has no cells of its own: it reads the records of {', '.join(study.drawn_from)}.")
    cells = chosen(studies.cells(*(studies.STUDIES[name] for name in names)), flag_values.only)
    runner = Runner(places, flag_values.jobs, flag_values.keep_runs, flag_values.commit)
    if flag_values.dry_run:
        say(plan_text(cells, runner, study_records.read_all(results), results, flag_values.jobs))
        return None
    with locked(places["runs_dir"]):
        left = [cell for cell in cells if not study_records.file_of(cell, results).is_file()]
        say(f"{len(cells)} cells, {len(cells) - len(left)} have a record.")
        failed = runner.run(left[: flag_values.limit])
    return 1 if failed else None


if __name__ == "__main__":
    cli.run(main, description="Trains the cells of a study that have no record yet.", define=define, required=(),
            positional="study")  # fmt: skip
