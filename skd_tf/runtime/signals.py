"""SIGTERM and SIGINT stop a run where nothing is lost, with exit code 143 or 130."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_SENT_AGAIN = 0.05  # seconds later, when the object is gone
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has stopped the work.

    Args:
      number: the signal's number.
      what: a sentence on what is saved, or nothing.
    """

    def __init__(self, number: int, what: str = "") -> None:
        super().__init__(what)
        self.signal, self.what = signal.Signals(number), what

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as a shell has it."""
        return 128 + self.signal


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Inside this context, both signals raise `Interrupted` wherever the program is.

    Python drops an exception that is raised while it deletes an object. The signal is then sent again.
    """

    def handle(number, frame):
        raise Interrupted(number)

    pending: list[threading.Timer] = []

    def dropped(unraisable):
        if isinstance(unraisable.exc_value, Interrupted):
            pending.append(threading.Timer(_SENT_AGAIN, os.kill, (os.getpid(), unraisable.exc_value.signal)))
            pending[-1].daemon = True
            pending[-1].start()
        else:
            before(unraisable)

    before, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        with _handled_by(handle):
            yield
            for timer in pending:
                timer.join()  # the signal comes before this context ends
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int | None]]:
    """Records the first signal; the second one raises `Interrupted`.

    Yields:
      A function that returns the first signal's number, or None.
    """
    received: list[int] = []

    def handle(number, frame):
        received.append(number)
        if len(received) > 1:
            raise Interrupted(number)

    with _handled_by(handle):
        yield lambda: received[0] if received else None


@contextlib.contextmanager
def _handled_by(handle: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread only
        yield
        return
    # A signal that the shell makes a background job ignore stays ignored.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
