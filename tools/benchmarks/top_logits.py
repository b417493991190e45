"""How far targets rebuilt from the largest logits are from the full ones: KL(full || rebuilt) by temperature.

The logits are made up, with a Gaussian body and a raised class, scaled so that their norm and the mean probability of the
top class are those of a real teacher's record (`experiments/results/cifar100`), for 100 classes and for 1,000. With
--model they are also those of a teacher on augmented training images of --dataset, which a student would learn from.
"""

import pathlib

import numpy as np
import tensorflow as tf

from skd_tf import data
from skd_tf.data.logit_records import LogitRecord
from skd_tf.errors import input_error
from skd_tf.evaluation.predictor import Predictor
from skd_tf.models import loading
from tools.benchmarks import results

TEMPERATURES = (1.0, 4.0, 8.0)


_IMAGES = 4096


def main(*, kept: list[int], model: str, dataset: str, data_dir: str, output: str | None) -> None:
    """Measures each set of logits with each number of kept ones."""
    sets = {f"made up, {classes} classes": made_up(classes, norm, top) for classes, norm, top in _STATISTICS}
    if model:
        sets = {f"{pathlib.Path(model).stem} on {dataset}": taught(model, dataset, data_dir)} | sets
    fewest = min(logits.shape[1] for logits in sets.values()) - 2
    if not kept or not 1 <= min(kept) <= fewest:
        raise input_error(
            "Not a number of logits to keep that fits all sets",
            expected=f"numbers of 1 to {fewest}, at least one",
            received=f"kept={kept}",
            remedy="Correct --kept",
        )
    found = {name: [_row(logits, k) for k in kept if k <= logits.shape[1] - 2] for name, logits in sets.items()}
    for name, rows in found.items():
        print(
            f"\n{name}\n" + results.table([*rows[0]], ([f"{v:.3g}" for v in row.values()] for row in rows)), flush=True
        )
    results.write(output, {"logits": {name: facts(logits) for name, logits in sets.items()}, "kl": found})


# (classes, mean norm, mean probability of the top class): resnet56 on CIFAR-100; for 1,000 classes, the norm of the same
# spread of logits.
_STATISTICS = ((100, 37.5, 0.86), (1000, 118.6, 0.86))


def taught(model: str, dataset: str, data_dir: str) -> np.ndarray:
    """A teacher's logits of augmented training images, evenly spaced; the held-out images are those of the studies."""
    splits = data.load(data.DataSettings(dataset=dataset, validation_split="uniform"), data_dir or None, test=False)
    rows = data.evenly_spaced(len(splits.train), _IMAGES)
    return Predictor(loading.load(model))(data.AugmentedImages(splits, data_seed=0, epoch=0)[rows])


def made_up(classes: int, norm: float, top: float, images: int = _IMAGES) -> np.ndarray:
    """Logits `[images, classes]` with this mean norm and mean probability of the top class."""
    random = np.random.default_rng(0)
    body, raised = random.normal(size=[images, classes]), random.integers(0, classes, images)
    margin = random.gamma(4.0, 0.25, images)  # images differ in how clear they are

    def logits(height):
        z = body.copy()
        z[np.arange(images), raised] += height * margin
        z -= z.mean(axis=1, keepdims=True)
        return norm * z / np.linalg.norm(z, axis=1).mean()

    low, high = 0.0, 30.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _softmax(logits(middle)).max(axis=1).mean() < top else (low, middle)
    return logits(low).astype(np.float32)


def facts(logits: np.ndarray) -> dict[str, float]:
    """Mean norm, and mean probability of the top class."""
    confidence = _softmax(logits.astype(np.float64)).max(axis=1).mean()
    return {"norm": float(np.linalg.norm(logits, axis=1).mean()), "top probability": float(confidence)}


def _row(logits, kept):
    """KL by temperature, in nats, times T^2: its part in the loss."""
    record = LogitRecord(logits.shape[1], "float16", kept)
    row = {"kept": kept, "bytes": record.bytes}
    rebuilt = record.decode(tf.constant(record.encode(logits))).numpy()
    for temperature in TEMPERATURES:
        full, other = (z.astype(np.float64) / temperature for z in (logits, rebuilt))
        p = _softmax(full)
        kl = (p * (np.log(p) - np.log(_softmax(other)))).sum(axis=1).mean()
        row[f"T^2 KL, T = {temperature:g}"] = float(temperature**2 * kl)
    return row


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
