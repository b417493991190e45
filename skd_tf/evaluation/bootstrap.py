"""Bootstrap intervals: how far the metrics would move with another test split of the same size."""

import numpy as np

from skd_tf.evaluation import metrics

SAMPLES = 1000
LEVEL = 0.95
_BLOCK_SIZE = 2**22  # numbers in one block of resampled counts; bounds the memory


def intervals(
    logits: np.ndarray,
    labels: np.ndarray,
    teacher_logits: np.ndarray | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, list[float]]:
    """95% percentile intervals over resampled examples (Efron 1979).

    Every metric here, each bin of the ECE too, is a mean over examples. A draw is a row of counts, and its metrics are
    that row times the columns of the examples. The same seed draws the same examples for every model, so the intervals
    of two models come from the same test splits.

    Args:
      logits: `[n, classes]`; their softmax is the probability.
      labels: integer `[n]`; unlabelled examples (-1) are left out.
      teacher_logits: `[n, classes]` of the teacher, or None.
      samples: number of resampled splits.
      seed: seed of the draws.

    Returns:
      {name: [low, high]} of accuracy, top5_accuracy, nll, brier, confidence and ece; with a teacher also of what
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
    """`[samples, columns]`: the mean of each column over each draw."""
    count = len(examples)
    block, means = max(1, _BLOCK_SIZE // count), []
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        counts = np.stack([np.bincount(random.integers(0, count, count), minlength=count) for _ in range(rows)])
        means.append(counts @ examples / count)
    return np.concatenate(means)
