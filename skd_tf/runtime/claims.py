"""Claims on files that several processes make: each is made by one of them, and another takes over if that one is gone."""

import contextlib
import json
import os
import pathlib
import platform
import secrets
import threading
import time
from typing import Self

_held: set[pathlib.Path] = set()  # files that this process has claimed
_lock = threading.Lock()  # one thread of this process claims at a time
_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 60.0  # after which a process that does not beat is taken for gone: killed, or its machine is


class Claims:
    """The claims of this process, as files FILE.claim beside the files. Use it as a context manager.

    A thread touches them every few seconds. A claim is abandoned if its process ran on this machine and is gone, or if
    nothing has touched it for a minute. Two processes may then both make the file, which costs time and nothing else.
    """

    def __init__(self) -> None:
        self._me = {"host": machine(), "pid": os.getpid()}
        self._mine: set[pathlib.Path] = set()
        self._seen: dict[pathlib.Path, tuple[int, float]] = {}  # when a claim of another was last touched, by our clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()
        for path in [*self._mine]:
            self.release(path)

    def take(self, path: pathlib.Path) -> bool:
        """Claims a file, unless another process holds the claim.

        Raises:
          OSError: the claim cannot be written.
        """
        claim = _claim_of(path)
        with _lock:
            if not self._create(claim) and not self._take_over(claim):
                return False
            self._mine.add(path)
            _held.add(path)
            return True

    def release(self, path: pathlib.Path) -> None:
        """Gives a claim up."""
        self._mine.discard(path)
        _held.discard(path)
        with contextlib.suppress(OSError):
            _claim_of(path).unlink()

    @staticmethod
    def sweep(folder: pathlib.Path) -> None:
        """Removes the claims on files that exist: their processes were killed between the two."""
        for claim in folder.glob("*.claim"):
            if claim.with_suffix("").exists():
                with contextlib.suppress(OSError):
                    claim.unlink()

    def _create(self, claim):
        try:
            descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._me | {"token": secrets.token_hex(8)}, file)
        return True

    def _take_over(self, claim):
        """Replaces an abandoned claim; of several processes that find it, one succeeds."""
        text = self._abandoned(claim)
        if text is None:
            return False
        guard = claim.with_name(claim.name + ".takeover")
        if not self._create(guard):
            if self._abandoned(guard) is not None:  # killed between these lines
                guard.unlink(missing_ok=True)
            return False
        try:
            if claim.read_text() != text:
                return False
            claim.unlink()
            return self._create(claim)
        except FileNotFoundError:
            return False
        finally:
            guard.unlink(missing_ok=True)

    def _abandoned(self, claim):
        """The text of a claim if its process is gone, else None."""
        try:
            touched, text = claim.stat().st_mtime_ns, claim.read_text()
        except OSError:  # its holder has just released it
            return None
        with contextlib.suppress(ValueError, KeyError, TypeError):
            owner = json.loads(text)
            # A restarted container may have the same name and process number as the one that left the claim.
            if owner["host"] == self._me["host"] and (owner["pid"] == self._me["pid"] or not _is_running(owner["pid"])):
                return None if any(_claim_of(path) == claim for path in [*_held]) else text
        before, since = self._seen.get(claim, (None, 0.0))
        if before != touched:
            self._seen[claim] = touched, time.monotonic()
            return None
        return text if time.monotonic() - since > _SILENT_SECONDS else None

    def _beat(self):
        while not self._stop.wait(_BEAT_SECONDS):
            for path in [*self._mine]:
                with contextlib.suppress(OSError):
                    os.utime(_claim_of(path))


def machine() -> str:
    """The machine whose process numbers these are: containers may share a name, and count their processes apart."""
    with contextlib.suppress(OSError):
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def _claim_of(path):
    return path.with_name(f"{path.name}.claim")


def _is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs, as another user
    return True
