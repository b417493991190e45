"""Computes the teacher's logits of augmented training images, shard by shard; several processes share the work."""

import collections
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from skd_tf.data.logit_shards import BATCH, LogitShards, Shard, StoredLogits
from skd_tf.data.teacher_cache import ABANDONED_SECONDS, unwritable
from skd_tf.errors import counted
from skd_tf.evaluation.predictor import Predictor
from skd_tf.runtime import atomic_files
from skd_tf.runtime.claims import Claims
from skd_tf.runtime.console import Progress, detail, duration

_WAIT_SECONDS = 0.5  # between two looks for files that other processes are computing


def compute(
    shards: LogitShards,
    wanted: Sequence[Shard],
    predictor: Callable[[], Predictor | StoredLogits],
    images_of: Callable[[int], Any],
    title: str = "teacher pass",
) -> None:
    """Returns when all wanted shards have files; computes each that no other process computes.

    While the devices compute, the next images are decoded and the shard before is written.

    Args:
      shards: the files.
      wanted: in the order in which to compute them.
      predictor: returns the teacher's `Predictor`; called if anything is to be computed.
      images_of: returns the augmented images of an epoch, indexed like an array; the epoch itself for `StoredLogits`.
      title: what the progress line calls the work.
    """
    images_of = functools.lru_cache(maxsize=1)(images_of)
    images = {shard: len(shards.images_in(shard.number)) for shard in wanted}
    start, total, computed = time.monotonic(), sum(images.values()), list[Shard]()
    if not wanted:
        return
    try:
        shards.folder.mkdir(parents=True, exist_ok=True)
        Claims.sweep(shards.folder)
        atomic_files.sweep(shards.folder, older_than_seconds=ABANDONED_SECONDS)
        with Progress(title, total, "images") as progress, Claims() as claims:
            left = [*wanted]
            while left:
                before, on_progress = len(computed), progress.after(total - sum(images[shard] for shard in left))
                computed += _compute_free(shards, left, claims, predictor, images_of, on_progress)
                left = shards.missing(left)
                if left and len(computed) == before:
                    time.sleep(_WAIT_SECONDS)
    except OSError as error:
        raise unwritable(shards.folder, error) from error
    if computed:
        seconds, done = time.monotonic() - start, sum(images[shard] for shard in computed)
        detail(f"  {title}: {counted(len(computed), 'shard')} in {duration(seconds)}, {done / seconds:,.0f} images/s")


def _compute_free(shards, wanted, claims, predictor, images_of, on_progress) -> Iterator[Shard]:
    """Computes the wanted shards that are free; yields each when its file is written."""
    started: collections.deque[Shard] = collections.deque()

    def batches():
        for shard in wanted:
            path = shards.path(shard)
            if shards.has(shard) or not claims.take(path):
                continue
            if shards.has(shard):  # finished between the two looks
                claims.release(path)
                continue
            started.append(shard)
            rows = shards.images_in(shard.number)
            for first in range(rows.start, rows.stop, BATCH):
                yield images_of(shard.epoch), range(first, min(first + BATCH, rows.stop))

    def write(shard, records):
        shards.write(shard, records)
        claims.release(shards.path(shard))
        return shard

    records: list[np.ndarray] = []
    done, writing = 0, None
    jobs = batches()
    first = next(jobs, None)
    if first is None:
        return
    with futures.ThreadPoolExecutor(1, thread_name_prefix="write logits") as writer:
        for logits in predictor().stream(_chain(first, jobs)):
            records.append(shards.record.encode(logits))
            done += len(logits)
            on_progress(done)
            if sum(map(len, records)) == len(shards.images_in(started[0].number)):
                if writing:
                    yield writing.result()
                writing, records = writer.submit(write, started.popleft(), np.concatenate(records)), []
        if writing:
            yield writing.result()


def _chain(first, rest):
    yield first
    yield from rest
