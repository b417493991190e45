"""Quality of predictions, from logits in float64 numpy. Fractions, nats, no percentages.

Wherever two classes tie, the lower class number comes first, as in argmax. Logits whose softmax is not a number (NaN or
infinity among them) predict nothing: they count as wrong, agree with nobody, and make NLL, Brier score and the rest NaN.
"""

import numpy as np

ECE_BINS = 15
TOP = 5


def quality(logits, labels):
    """Top-1 and top-5 accuracy, NLL, Brier score, calibration and norm.

    nll = -mean log p_y;  brier = mean sum_c (p_c - [c = y])^2;  ece = sum_b |b|/n |accuracy_b - confidence_b| over 15
    equal-width bins of the top probability (Guo et al. 2017, arXiv:1706.04599).

    Args:
      logits: `[n, classes]`; their softmax is taken as the probability p.
      labels: integer `[n]`; -1 = unlabelled, counted nowhere but in the norm.

    Returns:
      {"accuracy", "top5_accuracy" (1 for up to five classes), "nll" (nats), "brier" (0 to 2), "ece", "confidence" (mean top
      probability), "logit_norm" (mean, centred)}.
    """
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    columns = label_columns(logits[labels >= 0], labels[labels >= 0])
    values = {name: float(columns[name].mean()) for name in ("accuracy", "top5_accuracy", "nll", "brier")}
    return values | {
        "ece": float(
            np.abs(bin_gaps(columns["confidence"], columns["accuracy"]).sum(axis=0)).sum() / len(columns["nll"])
        ),
        "confidence": float(columns["confidence"].mean()),
        "logit_norm": mean_norm(logits),
    }


def label_columns(logits, labels):
    """What each labelled example adds to the means of `quality`.

    Args:
      logits: `[n, classes]` float64.
      labels: integer `[n]`, all >= 0.

    Returns:
      {"accuracy", "top5_accuracy", "nll", "brier", "confidence"}, each `[n]` float64.
    """
    rows = np.arange(len(labels))
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    of_label, mine = probabilities[rows, labels], logits[rows, labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    rank = (logits > mine).sum(axis=1) + ((logits == mine) & earlier).sum(axis=1)
    rank = np.where(_defined(log_probabilities), rank, max(logits.shape[1], TOP))
    return {
        "accuracy": (rank == 0).astype(np.float64),
        "top5_accuracy": (rank < TOP).astype(np.float64),
        "nll": -log_probabilities[rows, labels],
        "brier": np.square(probabilities).sum(axis=1) - 2 * of_label + 1,
        "confidence": probabilities.max(axis=1),
    }


def bin_of(confidence):
    """The ECE bin of each top probability; bins are (lower, upper], so that exactly 1 falls into the last."""
    bins = np.clip(np.ceil(confidence * ECE_BINS) - 1, 0, ECE_BINS - 1)
    return np.nan_to_num(bins).astype(int)  # what is no number makes its bin's mean none


def bin_gaps(confidence, correct):
    """`[n, bins]`: accuracy minus confidence of each example, in the column of its bin."""
    gaps = np.zeros([len(confidence), ECE_BINS])
    gaps[np.arange(len(confidence)), bin_of(confidence)] = correct - confidence
    return gaps


def reliability(logits, labels):
    """The reliability diagram: {"count", "confidence", "accuracy"} of each of the 15 bins; None where a bin is empty."""
    logits, labels = np.asarray(logits, np.float64), np.asarray(labels)
    columns = label_columns(logits[labels >= 0], labels[labels >= 0])
    bins = bin_of(columns["confidence"])
    diagram = []
    for number in range(ECE_BINS):
        inside = bins == number
        means = {
            name: float(columns[name][inside].mean()) if inside.any() else None for name in ("confidence", "accuracy")
        }
        diagram.append({"count": int(inside.sum())} | means)
    return diagram


def per_class_accuracy(logits, labels):
    """Top-1 accuracy of each class, in order; None for a class without an example."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    correct = (np.argmax(logits, axis=1) == labels) & _defined(log_softmax(logits))
    return [float(correct[labels == c].mean()) if (labels == c).any() else None for c in range(logits.shape[1])]


def norms(logits):
    """||z - m(z)||_2 of each example, `[n]` float64."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        return np.linalg.norm(logits - logits.mean(axis=1, keepdims=True), axis=1)


def mean_norm(logits):
    """Mean over examples of ||z - m(z)||_2."""
    return float(norms(logits).mean())


def comparison(student_logits, teacher_logits):
    """How close a student is to its teacher; labels play no part.

    agreement_at_5 = mean |five most probable of the student, five of the teacher| / 5, and agreement is the same with one;
    kl_to_teacher = mean KL(p_t || p_s), nats; confidence_gap = mean top probability of the teacher minus the student's.

    Args:
      student_logits, teacher_logits: `[n, classes]`; their softmaxes are taken as the probabilities.

    Returns:
      {"agreement", "agreement_at_5", "kl_to_teacher", "confidence_gap"}.
    """
    return {name: float(column.mean()) for name, column in comparison_columns(student_logits, teacher_logits).items()}


def comparison_columns(student_logits, teacher_logits):
    """What each example adds to the means of `comparison`, each `[n]` float64."""
    student, teacher = log_softmax(student_logits), log_softmax(teacher_logits)
    confidence = [np.exp(log_probabilities).max(axis=1) for log_probabilities in (teacher, student)]
    both = _defined(student) & _defined(teacher)
    return {
        "agreement": (both & (student.argmax(axis=1) == teacher.argmax(axis=1))).astype(np.float64),
        "agreement_at_5": both * _shared_top(student_logits, teacher_logits),
        "kl_to_teacher": (np.exp(teacher) * (teacher - student)).sum(axis=1),
        "confidence_gap": confidence[0] - confidence[1],
    }


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _defined(log_probabilities):
    """`[n]` bool: the rows that are a distribution over the classes."""
    return ~np.isnan(log_probabilities).any(axis=1)


def _shared_top(one, other):
    size = min(TOP, np.shape(one)[1])
    one, other = (np.argsort(-np.asarray(logits), axis=1, kind="stable")[:, :size] for logits in (one, other))
    return (one[:, :, None] == other[:, None, :]).sum(axis=(1, 2)) / size
