"""How often the intervals of the evaluation hold the true value: simulated models whose true values are known.

python -m experiments.lab.interval_coverage --output=experiments/results/intervals/coverage.json [--splits=400]

A case is a model that states softmax(z) while the true probabilities are softmax(b z). Splits of n images are drawn from
it, and each gets its intervals as evaluate gives them.
"""

import argparse
import json
import pathlib
from typing import NamedTuple

import numpy as np

from skd_tf.evaluation import bootstrap, calibration_error, metrics

SIZES = (300, 900, 10_000)
NAMES = ("accuracy", "nll", "brier", "agreement")
_POPULATION, _PART = 200_000, 10_000


class Case(NamedTuple):
    """A model: number of classes, standard deviation of its logits, and b, the factor that would calibrate them."""

    classes: int
    spread: float
    sharpness: float


CASES = tuple(
    Case(classes, spread, sharpness)
    for classes in (2, 10, 100)
    for spread in (1.0, 2.5, 6.0)
    for sharpness in (1.0, 0.9, 0.6, 1.5)
)
# The bootstrap costs more: one case in the middle, one near chance and one that is nearly always right.
BOOTSTRAP_CASES = (Case(10, 2.5, 0.9), Case(10, 1.0, 1.0), Case(2, 6.0, 1.5))


def draw(case: Case, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(stated log probabilities, true probabilities `[count, classes]`, labels) of `count` images."""
    logits = random.normal(size=[count, case.classes]) * case.spread
    true = np.exp(metrics.log_softmax(case.sharpness * logits))
    labels = (true.cumsum(axis=1) < random.random([count, 1])).sum(axis=1)
    return metrics.log_softmax(logits), true, np.minimum(labels, case.classes - 1)


def ece_coverage(case: Case, splits: int, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> list[dict]:
    """A record for each size: the true ECE, means of the two estimates, and the coverage of the interval.

    A split is drawn with replacement from a population of images, whose gaps are the true ones.
    """
    random, records = np.random.default_rng([seed, case.classes, int(10 * case.spread), int(10 * case.sharpness)]), []
    confidence, right = (np.concatenate(parts) for parts in zip(*_population(case, random), strict=True))
    bins = calibration_error.bin_of(confidence)
    truth = float(np.abs(np.bincount(bins, right - confidence, calibration_error.BINS)).sum() / len(bins))
    for size in sizes:
        held, usual, debiased, width = 0, 0.0, 0.0, 0.0
        for _ in range(splits):
            rows = random.integers(0, len(bins), size)
            gaps = calibration_error.bin_gaps(confidence[rows], (random.random(size) < right[rows]) * 1.0)
            low, high = calibration_error.interval(gaps)
            held += low <= truth <= high
            usual, width = usual + calibration_error.ece(gaps) / splits, width + (high - low) / splits
            debiased += calibration_error.debiased(gaps) / splits
        estimates = {"true": truth, "ece": usual, "ece_debiased": debiased, "width": width}
        records.append(case._asdict() | {"images": size} | estimates | {"coverage": held / splits, "splits": splits})
    return records


def _population(case, random):
    """Parts of (confidence, true probability that the stated class is right)."""
    for _ in range(_POPULATION // _PART):
        stated, true, _ = draw(case, _PART, random)
        yield np.exp(stated.max(axis=1)), true[np.arange(_PART), stated.argmax(axis=1)]


def bootstrap_coverage(case: Case, splits: int, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> list[dict]:
    """A record for each size: the coverage of the intervals of accuracy, NLL, Brier score and agreement.

    The teacher states softmax(z) with noise on z.
    """
    random, records = np.random.default_rng([seed, 1, case.classes, int(10 * case.spread)]), []

    def both(count):
        stated, true, labels = draw(case, count, random)
        return stated, stated + case.spread / 2 * random.normal(size=stated.shape), true, labels

    truth = dict.fromkeys(NAMES, 0.0)
    parts = 5 * _POPULATION // _PART
    for _ in range(parts):
        stated, teacher, true, _ = both(_PART)
        probabilities, top = np.exp(stated), stated.argmax(axis=1)
        truth["accuracy"] += true[np.arange(len(top)), top].mean() / parts
        truth["nll"] -= (true * stated).sum(axis=1).mean() / parts
        truth["brier"] += (
            np.square(probabilities).sum(axis=1) - 2 * (probabilities * true).sum(axis=1) + 1
        ).mean() / parts
        truth["agreement"] += (top == teacher.argmax(axis=1)).mean() / parts
    for size in sizes:
        random, held = (
            np.random.default_rng([seed, 2, case.classes, int(10 * case.spread), size]),
            dict.fromkeys(NAMES, 0),
        )
        for _ in range(splits):
            stated, teacher, _, labels = both(size)
            student, other = (metrics.summarize(logits, labels) for logits in (stated, teacher))
            found = bootstrap.intervals(student, other, samples=400)
            for name in NAMES:
                held[name] += found[name][0] <= truth[name] <= found[name][1]
        coverage = {name: count / splits for name, count in held.items()}
        records.append(case._asdict() | {"images": size, "true": truth, "coverage": coverage, "splits": splits})
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--splits", type=int, default=400)
    arguments = parser.parse_args()
    record = {
        "ece_debiased": [entry for case in CASES for entry in ece_coverage(case, arguments.splits)],
        "bootstrap": [entry for case in BOOTSTRAP_CASES for entry in bootstrap_coverage(case, arguments.splits)],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
