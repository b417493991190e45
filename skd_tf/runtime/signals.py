"""Interrupts: SIGTERM and SIGINT end a run where nothing is lost, with exit code 143 or 130."""

import contextlib
import signal
import threading

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal has ended the work.

    Args:
      number: of the signal.
      what: a sentence on where the work stands, or nothing.
    """

    def __init__(self, number, what=""):
        super().__init__(what)
        self.signal, self.what = signal.Signals(number), what

    @property
    def exit_code(self):
        return 128 + self.signal


@contextlib.contextmanager
def raised():
    """Turns both signals into `Interrupted`, at whatever place the program is."""

    def handle(number, frame):
        raise Interrupted(number)

    with _handled_by(handle):
        yield


@contextlib.contextmanager
def deferred():
    """Only notes the first signal: yields a function that returns its number, or None. A second one does not wait."""
    received = []

    def handle(number, frame):
        received.append(number)
        if len(received) > 1:
            raise Interrupted(number)

    with _handled_by(handle):
        yield lambda: received[0] if received else None


@contextlib.contextmanager
def _handled_by(handle):
    if threading.current_thread() is not threading.main_thread():  # where Python lets nobody handle signals
        yield
        return
    # What the shell has a background job ignore stays ignored.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
