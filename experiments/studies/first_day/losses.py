"""Losses that exist only for this study: one part of the spherical loss removed or changed at a time."""

from collections.abc import Callable

from keras import ops

from skd_tf import losses
from skd_tf.losses.terms import Scalar, Tensor, Terms, distill_term, label_term, logit_pair


def teacher_on_sphere(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: Scalar, radius: Scalar
) -> Terms:
    """Only the teacher's logits are projected; the student's are raw in both terms."""
    student, teacher = logit_pair(student_logits, teacher_logits)
    distill = distill_term(student, losses.project(teacher, radius), temperature)
    return {"label": label_term(student, labels), "distill": distill}


def student_on_sphere(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: Scalar, radius: Scalar
) -> Terms:
    """Only the student's logits are projected, in both terms; the teacher's are raw."""
    student, teacher = logit_pair(student_logits, teacher_logits)
    student = losses.project(student, radius)
    return {"label": label_term(student, labels), "distill": distill_term(student, teacher, temperature)}


def label_raw(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: Scalar, radius: Scalar
) -> Terms:
    """The distill term of the spherical loss, with the label term on the student's raw logits."""
    student, teacher = losses.on_one_sphere(student_logits, teacher_logits, radius)
    raw, _ = logit_pair(student_logits, teacher_logits)
    return {"label": label_term(raw, labels), "distill": distill_term(student, teacher, temperature)}


def label_radius(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar,
    radius: Scalar,
    factor: float = 1.0,
) -> Terms:
    """The spherical loss with its label term on a sphere of radius `factor` R."""
    student, teacher = losses.on_one_sphere(student_logits, teacher_logits, radius)
    return {"label": label_term(factor * student, labels), "distill": distill_term(student, teacher, temperature)}


def batch_scale(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, temperature: Scalar, radius: Scalar
) -> Terms:
    """The spherical loss times stop_gradient(mean norm of the student's logits / R), one factor for the batch.

    The gradient is then that of a loss, at a rate that grows with the norm. On one replica the batch is the global one.
    """
    terms = losses.spherical_kd(student_logits, teacher_logits, labels, temperature=temperature, radius=radius)
    scale = ops.stop_gradient(ops.mean(losses.logit_norm(student_logits))) / radius
    return {name: scale * term for name, term in terms.items()}


def label_scale(scale: Callable[[], Tensor]) -> Callable[..., Terms]:
    """The spherical loss with its label term on a sphere whose radius is learned.

    Args:
      scale: gives the radius, a scalar; see `learned_scale`.
    """

    def function(student_logits, teacher_logits, labels, *, temperature, radius):
        student, teacher = losses.on_one_sphere(student_logits, teacher_logits, radius)
        label = label_term(losses.project(student, scale()), labels)
        return {"label": label, "distill": distill_term(student, teacher, temperature)}

    return function
