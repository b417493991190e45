"""How much memory the teacher's logits need, by number of images: while they are computed, checked and trained from.

skd_tf's own pass, files and input, with images of one pixel and a teacher of one layer, so that everything else is small.
Each number is the peak of the process's own memory (RssAnon: without mapped files, which the system drops when memory is
short) minus the images. Beside it: how long a step waits for its input, in the middle and where one epoch follows another.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import pathlib
import statistics
import tempfile
import threading
import time

import keras
import numpy as np

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation
from skd_tf.data.epoch_logits import EpochLogits
from skd_tf.data.logit_records import LogitRecord
from skd_tf.data.logit_shards import LogitShards, Shard, shard_rows
from skd_tf.data.memory_budget import aligned_empty
from skd_tf.errors import input_error
from skd_tf.evaluation.predictor import Predictor
from skd_tf.runtime import tf_logging
from skd_tf.training import teacher_pass
from tools.benchmarks import results

BATCH = 256
_WAITS = 64  # steps around the change of epochs


def main(*, records: list[int], classes: int, top: int, step_ms: int, output: str | None) -> None:
    """Measures each number of records in a process of its own."""
    least = BATCH * _WAITS
    if not records or min(records) < least:
        received, remedy = f"records={records}", "Correct --records"
        raise input_error("Too few images to wait for", expected=f"{least} or more", received=received, remedy=remedy)
    context, quiet = multiprocessing.get_context("spawn"), tf_logging.import_tensorflow
    with concurrent.futures.ProcessPoolExecutor(1, context, quiet, max_tasks_per_child=1) as pool:
        found = {str(count): pool.submit(measure, count, classes, top, step_ms / 1e3).result() for count in records}
    parts = next(iter(found.values()))
    print(
        results.table(["", *found], ([part, *(f"{found[n][part]:,.1f}" for n in found)] for part in parts)), flush=True
    )
    results.write(output, {"classes": classes, "top": top, "step_ms": step_ms, "records": found})


def measure(count: int, classes: int, top: int, step_seconds: float) -> dict[str, float]:
    """Peaks in MB and waits in ms for `count` images."""
    dataset, found = made_dataset(count, classes), {}
    with tempfile.TemporaryDirectory() as folder:
        record = LogitRecord(classes, "float16", top)
        shards = LogitShards(pathlib.Path(folder), "made up", count, record, shard_rows(record.bytes))
        wanted = [Shard(epoch, number) for epoch in range(2) for number in range(shards.count)]
        with _peak(found, "computing, MB", count):
            images_of = functools.partial(data.AugmentedImages, dataset, 0)
            teacher_pass.compute(shards, wanted[: shards.count], _teacher(classes), images_of)
        for shard in wanted[shards.count :]:  # another epoch would take as long and show nothing new
            records = np.frombuffer(shards.open(Shard(0, shard.number)).records, np.uint8)
            shards.write(shard, records.reshape(-1, record.bytes))
        with _peak(found, "checking, MB", count):
            start = time.process_time()
            for shard in wanted:
                file = shards.open(shard)
                for block in range(len(file.checksums)):
                    file.verify(block)
            checked = sum(shards.file_bytes(shard.number) for shard in wanted)
            found["checked, MB per second of CPU"] = checked / 1e6 / (time.process_time() - start)
        with _peak(found, "training, MB", count):
            steps, waits = count // BATCH, []
            logits = EpochLogits(shards, 2, {}, _no_repair, print)
            settings = Config(batch_size=BATCH).pick(data.StreamSettings)
            limits = {"steps_per_epoch": steps, "first_step": 0, "last_step": 2 * steps}
            batches = iter(data.train_stream(dataset, settings, **limits, teacher_logits=logits))
            for step in range(steps + _WAITS):
                if step >= steps - _WAITS:
                    time.sleep(step_seconds)
                start = time.monotonic()
                next(batches)
                waits.append(1e3 * (time.monotonic() - start))
        found["wait in mid-epoch, ms"] = statistics.median(waits[steps - _WAITS // 2 : steps])
        found["wait at an epoch's first step, ms"] = max(waits[steps : steps + 4])
    return found


def made_dataset(count: int, classes: int) -> data.Dataset:
    """`count` images of one pixel."""
    images = aligned_empty(count, (1, 1, 1))  # as all sources return them; others are copied
    images.fill(1)
    split = data.Split(images, np.ones(count, np.int32), np.arange(count))
    names, shifts = tuple(map(str, range(classes))), augmentation.Augmentation(1, False)
    return data.Dataset("made", "1", names, (0.5,), (0.5,), shifts, split, None, None)


def _teacher(classes):
    @functools.cache
    def predictor():
        layers = [keras.Input([1, 1, 1]), keras.layers.Flatten(), keras.layers.Dense(classes, "tanh")]
        return Predictor(keras.Sequential(layers))

    return predictor


def _no_repair(damaged):
    raise RuntimeError(f"{damaged} were just written, and are damaged.")


@contextlib.contextmanager
def _peak(found, name, images_bytes):
    """Notes the peak of the process's anonymous memory within the block, in MB, without the images."""
    peak, stop = [0], threading.Event()

    def watch():
        while not stop.wait(0.005):
            peak[0] = max(peak[0], _anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        found[name] = (peak[0] - images_bytes) / 1e6


def _anonymous_bytes():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
