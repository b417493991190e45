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

    A draw is a row of counts. A metric that is a mean over examples, as each bin of the ECE is, is that row times the
    column of the examples; the metrics over classes follow from the weighted hits of each class. The same seed draws the same examples for every model, so the intervals
    of two models come from the same test splits.

    Args:
      logits: `[n, classes]`; their softmax is the probability.
      labels: integer `[n]`; unlabelled examples (-1) are left out.
      teacher_logits: `[n, classes]` of the teacher, or None.
      samples: number of resampled splits.
      seed: seed of the draws.

    Returns:
      {name: [low, high]} of accuracy, top5_accuracy, nll, brier, confidence, ece and what `metrics.over_classes` gives;
      with a teacher also of what `metrics.comparison` gives.
    """
    labels = np.asarray(labels)
    labelled = labels >= 0
    logits = np.asarray(logits, np.float64)[labelled]
    labels = labels[labelled]
    columns = metrics.label_columns(logits, labels)
    gaps = metrics.bin_gaps(columns["confidence"], columns["accuracy"])
    if teacher_logits is not None:
        columns |= metrics.comparison_columns(logits, np.asarray(teacher_logits, np.float64)[labelled])
    examples = np.column_stack([*columns.values(), gaps])
    blocks, of_classes = [], []
    for counts in _draws(len(examples), samples, np.random.Generator(np.random.Philox(seed))):
        blocks.append(counts @ examples / len(examples))
        of_classes.append(metrics.of_class_counts(*metrics.class_counts(logits, labels, counts)))
    means = np.concatenate(blocks)
    found = dict(zip(columns, means.T, strict=False))
    found |= {name: np.concatenate([draw[name] for draw in of_classes]) for name in of_classes[0]}
    found["ece"] = np.abs(means[:, len(columns) :]).sum(axis=1)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    return {name: [float(end) for end in np.quantile(values, tails)] for name, values in found.items()}


def _draws(count, samples, random):
    """Blocks of rows of counts, `[rows, count]`: how often each draw has each example."""
    block = max(1, _BLOCK_SIZE // count)
    for start in range(0, samples, block):
        rows = min(block, samples - start)
        yield np.stack([np.bincount(random.integers(0, count, count), minlength=count) for _ in range(rows)])
