"""Metrics of predictions, computed from logits in float64 NumPy. Fractions and nats, no percentages.

`summarize` reads the logits once; every metric follows from its `Summary`.

If two classes tie, the lower class number comes first, as in argmax. An example whose softmax is NaN counts as wrong
and agrees with no other prediction, and the mean NLL, Brier score, ECE and confidence are NaN.
"""

import dataclasses
import functools

import numpy as np

from skd_tf.evaluation import calibration_error

ECE_BINS = calibration_error.BINS
TOP = 5
_DRAWN = ("confidence", "accuracy")  # in a reliability diagram
_BLOCK = 2**19  # logits that are worked on at once: they stay in the processor's cache


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the metrics of one model need of its logits.

    Attributes:
      logits: `[n, classes]`, as they were given.
      labels: integer `[n]`; -1 is unlabelled.
      log_total: float64 `[n]`, log sum exp of each row.
      predicted: `[n]`, the most probable class.
      top: `[n, 5]`, the most probable classes in order; fewer columns with fewer classes.
      confidence: `[n]`, the top probability.
      norm: `[n]`, ||z - mean(z)||_2.
      defined: bool `[n]`, whether the softmax is a distribution.
      columns: {"accuracy", "top5_accuracy", "nll", "brier", "confidence"}, each float64 `[labelled]`: the terms of each
        labelled example in the means of `quality`.
    """

    logits: np.ndarray
    labels: np.ndarray
    log_total: np.ndarray
    predicted: np.ndarray
    top: np.ndarray
    confidence: np.ndarray
    norm: np.ndarray
    defined: np.ndarray
    columns: dict[str, np.ndarray]

    @functools.cached_property
    def labelled(self) -> np.ndarray:
        """bool `[n]`: which examples have a label."""
        return self.labels >= 0

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @functools.cached_property
    def gaps(self) -> calibration_error.BinGaps:
        """How far accuracy and confidence are apart in each bin of the confidence."""
        return calibration_error.bin_gaps(self.columns["confidence"], self.columns["accuracy"])

    def quality(self) -> dict[str, float]:
        """As the function `quality`."""
        if not self.labelled.any():
            return {"confidence": float(self.confidence.mean()), "logit_norm": float(self.norm.mean())}
        means = {name: float(column.mean()) for name, column in self.columns.items()}
        confidence = means.pop("confidence")
        means |= {"ece": calibration_error.ece(self.gaps), "ece_debiased": calibration_error.debiased(self.gaps)}
        return means | {"confidence": confidence, "logit_norm": float(self.norm.mean())}

    def over_classes(self) -> dict[str, float]:
        """As the function `over_classes`."""
        if not self.labelled.any():
            return {}
        counts = self.class_counts(np.ones([1, int(self.labelled.sum())]))
        return {name: float(value[0]) for name, value in of_class_counts(*counts).items()}

    def class_counts(self, weights: np.ndarray) -> tuple[np.ndarray, ...]:
        """(hits, examples, predictions) of each class, each `[draws, classes]`.

        Args:
          weights: `[draws, labelled]`, how often each labelled example counts.
        """
        rows = self.labelled
        labels, predicted, defined = self.labels[rows], self.predicted[rows], self.defined[rows]
        hit = defined & (predicted == labels)
        parts = (labels, weights * hit), (labels, weights), (predicted, weights * defined)
        return tuple(np.stack([np.bincount(of, row, minlength=self.classes) for row in draws]) for of, draws in parts)

    def per_class_accuracy(self) -> list[float | None]:
        """The top-1 accuracy of each class, in class order; None for a class without examples."""
        hits, examples, _ = (counts[0] for counts in self.class_counts(np.ones([1, int(self.labelled.sum())])))
        return [float(hit / count) if count else None for hit, count in zip(hits, examples, strict=True)]

    def reliability(self) -> list[dict[str, float | None]]:
        """The reliability diagram: {"count", "confidence", "accuracy"} of each of the 15 bins; None for empty bins."""
        bins, diagram = calibration_error.bin_of(self.columns["confidence"]), []
        for number in range(ECE_BINS):
            inside = bins == number
            means = {name: float(self.columns[name][inside].mean()) if inside.any() else None for name in _DRAWN}
            diagram.append({"count": int(inside.sum())} | means)
        return diagram

    def comparison(self, teacher: "Summary") -> dict[str, float]:
        """As the function `comparison`, of a student."""
        return {name: float(column.mean()) for name, column in self.comparison_columns(teacher).items()}

    def comparison_columns(self, teacher: "Summary") -> dict[str, np.ndarray]:
        """The terms of each example in the means of `comparison`, each `[n]` float64."""
        both = self.defined & teacher.defined
        return {
            "agreement": (both & (self.predicted == teacher.predicted)).astype(np.float64),
            "agreement_at_5": both
            * (self.top[:, :, None] == teacher.top[:, None, :]).sum(axis=(1, 2))
            / self.top.shape[1],
            "kl_to_teacher": self._divergence(teacher),
            "confidence_gap": teacher.confidence - self.confidence,
        }

    def _divergence(self, teacher):
        """KL(teacher || student) of each example."""
        divergence = np.empty(len(self.labels))
        for rows in _blocks(self.logits.shape):
            student, other = (np.asarray(side.logits[rows], np.float64) for side in (self, teacher))
            with np.errstate(invalid="ignore"):  # infinity minus infinity
                log_teacher = other - teacher.log_total[rows, None]
                log_student = student - self.log_total[rows, None]
                divergence[rows] = np.einsum("nc,nc->n", np.exp(log_teacher), log_teacher - log_student)
        return divergence


def summarize(logits: np.ndarray, labels: np.ndarray) -> Summary:
    """Reads logits once.

    Args:
      logits: `[n, classes]`; their softmax is the probability p.
      labels: integer `[n]`; -1 means unlabelled.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    count, classes = logits.shape
    size = min(TOP, classes)
    numbers = {name: np.empty(count) for name in ("log_total", "confidence", "norm", "nll", "brier")}
    top, defined = np.empty([count, size], np.int64), np.empty(count, bool)
    for rows in _blocks(logits.shape):
        block = np.array(logits[rows], np.float64)
        place = np.arange(len(block))
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            highest = block.max(axis=1)
            mean = block.mean(axis=1)
            shifted = block - highest[:, None]
            norms = np.sqrt(np.einsum("nc,nc->n", block - mean[:, None], block - mean[:, None]))
        powers = np.exp(shifted)
        total = powers.sum(axis=1)
        of_label = np.maximum(labels[rows], 0)
        p_label = powers[place, of_label] / total
        numbers["norm"][rows] = norms
        numbers["log_total"][rows] = highest + np.log(total)
        numbers["confidence"][rows] = powers.max(axis=1) / total
        numbers["nll"][rows] = np.log(total) - shifted[place, of_label]
        numbers["brier"][rows] = np.einsum("nc,nc->n", powers, powers) / total**2 - 2 * p_label + 1
        defined[rows] = ~np.isnan(total)
        top[rows] = _most_probable(block, size)
    labelled = labels >= 0
    rank_of_label = top[labelled] == labels[labelled, None]
    right = defined[labelled]
    columns = {
        "accuracy": (right & rank_of_label[:, 0]).astype(np.float64),
        "top5_accuracy": (right & rank_of_label.any(axis=1)).astype(np.float64),
        **{name: numbers[name][labelled] for name in ("nll", "brier", "confidence")},
    }
    kept = {name: numbers[name] for name in ("log_total", "confidence", "norm")}
    return Summary(logits, labels, predicted=top[:, 0], top=top, defined=defined, columns=columns, **kept)


