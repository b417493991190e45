"""The losses to compare with. Their label term uses raw logits; the authors' weights are in LOSSES."""

import math

from keras import ops

from skd_tf.losses.spherical import project
from skd_tf.losses.terms import (
    Scalar,
    Tensor,
    Terms,
    Weights,
    as_float,
    distill_term,
    kl_divergence,
    label_term,
    logit_pair,
    one_class_targets,
    softened,
)


def cross_entropy(student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> Terms:
    """Training without a teacher: CE( softmax(z_s), y ).

    Args:
      student_logits: z_s, `[batch, classes]`, any float dtype; computed in float32, or float64 if given float64.
      teacher_logits: unused, may be None.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft `[batch, classes]`.

    Returns:
      {"label": `[batch]`} float32 or float64, in nats, not reduced.

    Raises:
      InputError: soft labels with another number of classes.

    Examples:
      >>> from skd_tf import losses
      >>> terms = losses.cross_entropy([[2.0, 1.0, 0.0]], None, [0])
      >>> {name: round(float(term[0]), 3) for name, term in terms.items()}
      {'label': 0.408}
    """
    return {"label": label_term(as_float(student_logits), labels)}


def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar = 4.0,
    teacher_weights: Weights = None,
) -> Terms:
    """Knowledge Distillation: the label term on raw logits, and the KL divergence between softened softmaxes.

        distill = T^2 * KL( softmax(z_t / T) || softmax(z_s / T) )

    Args:
      student_logits: z_s, `[batch, classes]`, any float dtype; computed in float32, or float64 if given float64.
      teacher_logits: z_t, `[batch, classes]`; receives no gradient. Of several teachers `[batch, teachers, classes]`.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft `[batch, classes]`.
      temperature: softmax temperature T > 0 of the distill term.
      teacher_weights: of several teachers, numbers > 0; None: equal. The target is the mean of their softmaxes.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32 or float64, in nats, not reduced.

    Raises:
      InputError: teacher or labels with another number of classes.

    Examples:
      >>> from skd_tf import losses
      >>> terms = losses.kd([[2.0, 1.0, 0.0]], [[3.0, 1.0, 0.0]], [0], temperature=4.0)
      >>> {name: round(float(term[0]), 3) for name, term in terms.items()}
      {'label': 0.408, 'distill': 0.124}

    Reference: Hinton et al. 2015, arXiv:1503.02531.
    """
    student, teacher = logit_pair(student_logits, teacher_logits, several=True)
    return {
        "label": label_term(student, labels),
        "distill": distill_term(student, teacher, temperature, teacher_weights),
    }


def logit_standardization(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar = 2.0,
    teacher_weights: Weights = None,
) -> Terms:
    """Logit Standardization: KD between standardized logits, with the label term on raw logits.

        distill = T^2 * KL( softmax(Z(z_t) / T) || softmax(Z(z_s) / T) )        Z(z) = (z - m(z)) / std(z)

    The std is the unbiased one, as in the authors' code, so Z(z) is project(z, sqrt(classes - 1)). The authors add 1e-7
    to the std for all-equal rows; `project` needs no such constant.

    Args:
      student_logits: z_s, `[batch, classes]`, any float dtype; computed in float32, or float64 if given float64.
      teacher_logits: z_t, `[batch, classes]`; receives no gradient. Of several teachers `[batch, teachers, classes]`.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft `[batch, classes]`.
      temperature: softmax temperature T > 0 of the distill term.
      teacher_weights: of several teachers, numbers > 0; None: equal. The target is the mean of their softmaxes.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32 or float64, in nats, not reduced.

    Raises:
      InputError: teacher or labels with another number of classes.

    Examples:
      >>> from skd_tf import losses
      >>> terms = losses.logit_standardization([[2.0, 1.0, 0.0]], [[3.0, 1.0, 0.0]], [0], temperature=2.0)
      >>> {name: round(float(term[0]), 3) for name, term in terms.items()}
      {'label': 0.408, 'distill': 0.01}

    Reference: Sun et al. 2024, arXiv:2403.01427.
    """
    student, teacher = logit_pair(student_logits, teacher_logits, several=True)
    radius = math.sqrt(student.shape[-1] - 1)
    distill = distill_term(project(student, radius), project(teacher, radius), temperature, teacher_weights)
    return {"label": label_term(student, labels), "distill": distill}


