"""Intervals: how far the metrics would move with another test split of the same size."""

import math

import numpy as np

from skd_tf.evaluation import calibration_error, metrics

SAMPLES = 1000
LEVEL = calibration_error.LEVEL
FRACTIONS = ("accuracy", "top5_accuracy", "agreement")  # means of zeros and ones
_Z = 1.959964  # the 0.975 quantile of the normal distribution
_RARE = 10  # images; with fewer, resampling a class says little about its F1
_BLOCK_SIZE = 2**22  # numbers in one block of resampled counts; bounds the memory


def intervals(
    summary: metrics.Summary, teacher: metrics.Summary | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, list[float]]:
    """95% intervals: percentiles over resampled examples (Efron 1979), for some metrics their own.

    Resampling gives no width where every example is right. So fractions have Wilson's interval (`of_fraction`), balanced
    accuracy that of `of_mean_recall`, the debiased ECE its own, and macro F1 none without mistakes or with a rare class. The
    lowest recall of all classes has none: it is too low itself if classes have few images, and resampled again lower still.

    A draw is a row of counts. A metric that is a mean over examples is that row times the column of the examples; the
    metrics over classes follow from the weighted hits of each class. The same seed draws the same examples for every
    model, so the intervals of two models come from the same test splits. Resampling does not work for the ECE: see
    `calibration_error`.

    Args:
      summary: of the model; unlabelled examples are left out, unless all are.
      teacher: of its teacher on the same images, or None.
      samples: number of resampled splits.
      seed: seed of the draws.

    Returns:
      {name: [low, high]} of accuracy, top5_accuracy, nll, brier, confidence, ece_debiased, balanced_accuracy and perhaps
      macro_f1; with a teacher also of what `metrics.comparison` gives. Without any label only confidence and the latter.
    """
    has_labels = bool(summary.labelled.any())
    counted = summary.labelled if has_labels else np.ones(len(summary.labels), bool)
    columns = dict(summary.columns) if has_labels else {"confidence": summary.confidence}
    if teacher is not None:
        compared = summary.comparison_columns(teacher)
        columns |= {name: column[counted] for name, column in compared.items()}
    examples = np.column_stack(list(columns.values()))
    blocks, of_classes = [], []
    for counts in _draws(len(examples), samples, np.random.Generator(np.random.Philox(seed))):
        blocks.append(counts @ examples / len(examples))
        if has_labels:
            of_classes.append(metrics.of_class_counts(*summary.class_counts(counts)))
    found = dict(zip(columns, np.concatenate(blocks).T, strict=False))
    own = {name: of_fraction(columns[name].sum(), len(examples)) for name in FRACTIONS if name in columns}
    if has_labels:
        hits, images, _ = (counts[0] for counts in summary.class_counts(np.ones([1, len(examples)])))
        present = images > 0
        if hits.sum() < images.sum() and images[present].min() >= _RARE:
            found["macro_f1"] = np.concatenate([draw["macro_f1"] for draw in of_classes])
        own["balanced_accuracy"] = of_mean_recall(hits[present], images[present])
        own["ece_debiased"] = calibration_error.interval(summary.gaps)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {name: [float(end) for end in np.quantile(values, tails)] for name, values in found.items()} | own


def of_fraction(right: float, count: int) -> list[float]:
    """Wilson's 95% interval (1927) of a fraction p of n independent examples.

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),    z = 1.96

    Examples:
      >>> [round(end, 3) for end in of_fraction(24, 24)]
      [0.862, 1.0]
    """
    z, p = _Z, right / count
    middle, half = p + z**2 / (2 * count), z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    return [min(max(0.0, float(low)), p), max(min(1.0, float(high)), p)]  # rounding must not shut out p = 0 or 1


def of_mean_recall(hits: np.ndarray, images: np.ndarray) -> list[float]:
    """95% interval of balanced accuracy, the mean recall of C classes, with smoothed variances.

        mean_c h_c / n_c -+ z sqrt(sum_c q_c (1 - q_c) / n_c) / C,    q_c = (h_c + 2) / (n_c + 4)

    In simulations it covered the truth in 92% to 100% of the test splits: 2 to 100 classes of 3 to 1,000 images, also where
    a rare class is recognised far less often than the others.

    Args:
      hits: `[C]`, images of each class that are classified correctly.
      images: `[C]`, all images of each class, at least one.

    Examples:
      >>> [round(end, 3) for end in of_mean_recall(np.array([8, 8, 8]), np.array([8, 8, 8]))]
      [0.851, 1.0]
    """
    smoothed, mean = (hits + 2) / (images + 4), float(np.mean(hits / images))
    half = _Z * math.sqrt(np.sum(smoothed * (1 - smoothed) / images)) / len(images)
    return [max(0.0, mean - half), min(1.0, mean + half)]


def _draws(count, samples, random):
    """Blocks of rows of counts, `[rows, count]`: how often each draw has each example."""
    block = max(1, _BLOCK_SIZE // count)
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        yield np.stack([np.bincount(random.integers(0, count, count), minlength=count) for _ in range(rows)])
