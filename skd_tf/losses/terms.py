"""The parts of every loss: float32 logits, target probabilities, the label term and the distill term."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from keras import ops

from skd_tf.errors import input_error
from skd_tf.losses.teacher_shares import teacher_shares

if TYPE_CHECKING:
    import tensorflow as tf

    Tensor: TypeAlias = tf.Tensor
else:
    Tensor = object  # the losses compute on any backend of Keras, as in experiments/lab/jax
Scalar: TypeAlias = float | Tensor
Terms: TypeAlias = dict[str, Tensor]  # each [batch]: "label" and, with a teacher, "distill"
Weights: TypeAlias = Sequence[float] | None  # of several teachers; None: equal


def as_float(logits: Tensor) -> Tensor:
    """`logits` as a float32 tensor of the same shape; float64 stays float64."""
    logits = ops.convert_to_tensor(logits)
    return logits if logits.dtype == "float64" else ops.cast(logits, "float32")


def logit_pair(student_logits: Tensor, teacher_logits: Tensor, *, several: bool = False) -> tuple[Tensor, Tensor]:
    """The logits of both networks in the student's float type. No gradient flows into the teacher's.

    Args:
      student_logits: `[batch, classes]`, any float dtype.
      teacher_logits: `[batch, classes]`, any float dtype; or, if `several`, `[batch, teachers, classes]`.
      several: whether the loss can use several teachers.

    Returns:
      (student, teacher), of these shapes, float32, or float64 if the student's logits are float64.

    Raises:
      InputError: the networks have different numbers of classes, or there are several teachers and the loss takes one.
    """
    student = as_float(student_logits)
    teacher = ops.stop_gradient(ops.convert_to_tensor(teacher_logits, dtype=student.dtype))
    if student.shape[-1] != teacher.shape[-1]:
        raise input_error(
            "The teacher has other classes than the student",
            expected=f"{student.shape[-1]} logits per image",
            received=f"teacher_logits.shape={tuple(teacher.shape)}",
            remedy="Use a teacher trained on the same dataset",
        )
    if len(teacher.shape) > 2 and not several:
        raise input_error(
            "This loss takes one teacher",
            expected="teacher_logits of shape [batch, classes]",
            received=f"teacher_logits.shape={tuple(teacher.shape)}",
            remedy="Use a loss that takes teacher_weights, as kd does",
        )
    return student, teacher


def softened(teacher_logits: Tensor, temperature: Scalar, teacher_weights: Weights = None) -> Tensor:
    """Logits whose softmax is the target of a loss. With several teachers it is the mean of their softmaxes.

        one teacher         softmax(z / T)
        several teachers    sum_m w_m softmax(z_m / T)

    Args:
      teacher_logits: z `[batch, classes]` or z_m `[batch, teachers, classes]`, float32 or float64.
      temperature: T > 0, a float or a scalar tensor.
      teacher_weights: w_m > 0 up to a common factor; None: equal.

    Returns:
      `[batch, classes]` in the dtype of the logits.

    Raises:
      InputError: there is not one weight > 0 for each teacher.
    """
    logits = teacher_logits / temperature
    if len(logits.shape) == 2:
        return logits
    shares = np.log(teacher_shares(teacher_weights, logits.shape[1]))
    shares = ops.convert_to_tensor(shares[:, None], dtype=logits.dtype)
    return ops.logsumexp(ops.log_softmax(logits) + shares, axis=1)


def over_teachers(values: Tensor, teacher_weights: Weights = None) -> Tensor:
    """The weighted mean over several teachers of values `[batch, teachers]`; values `[batch]` of one as they are."""
    if len(values.shape) == 1:
        return values
    shares = teacher_shares(teacher_weights, values.shape[1])
    return ops.sum(values * ops.convert_to_tensor(shares, dtype=values.dtype), axis=-1)


def holds_class_numbers(labels: Tensor) -> bool:
    """Whether `labels` are class numbers, `[batch]` or `[batch, 1]`, rather than probabilities."""
    return len(labels.shape) == 1 or labels.shape[-1] == 1


def target_probabilities(labels: Tensor, num_classes: int, dtype: str = "float32") -> Tensor:
    """Labels in either form as probabilities. An unlabelled example gets a row of zeros.

    Args:
      labels: class numbers `[batch]` or `[batch, 1]`, -1 for unlabelled; or one-hot or soft `[batch, classes]`.
      num_classes: number of classes of the logits.
      dtype: float dtype of the result.

    Returns:
      `[batch, classes]`. A class number out of range gives a row of NaN: a compiled step cannot raise, and a row of
      zeros would silently drop the example.

    Raises:
      InputError: soft labels whose width is not `num_classes`.

    Examples:
      >>> from skd_tf import losses
      >>> print(losses.target_probabilities([2, -1, 3], num_classes=3).numpy())
      [[ 0.  0.  1.]
       [ 0.  0.  0.]
       [nan nan nan]]
    """
    labels = ops.convert_to_tensor(labels)
    if holds_class_numbers(labels):
        numbers = ops.cast(ops.reshape(labels, (-1, 1)), "int64")
        exists = ops.logical_and(numbers >= -1, numbers < num_classes)
        return ops.where(exists, ops.one_hot(numbers[:, 0], num_classes, dtype=dtype), float("nan"))
    if labels.shape[-1] != num_classes:
        raise input_error(
            "The labels have other classes than the logits",
            expected=f"[batch] or [batch, {num_classes}]",
            received=f"labels.shape={tuple(labels.shape)}",
            remedy="Build the student with the dataset's number of classes",
        )
    return ops.cast(labels, dtype)


def one_class_targets(name: str, labels: Tensor, student_logits: Tensor) -> Tensor:
    """`target_probabilities` for a loss that needs one class per example.

    Args:
      name: of the loss, for the error.
      labels: class numbers `[batch]`, -1 for unlabelled.
      student_logits: `[batch, classes]`; they give the classes and the dtype.

    Returns:
      One-hot `[batch, classes]`.

    Raises:
      InputError: one-hot or soft labels.
    """
    labels = ops.convert_to_tensor(labels)
    if not holds_class_numbers(labels):
        raise input_error(
            f"{name} needs one class per example",
            expected="class numbers of shape [batch]",
            received=f"labels.shape={tuple(labels.shape)}",
            remedy="Pass class numbers, without smoothing or mixing",
        )
    return target_probabilities(labels, student_logits.shape[-1], student_logits.dtype)


def label_term(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy between the labels y and softmax(z): -sum_c y_c log p_c.

    Args:
      logits: z, `[batch, classes]` float32 or float64.
      labels: as in `target_probabilities`.

    Returns:
      `[batch]` in the dtype of `logits`, in nats. It is exactly 0, with zero gradient, for an unlabelled example.
    """
    targets = target_probabilities(labels, logits.shape[-1], logits.dtype)
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


