"""Files of teacher logits by shard: one checked file for each pass over the images and each range of them.

A file is a header, a table of checksums, and fixed-length records. The records come in blocks of about 64 KB, each
with a CRC-32 in the table; the header holds the SHA-256 of the table. So a reader checks what it reads, and no more.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import mmap
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from skd_tf.data.logit_records import LogitRecord
from skd_tf.data.teacher_cache import HEADER_BYTES, TeacherCache, not_finite, unwritable
from skd_tf.runtime import atomic_files

BATCH = 256  # images that a network computes at once; a shard's length is a multiple, so its bytes depend on no worker
MOST_ROWS = 8192
_MOST_BYTES = 1 << 24
_BLOCK_BYTES = 1 << 16
_FORMAT = 2


class Shard(NamedTuple):
    """One file: images [number * shard_rows, (number + 1) * shard_rows) of one pass."""

    epoch: int
    number: int


class DamagedError(Exception):
    """A file's content is not what was written; the message says how, without the file's name."""


def shard_rows(record_bytes: int) -> int:
    """Images in a shard: 8,192, or fewer so that their logits take about 16 MB."""
    return min(MOST_ROWS, max(1, _MOST_BYTES // (record_bytes * BATCH)) * BATCH)


@dataclasses.dataclass(frozen=True)
class LogitShards:
    """A folder with the logits of several passes over the same images.

    Attributes:
      folder: created when the first file is written.
      key: identifies everything that the logits of a pass depend on, except its number and the shards' length.
      images: number of images in a pass.
      record: layout of an image's logits.
      rows: images in a shard; the last shard may have fewer.
    """

    folder: pathlib.Path
    key: str
    images: int
    record: LogitRecord
    rows: int

    @property
    def count(self) -> int:
        """Shards in a pass."""
        return -(-self.images // self.rows)

    @property
    def block_rows(self) -> int:
        """Records in a block."""
        return max(1, _BLOCK_BYTES // self.record.bytes)

    def images_in(self, number: int) -> range:
        """The images of a shard."""
        return range(number * self.rows, min((number + 1) * self.rows, self.images))

    def path(self, shard: Shard) -> pathlib.Path:
        """The file of a shard."""
        return self.folder / f"{shard.epoch:04d}-{shard.number:05d}.logits"

    def blocks(self, number: int) -> int:
        """Blocks in a shard."""
        return -(-len(self.images_in(number)) // self.block_rows)

    def file_bytes(self, number: int) -> int:
        """Size of a shard's file."""
        return self._body(number) + len(self.images_in(number)) * self.record.bytes

    def missing(self, shards: Iterable[Shard], say: Callable[[str], object] = lambda line: None) -> list[Shard]:
        """The shards without a file of the right size, after one look into the folder; says each wrong size."""
        sizes, found = {}, []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process has moved its unfinished file
                    sizes[entry.name] = entry.stat().st_size
        for shard in shards:
            name, right = self.path(shard).name, self.file_bytes(shard.number)
            size = sizes.get(name)
            if size != right:
                found.append(shard)
            if size not in (right, None):
                say(
                    f"Teacher cache: {name} has {size} bytes instead of {right}. It is not used and will be computed again."
                )
        return found

    def has(self, shard: Shard) -> bool:
        """Whether the shard has a file of the right size."""
        try:
            return self.path(shard).stat().st_size == self.file_bytes(shard.number)
        except FileNotFoundError:
            return False

    def write(self, shard: Shard, records: np.ndarray) -> None:
        """Writes records uint8 `[images, bytes]`: the whole file or nothing."""
        if not self.record.fits(records):
            first, last = self.images_in(shard.number)[0], self.images_in(shard.number)[-1]
            raise not_finite(np.dtype(self.record.dtype), f"others among images {first:,} to {last:,}")
        table = np.array([zlib.crc32(block) for block in self._split(records)], "<u4").tobytes()
        table = table.ljust(self._body(shard.number) - HEADER_BYTES, b"\0")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_files.writing(self.path(shard)) as file:
                file.write(self._header(shard, hashlib.sha256(table).hexdigest()) + table)
                file.write(records.data)
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def open(self, shard: Shard) -> "OpenShard":
        """A shard's file, with header and table checked.

        Raises:
          DamagedError: the file is missing, or another one, or has changed.
          OSError: the file cannot be read, which does not say that it has changed.
        """
        path, body = self.path(shard), self._body(shard.number)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != self.file_bytes(shard.number):
                    raise DamagedError(f"has {size} bytes instead of {self.file_bytes(shard.number)}")
                header, table = file.read(HEADER_BYTES), file.read(body - HEADER_BYTES)
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            digest = json.loads(header)["sha256"]
        except FileNotFoundError as error:
            raise DamagedError("is missing") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"is damaged ({error})") from error
        if header != self._header(shard, digest):
            raise DamagedError("has another key")
        if hashlib.sha256(table).hexdigest() != digest:
            raise DamagedError("is damaged: its table of checksums has changed")
        checksums = np.frombuffer(table, "<u4", self.blocks(shard.number))
        return OpenShard(memoryview(content)[body:], self.block_rows * self.record.bytes, checksums)

    def read(self, shard: Shard) -> np.ndarray:
        """All records of a shard, uint8 `[images, bytes]`, verified; raises `DamagedError`."""
        file = self.open(shard)
        for block in range(len(file.checksums)):
            file.verify(block)
        return np.frombuffer(file.records, np.uint8).reshape(-1, self.record.bytes)

    def _body(self, number):
        """Position of the first record, a multiple of 64 bytes."""
        return HEADER_BYTES + -(-4 * self.blocks(number) // 64) * 64

    def _split(self, records):
        return (records[start : start + self.block_rows] for start in range(0, len(records), self.block_rows))

    def _header(self, shard, digest):
        images = self.images_in(shard.number)
        facts = {"format": _FORMAT, "key": self.key, "epoch": shard.epoch, "images": [images.start, images.stop]}
        facts |= {"record": [self.record.classes, self.record.dtype, self.record.top], "block": self.block_rows}
        return json.dumps(facts | {"sha256": digest}).encode().ljust(HEADER_BYTES)


class StoredLogits:
    """Shards of all logits, in the place of the network that computed them: `stream` is as `Predictor.stream`.

    Args:
      shards: with records of all logits.
    """

    def __init__(self, shards: LogitShards) -> None:
        self._shards = shards
        self._read = functools.lru_cache(maxsize=1)(shards.read)

    def stream(self, jobs: Iterable[tuple[int, range]]) -> Iterator[np.ndarray]:
        """Logits `[n, classes]` of images in one pass, for each (epoch, images); raises `DamagedError`.

        The images of a job are in one shard: a job has at most `BATCH` and begins at a multiple of it.
        """
        for epoch, images in jobs:
            number, start = divmod(images.start, self._shards.rows)
            yield self._shards.record.all_logits(self._read(Shard(epoch, number))[start : start + len(images)])


@dataclasses.dataclass(frozen=True)
class OpenShard:
    """A file's records, mapped into memory.

    Attributes:
      records: the bytes of all records.
      block_bytes: length of a block; the last one may be shorter.
      checksums: uint32 `[blocks]`, CRC-32 of each block.
    """

    records: memoryview
    block_bytes: int
    checksums: np.ndarray

    def verify(self, block: int) -> None:
        """Raises `DamagedError` if the content of a block has changed."""
        content = self.records[block * self.block_bytes : (block + 1) * self.block_bytes]
        if zlib.crc32(content) != self.checksums[block]:
            raise DamagedError(f"is damaged: the checksum of block {block} does not match")


@dataclasses.dataclass(frozen=True)
class OldEpoch:
    """A file of skd_tf 0.1 with one pass; its one checksum is of the whole file. Call it to open the file.

    Attributes:
      cache, key, shape: of the `TeacherCache` that wrote it.
    """

    cache: TeacherCache
    key: str
    shape: tuple[int, int]

    @property
    def path(self) -> pathlib.Path:
        return self.cache.path(self.key)

    @property
    def exists(self) -> bool:
        """Whether there is a file of the right size."""
        return self.path.is_file() and self.path.stat().st_size == self.cache.file_bytes(self.shape)

    def __call__(self) -> "OpenOldEpoch":
        try:
            with open(self.path, "rb") as file:
                return OpenOldEpoch(
                    memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[HEADER_BYTES:], self
                )
        except FileNotFoundError as error:
            raise DamagedError("is missing") from error
        except ValueError as error:  # an empty file
            raise DamagedError(f"is damaged ({error})") from error


@dataclasses.dataclass(frozen=True)
class OpenOldEpoch:
    """An `OldEpoch`'s records, mapped into memory, in one block."""

    records: memoryview
    file: OldEpoch
    checksums = (None,)

    def verify(self, block: int) -> None:
        """Raises `DamagedError` if the file has changed or has another key."""
        problem = self.file.cache.problem(self.file.path, self.file.key, self.file.shape)
        if problem:
            raise DamagedError(problem)
