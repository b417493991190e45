"""Quality of predictions, from logits in float64 numpy. Fractions, nats, no percentages."""

import numpy as np

ECE_BINS = 15


def quality(logits, labels):
    """Top-1 accuracy, NLL, calibration and norm.

    nll = -mean log softmax(z)_y;  ece = sum_b |b|/n |accuracy_b - confidence_b| over 15 equal-width bins of the top
    probability (Guo et al. 2017, arXiv:1706.04599).

    Args:
      logits: `[n, classes]`; their softmax is taken as the probability.
      labels: integer `[n]`; -1 = unlabelled, counted nowhere but in the norm.

    Returns:
      {"accuracy", "nll" (nats), "ece", "confidence" (mean top probability), "logit_norm" (mean, centred)}.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    norm = mean_norm(logits)
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    log_probabilities = log_softmax(logits)
    confidence = np.exp(log_probabilities.max(axis=1))
    correct = logits.argmax(axis=1) == labels
    return {
        "accuracy": float(correct.mean()),
        "nll": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "ece": _expected_calibration_error(confidence, correct),
        "confidence": float(confidence.mean()),
        "logit_norm": norm,
    }


def mean_norm(logits):
    """Mean over examples of ||z - m(z)||_2."""
    logits = np.asarray(logits, np.float64)
    return float(np.linalg.norm(logits - logits.mean(axis=1, keepdims=True), axis=1).mean())


def agreement(student_logits, teacher_logits):
    """Share of examples whose top class is the same for both."""
    return float(np.mean(np.argmax(student_logits, axis=1) == np.argmax(teacher_logits, axis=1)))


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _expected_calibration_error(confidence, correct):
    # Bins are (lower, upper], so that a confidence of exactly 1 falls into the last.
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
