"""Speed at ImageNet's size, part by part: input from JPEG files, training steps, teacher passes.

The images are synthetic: 500 x 375 JPEG files of about 100 kB; ImageNet's average 110 kB. The networks have random
weights, which cost the same. The files are in the page cache, so no disk is measured.
docs/scale.md computes from the record.
"""

import dataclasses
import functools
import pathlib
import statistics
import tempfile

import numpy as np
import tensorflow as tf

from skd_tf import data, networks
from skd_tf.config import Config
from skd_tf.distillation import optimizers
from skd_tf.distillation.distiller import Distiller
from skd_tf.models.fold_batch_norm import fold_batch_norm
from skd_tf.models.precision import set_precision
from tools.benchmarks import interleaved, made_logits, results
from tools.benchmarks.interleaved import Contender

STEPS = 4  # of a round
IMAGES, CLASSES = 1280, 1000


def main(
    *, student: list[str], teacher: list[str], batch_size: int, precision: str, rounds: int, output: str | None
) -> None:
    """Runs one race of all parts."""
    job = {"batch_size": batch_size, "precision": precision}
    with tempfile.TemporaryDirectory() as folder:
        image_bytes = _write_images(pathlib.Path(folder))
        parts = {"input": functools.partial(input_alone, folder, batch_size)}
        parts |= {f"step of {name}, logits given": functools.partial(step, name, **job) for name in student}
        parts |= {f"pass of {name}": functools.partial(teacher_pass, name, **job) for name in teacher}
        rows = interleaved.race(parts, rounds)
    lines = []
    for name, row in rows.items():
        row["images_per_second"] = speed = 1000 * batch_size / row["median_ms"]
        spread = results.spread(row["ms"], ",.0f")
        lines.append((name, f"{speed:,.1f} images", spread, f"{row['peak_memory_mb']:,.0f}"))
    print(f"224 x 224, batch {batch_size}, {precision}, {results.machine()}\n")
    print(results.table(("part", "per second, median", "ms per step, spread", "peak memory, MB"), lines), flush=True)
    results.write(output, job | {"rounds": rounds, "picture_bytes": image_bytes, "parts": rows})


def _write_images(folder):
    """Writes IMAGES JPEG files CLASS/NUMBER.jpg of smooth shapes and noise; returns their mean size in bytes."""
    random, sizes = np.random.default_rng(0), []
    for number in range(IMAGES):
        coarse = tf.image.resize(random.uniform(0, 255, [12, 16, 3]), [375, 500], method="bicubic").numpy()
        pixels = np.clip(coarse + random.normal(0, 19, coarse.shape), 0, 255).astype(np.uint8)
        encoded = tf.io.encode_jpeg(pixels, quality=90).numpy()
        path = folder / f"{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        sizes.append(len(encoded))
    return statistics.mean(sizes)


def input_alone(folder: str, batch_size: int) -> Contender:
    """skd_tf's input alone: resized crops with cached logits."""
    config = Config(
        dataset=f"folder:{folder}",
        augmentation="resized_crop",
        image_size=224,
        validation_fraction=0.0,
        batch_size=batch_size,
    )
    dataset = data.load(config.pick(data.DataSettings), test=False)
    dataset = dataclasses.replace(dataset, class_names=tuple(map(str, range(CLASSES))))  # records of ImageNet's length
    logits = made_logits.make(tempfile.mkdtemp(), len(dataset.train), CLASSES)
    epoch, steps = len(dataset.train) // batch_size, 16 * STEPS  # beyond the buffers
    batches = iter(
        data.train_stream(
            dataset,
            config.pick(data.StreamSettings),
            steps_per_epoch=epoch,
            first_step=0,
            last_step=10**6,
            teacher_logits=logits,
        )
    )
    return Contender(lambda: [next(batches) for _ in range(steps)], steps)


def _net(name, precision):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    net = networks.build(name, input_shape=(224, 224, 3), num_classes=CLASSES, mean=mean, std=std)
    return set_precision(net, precision)


def step(net: str, *, precision: str, batch_size: int) -> Contender:
    """Training steps on one batch with its logits, repeated, so that no input is timed."""
    config, random = Config(precision=precision, batch_size=batch_size), np.random.default_rng(0)
    distiller = Distiller(_net(net, precision), None, "spherical")
    distiller.compile(optimizers.make_optimizer(config.pick(optimizers.OptimizerSettings), 0.05))
    logits = random.normal(size=[batch_size, CLASSES]).astype(np.float16)
    labels = random.integers(0, CLASSES, batch_size).astype(np.int32)
    batch = {"image": _images(batch_size), "teacher_logits": logits}, labels
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())

    def run():
        distiller.run_steps(iterator, STEPS)
        return distiller.means.result()

    return Contender(run, STEPS)


def teacher_pass(net: str, *, precision: str, batch_size: int) -> Contender:
    """Forward passes of a teacher with folded BatchNorms."""
    model = fold_batch_norm(_net(net, precision))
    images = tf.constant(_images(batch_size))
    forward = tf.function(lambda: model(images, training=False), autograph=False)
    return Contender(lambda: [forward().numpy() for _ in range(STEPS)], STEPS)


def _images(batch_size):
    return np.random.default_rng(0).integers(0, 256, [batch_size, 224, 224, 3], np.uint8)
