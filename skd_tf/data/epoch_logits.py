"""The teacher's logits of the augmented training images, read by (epoch, image) from checked files."""

import collections
import pathlib
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from skd_tf.data.logit_shards import DamagedError, LogitShards, OldEpoch, OpenOldEpoch, OpenShard, Shard
from skd_tf.runtime.files import most_open

_KNOWN_PASSES = 3  # the one that is read, the one before it, and the one that is verified ahead
_REPAIRS = 2  # of one file; a disk that damages it more often is not repaired


class EpochLogits:
    """Logits by epoch and image. A block of a file is verified before the first of its records is used.

    When a pass is first read, a thread verifies all of it and then the next one, so that later reads find verified
    blocks. A damaged file is reported and made again, alone.

    Attributes:
      error: what ended reading, or None. TensorFlow, which calls `records`, passes on only the error's text.

    Args:
      shards: the files.
      epochs: number of passes.
      old: passes that skd_tf 0.1 wrote to one file, by epoch.
      repair: makes the files of shards; called from any thread.
      say: called with a line for each damaged file.
    """

    def __init__(
        self,
        shards: LogitShards,
        epochs: int,
        old: Mapping[int, OldEpoch],
        repair: Callable[[list[Shard]], Any],
        say: Callable[[str], Any],
    ) -> None:
        self.epochs, self.shards, self._old, self._repair, self._say = epochs, shards, dict(old), repair, say
        self.error: Exception | None = None
        self._lock = threading.RLock()
        self._open = _OpenFiles()
        self._passes: dict[int, _Pass] = {}
        self._current: int | None = None
        self._verifying = False

    def lookup(self, epoch: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The logits `[n, classes]` of images in one pass, as a TensorFlow operation.

        Args:
          epoch: number of the pass, a scalar.
          rows: int `[n]`, images in the order of the training split.
        """
        records = tf.numpy_function(self.records, [epoch, rows], tf.uint8, stateful=False)
        return self.shards.record.decode(tf.ensure_shape(records, [rows.shape[0], self.shards.record.bytes]))

    def records(self, epoch: int, rows: np.ndarray) -> np.ndarray:
        """The records of images in one pass, uint8 `[n, bytes]`, verified. Several threads may call it."""
        try:
            return self._records(int(epoch), np.asarray(rows))
        except Exception as error:
            self.error = self.error or error
            raise

    def _records(self, epoch, rows):
        while True:
            found = self._pass(epoch)
            self._verify_ahead_of(epoch)
            files, places = np.divmod(rows, found.rows)
            blocks = places // found.block_rows
            unverified = ~found.verified[files, blocks]
            if not unverified.any():
                break
            for place in {*zip(files[unverified].tolist(), blocks[unverified].tolist(), strict=True)}:
                self._verify(found, *place)
        size = self.shards.record.bytes
        records, content = bytearray(len(rows) * size), {file: found.file(file).records for file in {*files.tolist()}}
        for i, (file, start) in enumerate(zip(files.tolist(), (places * size).tolist(), strict=True)):
            records[i * size : (i + 1) * size] = content[file][start : start + size]
        return np.frombuffer(records, np.uint8).reshape(len(rows), size)

    def _pass(self, epoch):
        found = self._passes.get(epoch)
        if found is None:
            with self._lock:
                if epoch not in self._passes:
                    for other in [*self._passes][: 1 - _KNOWN_PASSES]:
                        self._passes.pop(other).close()
                    self._passes[epoch] = _Pass(epoch, self.shards, self._old.get(epoch), self._open)
                found = self._passes[epoch]
        return found

    def _verify_ahead_of(self, epoch):
        if epoch != self._current:
            with self._lock:
                self._current = epoch
                if not self._verifying:
                    self._verifying = True
                    threading.Thread(target=self._verify_ahead, name="verify logits", daemon=True).start()

    def _verify_ahead(self):
        """Verifies the pass that is read and the next one, block by block, until no other one is read."""
        while True:
            current = self._current
            try:
                for epoch in (current, (current + 1) % self.epochs):
                    found = self._pass(epoch)
                    for file, verified in enumerate(found.verified):  # file by file: a list of all blocks is large
                        for block in np.flatnonzero(~verified).tolist():
                            self._verify(found, file, block)
            except Exception:  # the stream meets the same block, and raises the error where it is seen
                pass
            with self._lock:
                if self._current == current:
                    self._verifying = False
                    return

    def _verify(self, found, file, block):
        """Verifies a block; if it is damaged, makes its file again."""
        try:
            found.file(file).verify(block)
            found.verified[file, block] = True
        except DamagedError:
            with self._lock:
                self._mend(found, file)

    def _mend(self, found, file):
        if found.is_old and self._passes.get(found.epoch) is not found:
            return  # another thread has replaced it
        found.close(file)
        try:  # another thread or process may have made it again
            found.check(file)
            return
        except DamagedError as error:
            problem = error
        found.repairs[file] += 1
        if found.repairs[file] > _REPAIRS:
            raise problem
        path = found.path(file)
        self._say(f"Teacher cache: {path.name} {problem}. It is not used and will be computed again.")
        path.unlink(missing_ok=True)
        numbers = range(self.shards.count) if found.is_old else [file]
        self._repair([Shard(found.epoch, number) for number in numbers])
        found.close(file)
        if found.is_old:
            del self._old[found.epoch], self._passes[found.epoch]


class JointLogits:
    """The logits of several teachers by epoch and image.

    Args:
      parts: those of each teacher, of as many passes over the same images.
    """

    def __init__(self, parts: Sequence[EpochLogits]) -> None:
        self.parts, self.epochs = tuple(parts), parts[0].epochs

    @property
    def error(self) -> Exception | None:
        """As `EpochLogits.error`: the first of the parts'."""
        return next((part.error for part in self.parts if part.error), None)

    def lookup(self, epoch: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """As `EpochLogits.lookup`: the logits `[n, teachers, classes]`."""
        return tf.stack([part.lookup(epoch, rows) for part in self.parts], axis=1)


class _OpenFiles:
    """The files that were used last. All instances together keep half as many as the process may have open.

    A cache of ImageNet has hundreds of files per pass, and a file that is mapped into memory counts as open.
    """

    _instances: ClassVar["weakref.WeakSet[_OpenFiles]"] = weakref.WeakSet()

    def __init__(self) -> None:
        self._files: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._instances.add(self)

    def get(self, key: Any, opened: Callable[[], Any]) -> Any:
        """The file of a key, which `opened` returns if it is not kept."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
                return self._files[key]
        file = opened()
        with self._lock:
            self._files[key] = file
            while len(self._files) > max(1, most_open() // 2 // len(self._instances)):
                self._files.popitem(last=False)
        return file

    def close(self, closes: Callable[[Any], bool]) -> None:
        """Lets go of the files for whose key `closes` is true."""
        with self._lock:
            for key in [key for key in self._files if closes(key)]:
                del self._files[key]


class _Pass:
    """The files of one pass, opened when they are read, and which of their blocks are verified."""

    def __init__(self, epoch: int, shards: LogitShards, old: OldEpoch | None, opened: _OpenFiles) -> None:
        self.epoch, self.is_old, self._shards, self._old, self._open = epoch, old is not None, shards, old, opened
        self.rows, self.block_rows = (shards.images,) * 2 if old else (shards.rows, shards.block_rows)
        blocks = [1] if old else [shards.blocks(number) for number in range(shards.count)]
        self.repairs = [0] * len(blocks)
        self.verified = np.arange(max(blocks)) >= np.array(blocks)[:, None]

    def file(self, number: int) -> OpenShard | OpenOldEpoch:
        """An open file; raises `DamagedError`, or `OSError` for one that cannot be read."""
        return self._open.get((self, number), self._old or (lambda: self._shards.open(Shard(self.epoch, number))))

    def close(self, number: int | None = None) -> None:
        """Lets go of a file, or of all."""
        self._open.close(lambda key: key[0] is self and number in (None, key[1]))

    def path(self, number: int) -> pathlib.Path:
        """Of a file."""
        return self._old.path if self._old else self._shards.path(Shard(self.epoch, number))

    def check(self, number: int) -> None:
        """Verifies a whole file; raises `DamagedError`."""
        file = self.file(number)
        for block in range(len(file.checksums)):
            file.verify(block)
