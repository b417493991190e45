"""What a user compares with; logits raw in the label term, weights (the authors') in LOSSES."""

import math

from keras import ops

from skd_tf.errors import input_error
from skd_tf.losses.spherical import project
from skd_tf.losses.terms import (
    as_float,
    distill_term,
    holds_class_numbers,
    label_term,
    logit_pair,
    target_probabilities,
)


def cross_entropy(student_logits, teacher_logits, labels):
    """Plain training: CE( softmax(z_s), y ), no teacher.

    Args:
      student_logits: `[batch, classes]`, any float dtype; computed in float32.
      teacher_logits: unused, may be None.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft
        `[batch, classes]`.

    Returns:
      {"label": `[batch]`} float32, nats, not reduced.
    """
    return {"label": label_term(as_float(student_logits), labels)}


def kd(student_logits, teacher_logits, labels, *, temperature=4.0):
    """Knowledge Distillation: T^2 * KL( softmax(z_t / T) || softmax(z_s / T) ) beside the plain label term.

    Args:
      student_logits: `[batch, classes]`, any float dtype; computed in float32.
      teacher_logits: `[batch, classes]`; receives no gradient.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft
        `[batch, classes]`.
      temperature: softmax temperature of the distill term, > 0.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32, nats, not reduced.

    Reference: Hinton et al. 2015, arXiv:1503.02531.
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    return {"label": label_term(student, labels), "distill": distill_term(student, teacher, temperature)}


def logit_standardization(student_logits, teacher_logits, labels, *, temperature=2.0):
    """KD between standardized logits: T^2 * KL( softmax(Z(z_t) / T) || softmax(Z(z_s) / T) ), label term raw.

    Z(z) = (z - mean) / std is project(z, sqrt(classes - 1)): the std is unbiased, as in the authors' code.
    They add 1e-7 to it against all-equal rows, which project handles by itself.

    Args:
      student_logits: `[batch, classes]`, any float dtype; computed in float32.
      teacher_logits: `[batch, classes]`; receives no gradient.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft
        `[batch, classes]`.
      temperature: softmax temperature of the distill term, > 0.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32, nats, not reduced.

    Reference: Sun et al. 2024, arXiv:2403.01427.
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    radius = math.sqrt(student.shape[-1] - 1)
    distill = distill_term(project(student, radius), project(teacher, radius), temperature)
    return {"label": label_term(student, labels), "distill": distill}


def dkd(student_logits, teacher_logits, labels, *, temperature=4.0, alpha=1.0, beta=8.0):
    """Decoupled Knowledge Distillation: the label's class and the other classes, weighted apart.

        distill = T^2 * [ alpha * KL(b_t || b_s) + beta * KL(q_t || q_s) ]
        b = (p_y, 1 - p_y)    q = softmax over the classes that are not y    both of z / T

    The authors warm this term's weight up over the first 20 epochs.

    Args:
      student_logits: `[batch, classes]`, two classes or more, any float dtype; computed in float32.
      teacher_logits: `[batch, classes]`; receives no gradient.
      labels: class numbers `[batch]`. At -1 (unlabelled) no class can be set apart: both terms are 0.
      temperature: softmax temperature of the distill term, > 0.
      alpha: weight of the label's class.
      beta: weight of the other classes; the authors' is 2 to 8, by pair of nets.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32, nats, not reduced.

    Raises:
      InputError: one-hot or soft labels: the term needs one class per example.

    Reference: Zhao et al. 2022, arXiv:2203.08679.
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    labels = ops.convert_to_tensor(labels)
    if not holds_class_numbers(labels):
        raise input_error(
            "dkd needs one class per example",
            expected="class numbers of shape [batch]",
            received=f"labels.shape={tuple(labels.shape)}",
            remedy="Pass class numbers, without smoothing or mixing",
        )
    targets = target_probabilities(labels, student.shape[-1], student.dtype)
    temperature = ops.convert_to_tensor(temperature, dtype=student.dtype)
    student_target, student_rest, student_others = _decoupled(student / temperature, targets)
    teacher_target, teacher_rest, teacher_others = _decoupled(teacher / temperature, targets)
    target_kl = ops.exp(teacher_target) * (teacher_target - student_target)
    target_kl += ops.exp(teacher_rest) * (teacher_rest - student_rest)
    others_kl = ops.sum(ops.exp(teacher_others) * (teacher_others - student_others), axis=-1)
    is_labelled = ops.sum(targets, axis=-1)
    distill = temperature**2 * is_labelled * (alpha * target_kl + beta * others_kl)
    return {"label": label_term(student, targets), "distill": distill}


def _decoupled(logits, targets):
    """log p_y, log(1 - p_y), and log q over the other classes (about -1e30 in the label's place)."""
    log_probabilities = ops.log_softmax(logits)
    log_target = ops.sum(targets * log_probabilities, axis=-1)
    others = ops.where(targets > 0, -1e30, log_probabilities)
    log_rest = ops.logsumexp(others, axis=-1, keepdims=True)
    return log_target, ops.squeeze(log_rest, axis=-1), others - log_rest


def dist(student_logits, teacher_logits, labels, *, temperature=4.0):
    """DIST: how the softmaxes correlate, over the classes of an image and over the images of the batch.

        distill = T^2 * [ (1 - pearson over classes) + mean over classes of (1 - pearson over the batch) ]

    The second part is one number for the batch that this call sees, under several replicas the replica's own;
    every example carries it, so the mean of `distill` is the authors' loss. Sample weights do not enter it.

    Args:
      student_logits: `[batch, classes]`, any float dtype; computed in float32.
      teacher_logits: `[batch, classes]`; receives no gradient.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft
        `[batch, classes]`.
      temperature: softmax temperature of the distill term, > 0.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32, not reduced; "label" in nats.

    Reference: Huang et al. 2022, arXiv:2205.10536.
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    temperature = ops.convert_to_tensor(temperature, dtype=student.dtype)
    student_probabilities = ops.softmax(student / temperature)
    teacher_probabilities = ops.softmax(teacher / temperature)
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
    """Values less their mean; equal ones give exact zeros, where the mean alone leaves rounding."""
    values = values - ops.stop_gradient(ops.max(values, axis=axis, keepdims=True))
    return values - ops.mean(values, axis=axis, keepdims=True)
