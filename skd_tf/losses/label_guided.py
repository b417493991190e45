"""Two losses that correct or weight the teacher image by image: RLD and WTTM."""

from keras import ops

from skd_tf.losses.terms import Scalar, Tensor, Terms, kl_divergence, label_term, logit_pair, one_class_targets


def rld(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    confidence_temperature: float = 1.0,
) -> Terms:
    """Refined Logit Distillation: the teacher's confidence without its class, and its order below the label.

        distill = alpha * a^2 * KL(b_t || b_s) + beta * T^2 * KL(q_t || q_s)
        b_t = (max_c p_t, rest)    b_s = (p_s at the label, rest)    both from z / a
        q = softmax of z / T over the classes that the teacher ranks below the label

    Without such a class the second part is 0. The authors warm up the weight of this term over the first 20 epochs.

    Args:
      student_logits: z_s, `[batch, classes]`, any float dtype; computed in float32, or float64 if given float64.
      teacher_logits: z_t, `[batch, classes]`; receives no gradient.
      labels: class numbers `[batch]`. An unlabelled example (-1) has no class to compare with: both its terms are 0.
      temperature: softmax temperature T > 0 of the second part.
      alpha: weight of the first part.
      beta: weight of the second part; the authors use 4 to 8, depending on the pair of networks, and 0.5 on ImageNet.
      confidence_temperature: softmax temperature a > 0 of the first part.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32 or float64, in nats, not reduced.

    Raises:
      InputError: one-hot or soft labels, as the loss needs one class per example; or a teacher with another number of
        classes.

    Examples:
      >>> from skd_tf import losses
      >>> terms = losses.rld([[2.0, 1.0, 0.0]], [[3.0, 1.0, 0.5]], [0], temperature=4.0)
      >>> {name: round(float(term[0]), 3) for name, term in terms.items()}
      {'label': 0.408, 'distill': 0.309}

    Reference: Sun et al. 2025, arXiv:2408.07703.
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    targets = one_class_targets("rld", labels, student)
    temperature = ops.convert_to_tensor(temperature, dtype=student.dtype)
    a = ops.convert_to_tensor(confidence_temperature, dtype=student.dtype)
    at_top = ops.one_hot(ops.argmax(teacher, axis=-1), teacher.shape[-1], dtype=teacher.dtype)
    confidence = kl_divergence(_binary(teacher / a, at_top), _binary(student / a, targets))

    below = teacher < ops.sum(targets * teacher, axis=-1, keepdims=True)
    order = kl_divergence(*(_log_softmax_over(logits / temperature, below) for logits in (teacher, student)))
    distill = alpha * a**2 * confidence + beta * temperature**2 * order
    is_labelled = ops.sum(targets, axis=-1)
    return {"label": label_term(student, targets), "distill": is_labelled * distill}


def wttm(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, exponent: float = 0.2, weighted: float = 1.0
) -> Terms:
    """Weighted Transformed Teacher Matching: the teacher's probabilities to a power, the student's as they are.

        distill = w * KL( q || softmax(z_s) )        q = p_t^g / sum_c p_t^g        w = sum_c p_t^g

    q is the teacher's softmax at temperature 1 / g. w is large where the teacher is unsure.

    Args:
      student_logits: z_s, `[batch, classes]`, any float dtype; computed in float32, or float64 if given float64.
      teacher_logits: z_t, `[batch, classes]`; receives no gradient.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft `[batch, classes]`.
      exponent: g > 0, at most 1 in the paper; the authors use 0.1 and 0.2.
      weighted: 1 for w as above; 0 for w = 1, which is TTM; between them w^weighted.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32 or float64, in nats, not reduced.

    Raises:
      InputError: teacher or labels with another number of classes.

    Examples:
      >>> from skd_tf import losses
      >>> terms = losses.wttm([[2.0, 1.0, 0.0]], [[3.0, 1.0, 0.0]], [0], exponent=0.25)
      >>> {name: round(float(term[0]), 3) for name, term in terms.items()}
      {'label': 0.408, 'distill': 0.211}

    Reference: Zheng and Yang 2024, arXiv:2402.11148.
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    powers = exponent * ops.log_softmax(teacher)  # log p_t^g
    log_sum = ops.logsumexp(powers, axis=-1, keepdims=True)
    log_q = powers - log_sum
    divergence = kl_divergence(log_q, ops.log_softmax(student))
    weight = ops.exp(weighted * ops.squeeze(log_sum, axis=-1))
    return {"label": label_term(student, labels), "distill": weight * divergence}


def _binary(logits, one_hot):
    """log of p at a class and of the sum of the others, `[batch, 2]`; one_hot all zeros: 0 and 0."""
    log_probabilities = ops.log_softmax(logits)
    inside = ops.sum(one_hot * log_probabilities, axis=-1)
    outside = ops.logsumexp(ops.where(one_hot > 0, -1e30, log_probabilities), axis=-1)
    return ops.stack([inside, outside], axis=-1)


def _log_softmax_over(logits, mask):
    """log softmax over the classes of a mask, about -1e30 elsewhere; without a class, the same for all logits."""
    masked = ops.where(mask, logits, -1e30)
    return masked - ops.logsumexp(masked, axis=-1, keepdims=True)
