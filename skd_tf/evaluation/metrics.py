"""Metrics of predictions, computed from logits in float64 NumPy. Fractions and nats, no percentages.

If two classes tie, the lower class number comes first, as in argmax. An example whose softmax is NaN counts as wrong
and agrees with no other prediction, and the mean NLL, Brier score, ECE and confidence are NaN.
"""

import numpy as np

ECE_BINS = 15
TOP = 5
_DRAWN = ("confidence", "accuracy")  # in a reliability diagram


def quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL, Brier score, calibration and logit norm.

    nll = -mean log p_y;  brier = mean sum_c (p_c - [c = y])^2;  ece = sum_b |b|/n |accuracy_b - confidence_b| over 15
    equal-width bins of the top probability (Guo et al. 2017, arXiv:1706.04599).

    Args:
      logits: `[n, classes]`; their softmax is the probability p.
      labels: integer `[n]`; -1 means unlabelled and counts only in the norm.

    Returns:
      {"accuracy", "top5_accuracy" (1 for up to five classes), "nll" (nats), "brier" (0 to 2), "ece", "confidence" (mean
      top probability), "logit_norm" (mean of ||z - mean(z)||_2)}.

    Example: two images of two classes, both predicted as class 0 with probability 0.75.

      >>> logits = np.log([[0.75, 0.25], [0.75, 0.25]])
      >>> {name: round(value, 3) for name, value in quality(logits, [0, 1]).items() if name != "logit_norm"}
      {'accuracy': 0.5, 'top5_accuracy': 1.0, 'nll': 0.837, 'brier': 0.625, 'ece': 0.25, 'confidence': 0.75}
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    columns = label_columns(logits[labels >= 0], labels[labels >= 0])
    means = {name: float(column.mean()) for name, column in columns.items()}
    confidence = means.pop("confidence")
    gaps = bin_gaps(columns["confidence"], columns["accuracy"])
    ece = float(np.abs(gaps.sum(axis=0)).sum() / len(gaps))
    return means | {"ece": ece, "confidence": confidence, "logit_norm": float(norms(logits).mean())}


