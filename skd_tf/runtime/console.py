"""What a run prints: lines, warnings and progress. Only the chief prints, and printing never ends a run.

A run has stages (teacher, alone, distilled). At --verbosity=normal each stage is one line, with `detail` and the epochs left
out; at full all is printed.
"""

import contextlib
import contextvars
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TextIO

from skd_tf.errors import counted
from skd_tf.runtime.cluster import chief_only

_SHOWN = (
    ("loss", "loss"),
    ("train", "accuracy"),
    ("validation", "val_accuracy"),
    ("validation agreement", "val_agreement"),
    ("train agreement", "agreement"),
)
_SECONDS_BETWEEN_LINES = 20.0  # in a log
_SECONDS_BETWEEN_UPDATES = 0.5  # on a terminal
_SECONDS_BETWEEN_TENTHS = 10.0  # in a log at normal verbosity: a line for each tenth, but not more often than this,
_MOST_SECONDS_WITHOUT_A_LINE = 600.0  # and not less often than this
_live = {"length": 0}  # of the progress line on the terminal, which the next line overwrites
_stage: contextvars.ContextVar[str] = contextvars.ContextVar("stage", default="")
_silent: contextvars.ContextVar[bool] = contextvars.ContextVar("silent", default=False)
_verbosity = {"full": False}


def set_verbosity(verbosity: str) -> None:
    """Sets what is printed from here on: "normal" or "full"."""
    _verbosity["full"] = verbosity == "full"


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Names a part of a run: its progress is printed under that name. A part of a part has the outer one's name."""
    token = _stage.set(_stage.get() or name)
    try:
        yield
    finally:
        _stage.reset(token)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Inside this context, no line, no warning and no progress is printed: of what is built here only to be looked at."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def say_on_every_worker(text: str) -> None:
    """Prints a line on standard output, on each worker."""
    if not _silent.get():
        _clear()
        write(text, sys.stdout)


@chief_only
def say(text: str = "") -> None:
    """Prints a line on standard output."""
    say_on_every_worker(text)


def detail(text: str = "") -> None:
    """`say` at full verbosity."""
    if _verbosity["full"]:
        say(text)


def say_of_part(text: str = "") -> None:
    """`say`, or `detail` inside a stage: a run that another run started says less."""
    (detail if _stage.get() else say)(text)


@chief_only
def warn(text: str) -> None:
    """Prints a warning on standard error."""
    if not _silent.get():
        _clear()
        write(f"warning: {text}", sys.stderr)


def write(text: str, stream: TextIO | None, end: str = "\n") -> None:
    """Prints on every worker, without ever raising an exception.

    Characters that the stream's encoding lacks are printed as escapes. Nothing is printed if the stream is missing
    or closed, or if its reader is gone.
    """
    if stream is None:  # print would take it for standard output
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        try:
            print(text, end=end, file=stream, flush=True)
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            print(text.encode(encoding, "backslashreplace").decode(encoding), end=end, file=stream, flush=True)
        except BrokenPipeError:
            # The unwritten rest would fail again when Python exits, with exit code 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Progress:
    """Shows how far a long task is, how fast it runs and how much time is left.

    On a terminal, one line is updated twice a second and disappears at the end. In a log, a line is added every 20
    seconds; shorter tasks print nothing.

    Args:
      what: the task, in words.
      total: units in all.
      unit: what is counted, in the plural.
      done: units that were done before.
    """

    def __init__(self, what: str, total: int, unit: str, *, done: int = 0) -> None:
        self._what, self._total, self._unit, self._before = what, total, unit, done
        self._start = self._printed = time.monotonic()

    def update(self, done: int, more: str = "") -> None:
        """Prints a line if it is time for one.

        Args:
          done: units done in all, with those that were done before.
          more: the end of the line.
        """
        now, terminal = time.monotonic(), _on_terminal()
        due = now - self._printed >= (_SECONDS_BETWEEN_UPDATES if terminal else _SECONDS_BETWEEN_LINES)
        if due and done < self._total:
            self._printed = now
            _show(self.line(done, now - self._start) + more, terminal)

    def after(self, done: int) -> Callable[[int], None]:
        """`update` for a part of the task that starts after `done` units; it takes the units done in that part."""
        return lambda more: self.update(done + more)

    def postpone(self) -> None:
        """Waits the full time until the next line: another one has just reported the progress."""
        self._printed = time.monotonic()

    def line(self, done: int, seconds: float) -> str:
        """The line to print `seconds` after the start."""
        rate = (done - self._before) / seconds if seconds > 0 else 0.0
        left = f"{duration((self._total - done) / rate)} left" if rate > 0 else "starting"
        pace = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return f"  {self._what}  {done:,}/{self._total:,} {self._unit}  {pace} {self._unit}/s  {left}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        _clear()


def _on_terminal():
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # missing or closed
        return False


