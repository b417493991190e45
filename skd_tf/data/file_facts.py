"""What is known of each image file: size, content hash, shape, orientation. Read once and kept; without TensorFlow.

The facts of a folder's files are kept in the user's cache folder ($XDG_CACHE_HOME or ~/.cache, in skd_tf/files). A file's
facts are used again while its size, modification time and change time are the same; otherwise the file is read and hashed again.
"""

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from skd_tf.data import kept_arrays
from skd_tf.data.image_header import read_header
from skd_tf.runtime.console import Progress

_FORMAT = 3  # of the kept files; raise it when a field changes its meaning, or more files decode
_CLOCK_NS = 2_000_000_000  # the coarsest clock of a file system
_READERS = 16  # threads
UNREADABLE, UNTRIED, DECODES, DAMAGED = range(4)  # values of "state"
FACTS = np.dtype(
    [
        ("size", np.int64),
        ("mtime_ns", np.int64),
        ("ctime_ns", np.int64),  # also changes where a copy keeps the other time
        ("read_ns", np.int64),  # when the file was read
        ("sha256", "V32"),
        ("height", np.int32),  # as stored, before the orientation is applied
        ("width", np.int32),
        ("grey", np.bool_),
        ("orientation", np.uint8),
        ("deep", np.bool_),  # 16 bits per channel
        ("peak", np.int32),  # the largest value of a deep image; -1: unknown
        ("state", np.uint8),
    ]
)


class FileFacts:
    """The facts of some files below a folder.

    Args:
      root: the folder; the files' identity is relative to it.
      paths: of the files.

    Attributes:
      rows: `FACTS` `[n]`, in the order of `paths`.
      problems: {place in `paths`: why the file cannot be read}.
      read: number of files that were read now; the facts of the others were kept.
    """

    def __init__(self, root: str | os.PathLike, paths: Sequence[str]) -> None:
        self._root, self._names = os.path.abspath(root), [os.path.relpath(path, root) for path in paths]
        self.rows, self.problems, self.read = np.zeros(len(paths), FACTS), {}, 0
        self._kept_names, self._kept = _load(_place(self._root))
        place = {name: row for row, name in enumerate(self._kept_names)}
        self.rows["orientation"] = 1
        missing = []
        for row, (name, path) in enumerate(zip(self._names, paths, strict=True)):
            kept = place.get(name)
            try:
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    self.problems[row] = "it is not a regular file"
                elif kept is not None and self._kept[kept]["state"] == UNREADABLE:
                    missing.append(row)  # read it again to say what is wrong
                elif kept is not None and _unchanged(self._kept[kept], status):
                    self.rows[row] = self._kept[kept]
                else:
                    missing.append(row)
            except OSError as error:
                self.problems[row] = unopened(path, error)
        self._read(missing, paths)

    def _read(self, missing, paths):
        kept = self._kept[self._kept["state"] != UNREADABLE] if missing else ()
        known = {fact["sha256"].tobytes(): fact for fact in kept}
        with Progress("reading", len(missing), "files") as progress, ThreadPoolExecutor(_READERS) as pool:
            for done, (row, found) in enumerate(
                zip(missing, pool.map(_facts_of, [paths[r] for r in missing]), strict=True)
            ):
                facts, problem = found
                before = known.get(facts["sha256"].tobytes())
                if before is not None and facts["state"] == UNTRIED:  # moved, copied or touched: the content is known
                    facts["state"], facts["peak"] = before["state"], before["peak"]
                self.rows[row] = facts
                if problem:
                    self.problems[row] = problem
                progress.update(done + 1)
        self.read = len(missing)
        if missing:
            self.save()

    def read_again(self, rows: np.ndarray, paths: Sequence[str]) -> None:
        """Reads files that did not decode. One that cannot be read now, or has changed, is not kept as damaged."""
        for row in rows.tolist():
            facts, problem = _facts_of(paths[row])
            if problem or facts["sha256"] != self.rows[row]["sha256"]:
                self.rows[row]["state"] = UNREADABLE  # a later process reads it again
                self.problems[row] = problem or "it changed while it was read"

    def usable(self) -> np.ndarray:
        """Whether each file decodes, or has not been tried yet, bool `[n]`."""
        return (self.rows["state"] == UNTRIED) | (self.rows["state"] == DECODES)

    def save(self) -> None:
        """Keeps the facts for later processes; a cache folder that cannot be written is no problem."""
        place = _place(self._root)
        facts = dict(zip(*_load(place), strict=True)) | dict(zip(self._names, self.rows, strict=True))
        rows = np.fromiter(facts.values(), FACTS, len(facts))
        names = "\0".join(facts).encode("utf-8", "surrogateescape")
        kept_arrays.save(place, names=np.frombuffer(names, np.uint8), facts=rows.view(np.uint8))

    def identity(self) -> str:
        """SHA-256 of the files' names relative to the folder, and of their content."""
        digest = hashlib.sha256()
        for name, row in zip(self._names, self.rows, strict=True):
            digest.update(
                name.replace(os.sep, "/").encode("utf-8", "surrogateescape") + b"\0" + row["sha256"].tobytes()
            )
        return digest.hexdigest()

    def hashes(self) -> list[bytes]:
        """The content hash of each file; empty for one that is not used."""
        return [row["sha256"].tobytes() if used else b"" for row, used in zip(self.rows, self.usable(), strict=True)]


def unopened(path: str | os.PathLike, error: OSError) -> str:
    """Why a file cannot be opened, in words."""
    dead = os.path.islink(path) and not os.path.exists(path)
    return "the link leads nowhere" if dead else f"it cannot be read ({error.strerror})"


def _unchanged(kept, status):
    """Whether size and times are the same. The time of a file that was new when it was read proves nothing."""
    same = kept["size"] == status.st_size and kept["mtime_ns"] == status.st_mtime_ns
    same = same and kept["ctime_ns"] == status.st_ctime_ns
    return same and status.st_mtime_ns < kept["read_ns"] - _CLOCK_NS


def _facts_of(path):
    """(facts of one file, what is wrong with it or None)."""
    facts = np.zeros((), FACTS)
    facts["orientation"], facts["peak"], facts["read_ns"], problem = 1, -1, time.time_ns(), None
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
        facts["size"], facts["mtime_ns"], facts["ctime_ns"] = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        facts["sha256"] = np.void(hashlib.sha256(content).digest())
        header = read_header(content) if content else None
        if header is None:
            problem = "it is empty"
        else:
            facts["height"], facts["width"], facts["grey"] = header.height, header.width, header.grey
            facts["orientation"], facts["deep"], facts["state"] = header.orientation, header.bits == 16, UNTRIED
    except OSError as error:
        problem = unopened(path, error)
    except ValueError as error:
        problem = str(error)
    return facts, problem


def _place(root):
    return kept_arrays.place("files", f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}-{_FORMAT}")


def _load(place):
    """(names, facts) that were kept; none if they are missing or damaged."""
    kept = kept_arrays.load(place)
    with contextlib.suppress(ValueError, KeyError):
        text = kept["names"].tobytes().decode("utf-8", "surrogateescape")
        names, facts = text.split("\0") if text else [], kept["facts"].view(FACTS)
        if len(names) == len(facts):
            return names, facts
    return [], np.zeros(0, FACTS)