def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    teacher_weights: Weights = None,
) -> Terms:
    """Decoupled Knowledge Distillation: separate weights for the label's class and for the other classes.

        distill = T^2 * [ alpha * KL(b_t || b_s) + beta * KL(q_t || q_s) ]
        b = (p_y, 1 - p_y)    q = softmax over the classes other than y    both from z / T

    The authors warm up the weight of this term over the first 20 epochs.

    Args:
      student_logits: z_s, `[batch, classes]`, at least two classes, any float dtype; computed in float32, or float64 if
        given float64.
      teacher_logits: z_t, `[batch, classes]`; receives no gradient. Of several teachers `[batch, teachers, classes]`.
      labels: class numbers `[batch]`. An unlabelled example (-1) has no class to separate: both its terms are 0.
      temperature: softmax temperature T > 0 of the distill term.
      alpha: weight of the label's class.
      beta: weight of the other classes; the authors use 2 to 8, depending on the pair of networks.
      teacher_weights: of several teachers, numbers > 0; None: equal. The target is the mean of their softmaxes.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32 or float64, in nats, not reduced.

    Raises:
      InputError: one-hot or soft labels, as the loss needs one class per example; or a teacher with another number of
        classes.

    Examples:
      >>> from skd_tf import losses
      >>> terms = losses.dkd([[2.0, 1.0, 0.0]], [[3.0, 1.0, 0.5]], [0], temperature=4.0, alpha=1.0, beta=8.0)
      >>> {name: round(float(term[0]), 3) for name, term in terms.items()}
      {'label': 0.408, 'distill': 0.322}

    Reference: Zhao et al. 2022, arXiv:2203.08679.
    """
    student, teacher = logit_pair(student_logits, teacher_logits, several=True)
    targets = one_class_targets("dkd", labels, student)
    temperature = ops.convert_to_tensor(temperature, dtype=student.dtype)
    student_target, student_others = _decoupled(student / temperature, targets)
    teacher_target, teacher_others = _decoupled(softened(teacher, temperature, teacher_weights), targets)
    target_kl, others_kl = kl_divergence(teacher_target, student_target), kl_divergence(teacher_others, student_others)
    is_labelled = ops.sum(targets, axis=-1)
    distill = temperature**2 * is_labelled * (alpha * target_kl + beta * others_kl)
    return {"label": label_term(student, targets), "distill": distill}


def _decoupled(logits, targets):
    """log b = (log p_y, log(1 - p_y)), and log q over the other classes (about -1e30 at the label's class)."""
    log_probabilities = ops.log_softmax(logits)
    log_target = ops.sum(targets * log_probabilities, axis=-1, keepdims=True)
    others = ops.where(targets > 0, -1e30, log_probabilities)
    log_rest = ops.logsumexp(others, axis=-1, keepdims=True)
    return ops.concatenate([log_target, log_rest], axis=-1), others - log_rest


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar = 4.0,
    teacher_weights: Weights = None,
) -> Terms:
    """DIST: the correlation of the softmaxes, over the classes of an image and over the images of a batch.

        distill = T^2 * [ (1 - pearson over classes) + mean over classes of (1 - pearson over the batch) ]

    The second part is one number for the batch of this call; under several replicas that is the replica's own batch.
    Every example carries it, so the mean of `distill` is the authors' loss. Sample weights do not enter it.

    Args:
      student_logits: z_s, `[batch, classes]`, any float dtype; computed in float32, or float64 if given float64.
      teacher_logits: z_t, `[batch, classes]`; receives no gradient. Of several teachers `[batch, teachers, classes]`.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft `[batch, classes]`.
      temperature: softmax temperature T > 0 of the distill term.
      teacher_weights: of several teachers, numbers > 0; None: equal. The target is the mean of their softmaxes.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32 or float64, not reduced; "label" is in nats.

    Raises:
      InputError: teacher or labels with another number of classes.

    Examples:
      >>> from skd_tf import losses
      >>> student, teacher = [[2.0, 1.0, 0.0], [0.5, 0.0, 1.0]], [[3.0, 1.0, 0.0], [0.0, 0.0, 4.0]]
      >>> terms = losses.dist(student, teacher, [0, 2], temperature=4.0)
      >>> print(terms["label"].numpy().round(3), terms["distill"].numpy().round(3))
      [0.408 0.68 ] [0.334 1.865]

    Reference: Huang et al. 2022, arXiv:2205.10536.
    """
    student, teacher = logit_pair(student_logits, teacher_logits, several=True)
    temperature = ops.convert_to_tensor(temperature, dtype=student.dtype)
    student_probabilities = ops.softmax(student / temperature)
    teacher_probabilities = ops.softmax(softened(teacher, temperature, teacher_weights))
    over_classes = _correlation_distance(student_probabilities, teacher_probabilities, axis=1)
    over_batch = ops.mean(_correlation_distance(student_probabilities, teacher_probabilities, axis=0))
    return {"label": label_term(student, labels), "distill": temperature**2 * (over_classes + over_batch)}


def _correlation_distance(student, teacher, axis):
    """1 - pearson correlation along `axis`; the authors' 1e-8 matters in columns of tiny values."""
    student, teacher = _centered(student, axis), _centered(teacher, axis)
    squares = ops.sum(ops.square(student), axis=axis) * ops.sum(ops.square(teacher), axis=axis)
    norms = ops.sqrt(ops.where(squares > 0, squares, 1.0))
    return 1.0 - ops.sum(student * teacher, axis=axis) / (norms + 1e-8)


def _centered(values, axis):
    """Values minus their mean. Equal values give exact zeros; subtracting the mean alone would leave rounding."""
    values = values - ops.stop_gradient(ops.max(values, axis=axis, keepdims=True))
    return values - ops.mean(values, axis=axis, keepdims=True)
