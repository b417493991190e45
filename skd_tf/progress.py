"""Lines on standard output for whoever waits; of several workers the chief alone says them."""

import sys
import time

from skd_tf.cluster import chief_only

_SHOWN = (("loss", "loss"), ("train", "accuracy"), ("validation", "val_accuracy"), ("agreement", "agreement"))


@chief_only
def say(text=""):
    print(text, flush=True)


@chief_only
def warn(text):
    print(f"warning: {text}", file=sys.stderr, flush=True)


class Clock:
    """The seconds of a run over all its interruptions, and a line an epoch with those still to come."""

    def __init__(self, name, epochs, epochs_done, *, before):
        self.name, self.epochs, self.epochs_done, self.before = name, epochs, epochs_done, before
        self._start = time.monotonic()

    def seconds(self):
        return self.before + time.monotonic() - self._start

    def say_epoch(self, epoch, record):
        pace = (time.monotonic() - self._start) / (epoch - self.epochs_done)
        shown = "  ".join(f"{label} {record[name]:.3f}" for label, name in _SHOWN if name in record)
        say(
            f"  {self.name} epoch {epoch:>{len(str(self.epochs))}}/{self.epochs}  {shown}  "
            f"{record['examples_per_second']:,.0f} images/s  {_time(pace * (self.epochs - epoch))} left"
        )


def _time(seconds):
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
