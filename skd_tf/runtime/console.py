"""Lines on standard output for whoever waits; of several workers the chief alone says them."""

import contextlib
import sys
import time

from skd_tf.runtime.cluster import chief_only

_SHOWN = (("loss", "loss"), ("train", "accuracy"), ("validation", "val_accuracy"), ("agreement", "agreement"))
_SECONDS_BETWEEN_LINES = 20.0  # in a log
_SECONDS_BETWEEN_UPDATES = 0.5  # of the one line that a terminal shows
_live = {"length": 0}  # of the line that the next one on the terminal replaces


@chief_only
def say(text=""):
    _clear()
    print(text, flush=True)


@chief_only
def warn(text):
    _clear()
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Progress:
    """How far a long piece of work is, how fast it goes, and how long it still takes.

    On a terminal one line that is written over twice a second and vanishes at the end; elsewhere a line every 20 seconds,
    and none for work that is shorter.

    Args:
      what: the work, in words.
      total: units in all.
      unit: what is counted, in the plural.
      done: units that were done before.
    """

    def __init__(self, what, total, unit, *, done=0):
        self._what, self._total, self._unit, self._before = what, total, unit, done
        self._start = self._said = time.monotonic()

    def update(self, done, more=""):
        """Says a line where one is due; `done` counts from the work's very beginning, `more` stands at the end."""
        now = time.monotonic()
        terminal = sys.stdout.isatty()
        due = now - self._said >= (_SECONDS_BETWEEN_UPDATES if terminal else _SECONDS_BETWEEN_LINES)
        if not due or done >= self._total:
            return
        self._said = now
        _show(self.line(done, now - self._start) + more, terminal)

    def after(self, done):
        """`update` for a part of the work that begins when `done` units are done."""
        return lambda more: self.update(done + more)

    def said(self):
        """Another line has just told how far the work is."""
        self._said = time.monotonic()

    def line(self, done, seconds):
        rate = (done - self._before) / seconds if seconds > 0 else 0.0
        left = f"{duration((self._total - done) / rate)} left" if rate > 0 else "starting"
        pace = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return f"  {self._what}  {done:,}/{self._total:,} {self._unit}  {pace} {self._unit}/s  {left}"

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        _clear()


@chief_only
def _show(text, terminal):
    if not terminal:
        print(text, flush=True)
        return
    _clear()
    print(text, end="", flush=True)
    _live["length"] = len(text)


def _clear():
    if _live["length"]:
        print("\r" + " " * _live["length"] + "\r", end="", flush=True)
        _live["length"] = 0


class Stopwatch:
    """Seconds of a run's parts, by their names: `with watch("export"): ...`."""

    def __init__(self):
        self.seconds = {}

    def add(self, part, seconds):
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    @contextlib.contextmanager
    def __call__(self, part):
        start = time.monotonic()
        yield
        self.add(part, time.monotonic() - start)


class EpochClock:
    """The seconds of a run over all its interruptions, a line an epoch with those still to come, and more in long epochs.

    Args:
      name: what is trained.
      epochs: of the whole run.
      first_step: steps that were done before.
      steps_per_epoch: steps in one.
      before: seconds that the run took before.
    """

    def __init__(self, name, epochs, first_step, steps_per_epoch, *, before):
        self._name, self._epochs, self._first_step, self._steps_per_epoch = name, epochs, first_step, steps_per_epoch
        self._before, self._start = before, time.monotonic()
        self._progress = Progress(f"  {name}", epochs * steps_per_epoch, "steps", done=first_step)

    def seconds(self):
        return self._before + time.monotonic() - self._start

    def say_step(self, step):
        self._progress.update(step, f"  (epoch {step // self._steps_per_epoch + 1}/{self._epochs})")

    def say_epoch(self, epoch, record):
        pace = (time.monotonic() - self._start) / (epoch - self._first_step / self._steps_per_epoch)
        shown = "  ".join(f"{label} {record[name]:.3f}" for label, name in _SHOWN if name in record)
        say(
            f"  {self._name} epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}  {shown}  "
            f"{record['examples_per_second']:,.0f} images/s  {duration(pace * (self._epochs - epoch))} left"
        )
        self._progress.said()


def duration(seconds):
    """Seconds as 4:05 or 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
