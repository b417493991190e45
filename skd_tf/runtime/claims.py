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

_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 60.0  # after which a process that does not beat is taken for gone: killed, or its machine is


class Claims:
    """The claims of this process, as files FILE.claim beside the files. Use it as a context manager.

    A thread touches them every few seconds. A claim is abandoned if its process ran on this machine and is gone, or if
    nothing has touched it for a minute. Two processes may then both make the file, which costs time and nothing else.
    """

    def __init__(self) -> None:
        self._me = {"host": platform.node(), "pid": os.getpid()}
        self._held: set[pathlib.Path] = set()
        self._seen: dict[pathlib.Path, tuple[int, float]] = {}  # when a claim of another was last touched, by our clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claims", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        self._thread.join()
        for path in list(self._held):
            self.release(path)

    def take(self, path: pathlib.Path) -> bool:
        """Claims a file, unless another process holds the claim.

        Raises:
          OSError: the claim cannot be written.
        """
        claim = _claim_of(path)
        if self._create(claim) or (self._is_abandoned(claim) and self._remove(claim) and self._create(claim)):
            self._held.add(path)
            return True
        return False

    def release(self, path: pathlib.Path) -> None:
        """Gives a claim up."""
        self._held.discard(path)
        with contextlib.suppress(OSError):
            _claim_of(path).unlink()

    def _create(self, claim):
        try:
            descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._me, file)
        return True

    def _is_abandoned(self, claim):
        try:
            touched, text = claim.stat().st_mtime_ns, claim.read_text()
        except OSError:  # its holder has just released it
            return False
        with contextlib.suppress(ValueError, KeyError, TypeError):
            owner = json.loads(text)
            # A restarted container may have the same name and process number as the one that left the claim.
            if owner["host"] == self._me["host"] and (owner["pid"] == self._me["pid"] or not _is_running(owner["pid"])):
                return not any(_claim_of(path) == claim for path in self._held)
        before, since = self._seen.get(claim, (None, 0.0))
        if before != touched:
            self._seen[claim] = touched, time.monotonic()
            return False
        return time.monotonic() - since > _SILENT_SECONDS

    def _remove(self, claim):
        """Removes an abandoned claim; only one process succeeds."""
        mine = claim.with_name(f"{claim.name}.{secrets.token_hex(4)}.tmp")
        try:
            os.rename(claim, mine)
        except FileNotFoundError:
            return False
        mine.unlink()
        return True

    def _beat(self):
        while not self._stop.wait(_BEAT_SECONDS):
            for path in list(self._held):
                with contextlib.suppress(OSError):
                    os.utime(_claim_of(path))


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
