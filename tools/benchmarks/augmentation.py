"""What each augmentation costs: processor time of the input pipeline, from images in memory, by list of augmentations.

Processor time of all threads, not time that passes: it hardly depends on what else the machine does.
"""

import statistics
import time

import numpy as np
import tensorflow as tf

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation
from tools.benchmarks import results

LISTS = {
    "nothing": augmentation.NO_EXTRA,
    "trivial": augmentation.Extra(trivial=True),
    "erase": augmentation.Extra(erase=0.25),
    "mixup": augmentation.Extra(mixup=0.2),
    "cutmix": augmentation.Extra(cutmix=1.0),
    "all of these": augmentation.Extra(True, 0.25, 0.2, 1.0),
}
_IMAGES, _BATCH, _CLASSES = 256, 64, 100


def main(*, sizes: list[int], rounds: int, output: str | None) -> None:
    """Times batches of 64 images of each size; every list comes after pad, crop and mirror."""
    record, rows = {}, []
    for size in sizes:
        times: dict[str, list[float]] = {name: [] for name in LISTS}
        for _ in range(rounds):
            for name, extra in LISTS.items():
                batches = _batches(size, extra)
                next(batches)  # traces
                start = time.process_time()
                count = sum(1 for _ in batches)
                times[name].append(1e3 * (time.process_time() - start) / count / _BATCH)
        record[str(size)] = times
        for name, found in times.items():
            extra = [mine - its for mine, its in zip(found, times["nothing"], strict=True)]
            cells = (f"{statistics.median(values):.3f} ({results.spread(values, '.3f')})" for values in (found, extra))
            rows.append([str(size), name, *cells])
    header = ["side, pixels", "after crop and mirror", "ms of a core per image", "more than nothing"]
    print(results.table(header, rows), flush=True)
    results.write(output, {"batch_size": _BATCH, "ms_per_image": record})


def _batches(size, extra):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [_IMAGES, size, size, 3]).astype(np.uint8)
    labels = random.integers(0, _CLASSES, _IMAGES).astype(np.int32)
    split = data.Split(images, labels, np.arange(_IMAGES))
    names, crop = tuple(map(str, range(_CLASSES))), augmentation.Augmentation(size // 8, True)
    dataset = data.Dataset("random", "1", names, (0.5,) * 3, (0.25,) * 3, crop, split, None, None, extra=extra)
    steps = _IMAGES // _BATCH
    settings = Config(batch_size=_BATCH).pick(data.StreamSettings)
    stream = data.train_stream(dataset, settings, steps_per_epoch=steps, first_step=0, last_step=3 * steps)
    options = tf.data.Options()
    options.autotune.enabled = False  # no batch is made long before it is asked for
    return iter(stream.with_options(options))