@chief_only
def _show(text, terminal, measures="", end=""):
    """Shows a progress line. On a terminal that is too narrow, the last measures are left out: a line that wraps stays."""
    if _silent.get():
        return
    width = shutil.get_terminal_size().columns - 1 if terminal else sys.maxsize
    while measures and len(text + measures + end) > width:
        measures = measures.rpartition("  ")[0]
    text = (text + measures + end)[:width]
    _clear()
    write(text, sys.stdout, end="" if terminal else "\n")
    _live["length"] = len(text) if terminal else 0


def _clear():
    if _live["length"]:
        write("\r" + " " * _live["length"] + "\r", sys.stdout, end="")
        _live["length"] = 0


class Stopwatch:
    """Adds up the seconds of each part of a run: `with watch("export"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, part: str, seconds: float) -> None:
        """Adds seconds that were measured elsewhere."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.add(part, time.monotonic() - start)


class EpochClock:
    """Measures a run's seconds over all its interruptions, and prints its progress.

    At full verbosity there is a line per epoch, and more during long epochs. At normal verbosity a terminal shows one line
    that is updated, and a log gets a line for each tenth of the run.

    Args:
      name: what is trained.
      epochs: of the whole run.
      first_step: steps that were done before.
      steps_per_epoch: steps in one epoch.
      before: seconds that the run took before.
    """

    def __init__(self, name: str, epochs: int, first_step: int, steps_per_epoch: int, *, before: float) -> None:
        self._name, self._epochs, self._first_step, self._steps_per_epoch = name, epochs, first_step, steps_per_epoch
        self._before, self._start = before, time.monotonic()
        self._progress = Progress(f"  {name}", epochs * steps_per_epoch, "steps", done=first_step)
        self._title = f"{_stage.get() or 'student':9}  {name}"
        self._last_step, self._printed, self._shown = epochs * steps_per_epoch, self._start, ""
        self._tenth = 10 * first_step // self._last_step
        self._paced_from: tuple[int, float] | None = None  # the first step reported, and when

    def seconds(self) -> float:
        """Seconds that the run has taken in all."""
        return self._before + time.monotonic() - self._start

    def say_step(self, step: int) -> None:
        """Reports the progress inside an epoch, if it is time for a line."""
        if _verbosity["full"]:
            self._progress.update(step, f"  (epoch {step // self._steps_per_epoch + 1}/{self._epochs})")
        else:
            self._update(step)
        self._paced_from = self._paced_from or (step, time.monotonic())

    def say_epoch(self, epoch: int, record: Mapping[str, Any]) -> None:
        """Reports a finished epoch, with the measurements in its record."""
        if not _verbosity["full"]:
            values = (f"{label} {record[name]:.3f}" for label, name in _SHOWN if name in record and label != "loss")
            self._shown = "".join(f"  {value}" for value in values)
            self._update(epoch * self._steps_per_epoch)
            return
        shown = "  ".join(f"{label} {record[name]:.3f}" for label, name in _SHOWN if name in record)
        say(
            f"  {self._name} epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}  {shown}  "
            f"{record['examples_per_second']:,.0f} images/s  {duration(self._left(epoch * self._steps_per_epoch))} left"
        )
        self._progress.postpone()

    def say_end(self, epochs: int | None = None) -> None:
        """Prints the line of the finished run at normal verbosity; `epochs` are those trained, all by default."""
        if not _verbosity["full"]:
            trained = counted(self._epochs if epochs is None else epochs, "epoch")
            say(f"{self._title}: {trained} in {duration(self.seconds())}{self._shown}")

    def _update(self, step: int) -> None:
        """The progress line at normal verbosity, if it is time for one."""
        now, terminal, tenth = time.monotonic(), _on_terminal(), 10 * step // self._last_step
        waited = now - self._printed
        if terminal:
            due = waited >= _SECONDS_BETWEEN_UPDATES
        else:
            due = (tenth > self._tenth and waited >= _SECONDS_BETWEEN_TENTHS) or waited >= _MOST_SECONDS_WITHOUT_A_LINE
        if due and self._first_step < step < self._last_step:
            self._printed, self._tenth = now, tenth
            left = (
                f"  {duration(self._left(step))} left" if self._paced_from else ""
            )  # compiling says nothing of the pace
            epoch = f"epoch {step // self._steps_per_epoch + 1}/{self._epochs}"
            _show(f"{self._title}  {step / self._last_step:4.0%}  {epoch}", terminal, self._shown, left)

    def _left(self, step: int) -> float:
        """Seconds that the remaining steps take at the pace since the first report: compiling is over by then."""
        start = self._first_step, self._start
        if self._paced_from and self._paced_from[0] < step:
            start = self._paced_from
        return (time.monotonic() - start[1]) / (step - start[0]) * (self._last_step - step)


def duration(seconds: float) -> str:
    """Seconds as minutes or hours.

    Examples:
      >>> duration(245), duration(3723)
      ('4:05', '1:02:03')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
