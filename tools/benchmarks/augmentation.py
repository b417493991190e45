"""What each augmentation costs: batches from the input pipeline, from images in memory, by list of augmentations."""

import functools
import statistics

import numpy as np

from skd_tf import data
from skd_tf.config import Config
from skd_tf.data import augmentation
from tools.benchmarks import interleaved, results

LISTS = {
    "none": augmentation.NO_EXTRA,
    "trivial": augmentation.Extra(trivial=True),
    "erase": augmentation.Extra(erase=0.25),
    "mixup": augmentation.Extra(mixup=0.2),
    "cutmix": augmentation.Extra(cutmix=1.0),
    "all of these": augmentation.Extra(True, 0.25, 0.2, 1.0),
}
_IMAGES, _BATCH, _CLASSES = 1024, 64, 100


def main(*, sizes: list[int], rounds: int, output: str | None) -> None:
    """Times batches of 64 images of each size; every list comes after pad, crop and mirror."""
    record, rows = {}, []
    for size in sizes:
        contenders = {name: functools.partial(prepare, size, name) for name in LISTS}
        times = record[str(size)] = interleaved.race(contenders, rounds)
        for name, row in times.items():
            median, ratios = results.ratios(row, times["none"])
            rate = 1000 * _BATCH / statistics.median(row["ms"])
            rows.append([str(size), name, f"{rate:,.0f}", f"{median:.1f}", results.spread(ratios)])
    print(
        results.table(["side, pixels", "after crop and mirror", "images/s", "time / none", "spread"], rows), flush=True
    )
    results.write(output, {"batch_size": _BATCH, "times": record})


def prepare(size: int, name: str) -> interleaved.Contender:
    """The pipeline of one list, started."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, [_IMAGES, size, size, 3]).astype(np.uint8)
    labels = random.integers(0, _CLASSES, _IMAGES).astype(np.int32)
    split = data.Split(images, labels, np.arange(_IMAGES))
    names, crop = tuple(map(str, range(_CLASSES))), augmentation.Augmentation(size // 8, True)
    dataset = data.Dataset("random", "1", names, (0.5,) * 3, (0.25,) * 3, crop, split, None, None, extra=LISTS[name])
    steps = _IMAGES // _BATCH
    settings = Config(batch_size=_BATCH).pick(data.StreamSettings)
    batches = iter(data.train_stream(dataset, settings, steps_per_epoch=steps, first_step=0, last_step=10_000 * steps))
    count = max(4, 40 * 32**2 // size**2)
    for _ in range(count):
        next(batches)
    return interleaved.Contender(lambda: [next(batches) for _ in range(count)], count)