def _blocks(shape):
    rows = max(1, _BLOCK // shape[1])
    return [slice(start, start + rows) for start in range(0, shape[0], rows)]


def _most_probable(block, size):
    """`[rows, size]` classes in order. It changes `block`: repeated argmax is faster than sorting, and as stable."""
    usual = np.isfinite(block).all(axis=1)
    top, place = np.empty([len(block), size], np.int64), np.arange(len(block))
    if not usual.all():
        rest = np.argsort(-block[~usual], axis=1, kind="stable")[:, :size]
    for rank in range(size):
        top[:, rank] = block.argmax(axis=1)
        block[place, top[:, rank]] = -np.inf
    if not usual.all():
        top[~usual] = rest
    return top


def quality(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL, Brier score, calibration and logit norm.

    nll = -mean log p_y;  brier = mean sum_c (p_c - [c = y])^2;  ece = sum_b |b|/n |accuracy_b - confidence_b| over 15
    equal-width bins of the top probability (Guo et al. 2017, arXiv:1706.04599). On few images ece is too high;
    ece_debiased corrects it (`skd_tf.evaluation.calibration_error`).

    Args:
      logits: `[n, classes]`; their softmax is the probability p.
      labels: integer `[n]`; -1 means unlabelled and counts only in the norm.

    Returns:
      {"accuracy", "top5_accuracy" (1 for up to five classes), "nll" (nats), "brier" (0 to 2), "ece", "ece_debiased",
      "confidence" (mean top probability), "logit_norm" (mean of ||z - mean(z)||_2)}. Without any label only the last two,
      of all examples.

    Example: two images of two classes, both predicted as class 0 with probability 0.75.

      >>> logits = np.log([[0.75, 0.25], [0.75, 0.25]])
      >>> measured = quality(logits, [0, 1])
      >>> {name: round(measured[name], 3) for name in ("accuracy", "nll", "brier", "ece", "confidence")}
      {'accuracy': 0.5, 'nll': 0.837, 'brier': 0.625, 'ece': 0.25, 'confidence': 0.75}
    """
    return summarize(logits, labels).quality()


def over_classes(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics in which every class counts the same, however many examples it has.

    recall_c = hits_c / examples_c;  F1_c = 2 hits_c / (examples_c + predictions_c);  only classes with examples count.

    Args:
      logits: `[n, classes]`.
      labels: integer `[n]`; -1 means unlabelled and counts nowhere.

    Returns:
      {"balanced_accuracy" (mean recall), "macro_f1" (mean F1), "worst_class_recall" (lowest recall)}; {} without any label.

    Example: class 0 has three images, all right; class 1 has one, which is wrong.

      >>> logits = np.array([[2.0, 1.0]] * 4)
      >>> {name: round(value, 3) for name, value in over_classes(logits, [0, 0, 0, 1]).items()}
      {'balanced_accuracy': 0.5, 'macro_f1': 0.429, 'worst_class_recall': 0.0}
    """
    return summarize(logits, labels).over_classes()


def of_class_counts(hits: np.ndarray, examples: np.ndarray, predictions: np.ndarray) -> dict[str, np.ndarray]:
    """`over_classes` of each draw `[draws]`, from what `Summary.class_counts` returns."""
    present = examples > 0
    recall = np.where(present, hits / np.maximum(examples, 1), np.nan)
    f1 = np.where(present, 2 * hits / np.maximum(examples + predictions, 1), np.nan)
    return {
        "balanced_accuracy": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
        "worst_class_recall": np.nanmin(recall, axis=1),
    }


def comparison(student_logits: np.ndarray, teacher_logits: np.ndarray) -> dict[str, float]:
    """How close a student is to its teacher; uses no labels.

    agreement_at_5 = mean |top 5 of the student and of the teacher, intersected| / 5;  agreement: the same for top 1;
    kl_to_teacher = mean KL(p_t || p_s), nats;  confidence_gap = mean of max p_t - max p_s.

    Args:
      student_logits, teacher_logits: `[n, classes]`; their softmaxes are the probabilities p_s and p_t.

    Returns:
      {"agreement", "agreement_at_5", "kl_to_teacher", "confidence_gap"}.
    """
    unlabelled = np.full(len(student_logits), -1)
    return summarize(student_logits, unlabelled).comparison(summarize(teacher_logits, unlabelled))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log softmax of each row, `[n, classes]` float64."""
    logits = np.asarray(logits, np.float64)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
