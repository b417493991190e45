"""How much memory a worker needs for an epoch: the logits of the teacher cache, and the per-image tables of the stream.

skd_tf's own input reads images of one pixel, so that everything else is small. Each number is the peak of the resident
memory minus what the process had before the stream started. docs/scale.md computes from the record.
"""

import concurrent.futures
import multiprocessing
import pathlib
import tempfile

import numpy as np

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation, teacher_cache
from skd_tf.runtime import tf_logging
from tools.benchmarks import results

BATCH = 256


def main(*, records: int, classes: int, images: int, output: str | None) -> None:
    """Measures both parts, each in a process of its own."""
    context, quiet = multiprocessing.get_context("spawn"), tf_logging.import_tensorflow
    with concurrent.futures.ProcessPoolExecutor(1, context, quiet, max_tasks_per_child=1) as pool:
        parts = pool.submit(logits, records, classes), pool.submit(tables, images)
        found = parts[0].result() | parts[1].result()
    print("\n".join(f"{name}: {value:,.2f}" for name, value in found.items()), flush=True)
    results.write(output, {"records": records, "classes": classes, "images": images} | found)


def _peak(*, reset=False):
    """Peak resident memory in bytes since the process started or since the last reset."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _stream(count, classes, files=(), **settings):
    """(bytes resident before, batches of two epochs of skd_tf's input over `count` images, steps per epoch)."""
    split = data.Split(np.ones([count, 1, 1, 1], np.uint8), np.ones(count, np.int32), np.arange(count))
    names, shifts = tuple(map(str, range(classes))), augmentation.Augmentation(1, False)
    dataset = data.Dataset("made", "1", names, (0.5,), (0.5,), shifts, split, None, None)
    steps, config = count // BATCH, Config(batch_size=BATCH, **settings)
    before = _peak(reset=True)
    stream = data.train_stream(
        dataset,
        config.pick(data.StreamSettings),
        steps_per_epoch=steps,
        first_step=0,
        last_step=2 * steps,
        logit_files=list(files),
    )
    return before, iter(stream), steps


def logits(records: int, classes: int) -> dict[str, float]:
    """Peak memory over the size of a file of logits, in the first epoch and where the second replaces it."""
    with tempfile.TemporaryDirectory() as folder:
        cache = teacher_cache.TeacherCache(folder, "float16", print)
        block = np.random.default_rng(0).normal(size=[BATCH, classes]).astype(np.float16)
        for epoch in range(2):
            cache.write(f"epoch{epoch}", np.tile(block, [-(-records // BATCH), 1])[:records])
        files = [str(cache.path(f"epoch{epoch}")) for epoch in range(2)]
        size = 2 * records * classes
        before, batches, steps = _stream(records, classes, files, teacher_cache_dir=folder)
        next(batches)
        first = _peak() - before
        for _ in range(steps + 5):
            next(batches)
        return {"first epoch's peak / file": first / size, "second epoch's peak / file": (_peak() - before) / size}


def tables(images: int) -> dict[str, float]:
    """Bytes per image of the stream itself, beside pixels, labels and indices."""
    before, batches, _ = _stream(images, 2)
    next(batches)
    return {"stream's tables, bytes an image": (_peak() - before) / images}
