"""Intervals: how far the metrics would move with another test split of the same size."""

import math

import numpy as np

from skd_tf.evaluation import calibration_error, metrics

SAMPLES = 1000
LEVEL = calibration_error.LEVEL
FRACTIONS = ("accuracy", "top5_accuracy", "agreement")  # means of zeros and ones
_BLOCK_SIZE = 2**22  # numbers in one block of resampled counts; bounds the memory


def intervals(
    summary: metrics.Summary, teacher: metrics.Summary | None = None, *, samples: int = SAMPLES, seed: int = 0
) -> dict[str, list[float]]:
    """95% intervals: percentiles over resampled examples (Efron 1979), and for fractions and the debiased ECE their own.

    Resampling gives no width where every example is right, so fractions have Wilson's interval (`of_fraction`).

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
      {name: [low, high]} of accuracy, top5_accuracy, nll, brier, confidence, ece_debiased and what `metrics.over_classes`
      gives; with a teacher also of what `metrics.comparison` gives. Without any label only confidence and the latter.
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
    if of_classes:
        found |= {name: np.concatenate([draw[name] for draw in of_classes]) for name in of_classes[0]}
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    ends = {name: [float(end) for end in np.quantile(values, tails)] for name, values in found.items()}
    ends |= {name: of_fraction(columns[name].sum(), len(examples)) for name in FRACTIONS if name in columns}
    return ends | ({"ece_debiased": calibration_error.interval(summary.gaps)} if has_labels else {})


def of_fraction(right: float, count: int) -> list[float]:
    """Wilson's 95% interval (1927) of a fraction p of n independent examples.

        (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),    z = 1.96

    Examples:
      >>> [round(end, 3) for end in of_fraction(24, 24)]
      [0.862, 1.0]
    """
    z, p = 1.959964, right / count
    middle, half = p + z**2 / (2 * count), z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    low, high = ((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    return [max(0.0, float(low)), min(1.0, float(high))]


def _draws(count, samples, random):
    """Blocks of rows of counts, `[rows, count]`: how often each draw has each example."""
    block = max(1, _BLOCK_SIZE // count)
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        yield np.stack([np.bincount(random.integers(0, count, count), minlength=count) for _ in range(rows)])
