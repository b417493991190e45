"""Bootstrap intervals of quality: how far the numbers would move with another test split of the same size."""

import numpy as np

from skd_tf.evaluation import metrics

SAMPLES = 1000
LEVEL = 0.95
_ROWS_AT_ONCE = 2**22  # numbers of one block of resampled counts


def intervals(logits, labels, teacher_logits=None, *, samples=SAMPLES, seed=0):
    """95% percentile intervals over resampled examples (Efron 1979).

    Every number here, ECE's bins too, is a sum over examples: one draw is one row of counts times the examples' columns. The
    same seed draws the same examples for every model, so that intervals of two models belong to the same test splits.

    Args:
      logits: `[n, classes]`; their softmax is taken as the probability.
      labels: integer `[n]`; unlabelled examples (-1) are left out.
      teacher_logits: the same for the teacher, or None.
      samples: resampled splits.
      seed: of the draws.

    Returns:
      {name: [low, high]} for accuracy, top5_accuracy, nll, brier, confidence, ece; with a teacher also for what
      `metrics.comparison` gives.
    """
    labels = np.asarray(labels)
    labelled = labels >= 0
    logits = np.asarray(logits, np.float64)[labelled]
    columns = metrics.label_columns(logits, labels[labelled])
    gaps = metrics.bin_gaps(columns["confidence"], columns["accuracy"])
    if teacher_logits is not None:
        columns |= metrics.comparison_columns(logits, np.asarray(teacher_logits, np.float64)[labelled])
    examples = np.column_stack([*columns.values(), gaps])
    means = _resampled_means(examples, samples, np.random.Generator(np.random.Philox(seed)))
    found = dict(zip(columns, means.T, strict=False))
    found["ece"] = np.abs(means[:, len(columns) :]).sum(axis=1)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {name: [float(end) for end in np.quantile(values, tails)] for name, values in found.items()}


def _resampled_means(examples, samples, random):
    count = len(examples)
    block, means = max(1, _ROWS_AT_ONCE // count), []
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        counts = np.stack([np.bincount(random.integers(0, count, count), minlength=count) for _ in range(rows)])
        means.append(counts @ examples / count)
    return np.concatenate(means)