def distill_term(
    student_logits: Tensor, teacher_logits: Tensor, temperature: Scalar, teacher_weights: Weights = None
) -> Tensor:
    """T^2 * KL( softmax(z_t / T) || softmax(z_s / T) ); the factor T^2 keeps the gradient's size when T changes.

    Args:
      student_logits: z_s, `[batch, classes]` float32 or float64.
      teacher_logits: z_t, `[batch, classes]`, the same dtype. Of several teachers `[batch, teachers, classes]`: the mean
        of their softmaxes takes the place of softmax(z_t / T).
      temperature: softmax temperature T > 0, a float or a scalar tensor.
      teacher_weights: as in `softened`.

    Returns:
      `[batch]` in the dtype of the logits, in nats.

    Reference: Hinton et al. 2015, arXiv:1503.02531.
    """
    temperature = ops.convert_to_tensor(temperature, dtype=student_logits.dtype)
    student = ops.log_softmax(student_logits / temperature)
    teacher = ops.log_softmax(softened(teacher_logits, temperature, teacher_weights))
    return temperature**2 * kl_divergence(teacher, student)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum_c p_c log(p_c / q_c), accurate also for p close to q, as at high temperatures.

    The sum of q_c - p_c is 0, so it changes neither the value nor the gradient. As computed, it cancels the rounding of
    log p and log q, which at T = 10,000 is larger than the divergence.

    Args:
      log_p, log_q: logarithms of probabilities, `[..., classes]`, finite.

    Returns:
      `[...]` in their dtype, in nats.
    """
    p, gap = ops.exp(log_p), log_p - log_q
    # q - p, from the larger of the two: nothing overflows, and neither is subtracted from the other.
    surplus = ops.sign(gap) * ops.exp(ops.maximum(log_p, log_q)) * ops.expm1(-ops.abs(gap))
    return ops.sum(p * gap + ops.stop_gradient(surplus), axis=-1)