def label_columns(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The terms of each labelled example in the means of `quality`.

    Args:
      logits: `[n, classes]` float64.
      labels: integer `[n]`, all >= 0.

    Returns:
      {"accuracy", "top5_accuracy", "nll", "brier", "confidence"}, each `[n]` float64.
    """
    rows = np.arange(len(labels))
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    p_label, label_logits = probabilities[rows, labels], logits[rows, labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = (logits > label_logits).sum(axis=1) + ((logits == label_logits) & earlier).sum(axis=1)
    rank = np.where(_defined(log_probabilities), rank, max(logits.shape[1], TOP))
    return {
        "accuracy": (rank == 0).astype(np.float64),
        "top5_accuracy": (rank < TOP).astype(np.float64),
        "nll": -log_probabilities[rows, labels],
        "brier": np.square(probabilities).sum(axis=1) - 2 * p_label + 1,
        "confidence": probabilities.max(axis=1),
    }


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """The ECE bin of each top probability. Bins are (lower, upper], so exactly 1 falls into the last one."""
    bins = np.clip(np.ceil(confidence * ECE_BINS) - 1, 0, ECE_BINS - 1)
    return np.nan_to_num(bins).astype(int)  # a NaN makes the mean of bin 0 NaN


def bin_gaps(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """`[n, bins]`: each example's accuracy (0 or 1) minus its confidence, in the column of its bin."""
    gaps = np.zeros([len(confidence), ECE_BINS])
    gaps[np.arange(len(confidence)), bin_of(confidence)] = correct - confidence
    return gaps


def reliability(logits: np.ndarray, labels: np.ndarray) -> list[dict[str, float | None]]:
    """The reliability diagram: {"count", "confidence", "accuracy"} of each of the 15 bins; None for empty bins."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    columns = label_columns(logits[labels >= 0], labels[labels >= 0])
    bins = bin_of(columns["confidence"])
    diagram = []
    for number in range(ECE_BINS):
        inside = bins == number
        means = {name: float(columns[name][inside].mean()) if inside.any() else None for name in _DRAWN}
        diagram.append({"count": int(inside.sum())} | means)
    return diagram


def per_class_accuracy(logits: np.ndarray, labels: np.ndarray) -> list[float | None]:
    """The top-1 accuracy of each class, in class order; None for a class without examples."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    correct = (np.argmax(logits, axis=1) == labels) & _defined(log_softmax(logits))
    return [float(correct[labels == c].mean()) if (labels == c).any() else None for c in range(logits.shape[1])]


def over_classes(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics in which every class counts the same, however many examples it has.

    recall_c = hits_c / examples_c;  F1_c = 2 hits_c / (examples_c + predictions_c);  only classes with examples count.

    Args:
      logits: `[n, classes]`.
      labels: integer `[n]`; -1 means unlabelled and counts nowhere.

    Returns:
      {"balanced_accuracy" (mean recall), "macro_f1" (mean F1), "worst_class_recall" (lowest recall)}.

    Example: class 0 has three images, all right; class 1 has one, which is wrong.

      >>> logits = np.array([[2.0, 1.0]] * 4)
      >>> {name: round(value, 3) for name, value in over_classes(logits, [0, 0, 0, 1]).items()}
      {'balanced_accuracy': 0.5, 'macro_f1': 0.429, 'worst_class_recall': 0.0}
    """
    labels = np.asarray(labels)
    logits, labels = np.asarray(logits)[labels >= 0], labels[labels >= 0]
    counts = class_counts(logits, labels, np.ones([1, len(labels)]))
    return {name: float(value[0]) for name, value in of_class_counts(*counts).items()}


def class_counts(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """(hits, examples, predictions) of each class, each `[draws, classes]`.

    Args:
      logits: `[n, classes]`.
      labels: integer `[n]`, all >= 0.
      weights: `[draws, n]`, how often each example counts.
    """
    classes, predicted = np.shape(logits)[1], np.argmax(logits, axis=1)
    defined = _defined(log_softmax(logits))
    hit = defined & (predicted == labels)
    rows = (labels, weights * hit), (labels, weights), (predicted, weights * defined)
    return tuple(np.stack([np.bincount(of, row, minlength=classes) for row in draws]) for of, draws in rows)


def of_class_counts(hits: np.ndarray, examples: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
    """`over_classes` of each draw `[draws]`, from what `class_counts` returns."""
    present = examples > 0
    recall = np.where(present, hits / np.maximum(examples, 1), np.nan)
    f1 = np.where(present, 2 * hits / np.maximum(examples + predictions, 1), np.nan)
    return {
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
        "worst_class_recall": np.nanmin(recall, axis=1),
    }


def norms(logits: np.ndarray) -> np.ndarray:
    """||z - mean(z)||_2 of each example, `[n]` float64."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return np.linalg.norm(logits - logits.mean(axis=1, keepdims=True), axis=1)


def comparison(student_logits: np.ndarray, teacher_logits: np.ndarray) -> dict[str, float]:
    """How close a student is to its teacher; uses no labels.

    agreement_at_5 = mean |top 5 of the student and of the teacher, intersected| / 5;  agreement: the same for top 1;
    kl_to_teacher = mean KL(p_t || p_s), nats;  confidence_gap = mean of max p_t - max p_s.

    Args:
      student_logits, teacher_logits: `[n, classes]`; their softmaxes are the probabilities p_s and p_t.

    Returns:
      {"agreement", "agreement_at_5", "kl_to_teacher", "confidence_gap"}.
    """
    return {name: float(column.mean()) for name, column in comparison_columns(student_logits, teacher_logits).items()}


def comparison_columns(student_logits: np.ndarray, teacher_logits: np.ndarray) -> dict[str, np.ndarray]:
    """The terms of each example in the means of `comparison`, each `[n]` float64."""
    student, teacher = log_softmax(student_logits), log_softmax(teacher_logits)
    both = _defined(student) & _defined(teacher)
    return {
        "agreement": (both & (student.argmax(axis=1) == teacher.argmax(axis=1))).astype(np.float64),
        "agreement_at_5": both * _shared_top(student_logits, teacher_logits),
        "kl_to_teacher": (np.exp(teacher) * (teacher - student)).sum(axis=1),
        "confidence_gap": np.exp(teacher).max(axis=1) - np.exp(student).max(axis=1),
    }


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log softmax of each row, `[n, classes]` float64."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _defined(log_probabilities):
    """`[n]` bool: whether a row is a distribution over the classes."""
    return ~np.isnan(log_probabilities).any(axis=1)


def _shared_top(one, other):
    """`[n]`: the share of each example's five most probable classes that both have."""
    size = min(TOP, np.shape(one)[1])
    one, other = (np.argsort(-np.asarray(logits), axis=1, kind="stable")[:, :size] for logits in (one, other))
    return (one[:, :, None] == other[:, None, :]).sum(axis=(1, 2)) / size
