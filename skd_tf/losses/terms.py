"""What every loss is made of: float32 logits, target probabilities, the label term and the distill term."""

from keras import ops

from skd_tf.errors import input_error


def as_float(logits):
    """`logits` as a float32 tensor; float64 stays float64.

    Args:
      logits: `[batch, classes]`, any dtype.

    Returns:
      The same shape, float32 or float64.
    """
    logits = ops.convert_to_tensor(logits)
    return logits if logits.dtype == "float64" else ops.cast(logits, "float32")


def logit_pair(student_logits, teacher_logits):
    """Both nets' logits in the student's float type, the teacher's cut off from the gradient.

    Args:
      student_logits: `[batch, classes]`, any float dtype.
      teacher_logits: `[batch, classes]`, any float dtype.

    Returns:
      Two tensors `[batch, classes]`, float32 (float64 where the student's is).

    Raises:
      InputError: the two nets have different numbers of classes.
    """
    student = as_float(student_logits)
    teacher = ops.stop_gradient(ops.convert_to_tensor(teacher_logits, dtype=student.dtype))
    if student.shape[-1] != teacher.shape[-1]:
        raise input_error(
            "The teacher has other classes than the student",
            expected=f"{student.shape[-1]} logits per image",
            received=f"teacher_logits.shape={tuple(teacher.shape)}",
            remedy="Take a teacher of the same dataset",
        )
    return student, teacher


def holds_class_numbers(labels):
    """Whether `labels` are class numbers, `[batch]` or `[batch, 1]`, and not probabilities."""
    return len(labels.shape) == 1 or labels.shape[-1] == 1


def target_probabilities(labels, num_classes, dtype="float32"):
    """Labels of either form as probabilities; an unlabelled example gets a row of zeros.

    Args:
      labels: class numbers `[batch]` or `[batch, 1]`, -1 for unlabelled; or one-hot or soft
        `[batch, classes]`.
      num_classes: classes of the logits.
      dtype: float dtype of the result.

    Returns:
      `[batch, classes]`. A class number that does not exist gives a row of NaN: a compiled step cannot raise,
      and a row of zeros would silently drop the example.

    Raises:
      InputError: soft labels of another width than `num_classes`.
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
            remedy="Give the student the dataset's number of classes",
        )
    return ops.cast(labels, dtype)


def label_term(logits, labels):
    """Cross entropy between the labels and softmax(logits): -sum_c y_c log p_c.

    Args:
      logits: `[batch, classes]` float32 or float64.
      labels: as in `target_probabilities`.

    Returns:
      `[batch]`, the dtype of `logits`, nats; exactly 0, with zero gradient, for an unlabelled example.
    """
    targets = target_probabilities(labels, logits.shape[-1], logits.dtype)
    return -ops.sum(targets * ops.log_softmax(logits), axis=-1)


def distill_term(student_logits, teacher_logits, temperature):
    """T^2 * KL( softmax(teacher / T) || softmax(student / T) ).

    The factor T^2 keeps the gradient's size when T changes.

    Args:
      student_logits: `[batch, classes]` float32 or float64.
      teacher_logits: `[batch, classes]`, the same dtype.
      temperature: softmax temperature T > 0, a float or a scalar tensor.

    Returns:
      `[batch]`, the dtype of the logits, nats.

    Reference: Hinton et al. 2015, arXiv:1503.02531.
    """
    temperature = ops.convert_to_tensor(temperature, dtype=student_logits.dtype)
    student = ops.log_softmax(student_logits / temperature)
    teacher = ops.log_softmax(teacher_logits / temperature)
    return temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
