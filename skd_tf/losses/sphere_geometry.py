"""Numbers that follow from classes, radius and temperature on a sphere of logits; needs no TensorFlow."""

import math

from skd_tf.errors import input_error


def reject_two_classes(num_classes: int | None, center: bool) -> None:
    """Refuses a centred sphere of two classes: it consists of the two points z = +-R / sqrt(2), and has no gradient.

    Args:
      num_classes: number of classes C, or None if it is not known yet.
      center: as in `skd_tf.losses.project`.

    Raises:
      InputError: a centred sphere of two classes.
    """
    if center and num_classes == 2:
        raise input_error(
            "Two classes leave two points on a centred sphere, and no gradient",
            expected="at least three classes, or --nocenter",
            received="two classes and center=True",
            remedy="Use --nocenter (center=False) or --loss=kd",
        )


def reject_standardized_pair(num_classes: int | None) -> None:
    """Refuses two classes for a loss between standardized logits, which are then one of two points.

    Raises:
      InputError: two classes.
    """
    if num_classes == 2:
        raise input_error(
            "Two standardized logits are one of two points, so the distill term has no gradient",
            expected="at least three classes",
            received="two classes and --loss=logit_standardization",
            remedy="Use --loss=kd",
        )


def auto_radius(num_classes: int) -> float:
    """The authors' radius, R = 2 sqrt(C): their code scales standardized logits by m = 2 (arXiv:2010.07485).

    Examples:
      >>> auto_radius(100)
      20.0
    """
    return 2.0 * math.sqrt(num_classes)


def top_probability(num_classes: int, radius: float, temperature: float) -> float:
    """The highest probability that softmax(project(z; R) / T) can reach.

        1 / (1 + (C - 1) exp(-R sqrt(C / (C - 1)) / T))

    Examples:
      >>> round(top_probability(100, radius=10.0, temperature=4.0), 3)
      0.111
    """
    gap = radius * math.sqrt(num_classes / (num_classes - 1)) / temperature
    return 1 / (1 + (num_classes - 1) * math.exp(-gap))


def second_minimum_radius(
    num_classes: int, *, temperature: float = 1.0, kd_weight: float = 0.0, label_weight: float = 1.0
) -> float:
    """The radius above which the loss on the sphere has a second minimum, opposite the label.

    Opposite the label, the gradient of CE(q, softmax(R u)) points along z, so the projection removes all of it. The target
    q has q_y on the label, and the same on each other class. With p the softmax and k = sqrt(C / (C - 1)), the curvature
    there is the same in every direction that keeps the mean over classes:

        c(R, q_y) = R^2 (1 - p_y) / (C - 1) - R k (q_y - p_y)        p_y = 1 / (1 + (C - 1) exp(R k))

    In the label term q_y is 1: below R = sqrt(C (C - 1)) the point is a maximum, which images leave. Above, an image that
    gets there stays, with a loss of R k + ln(C - 1). In the distill term R / T stands for R, times T^2, and q_y is the
    top probability that a teacher can reach on the sphere. The result is the R at which the weighted sum is 0. For many
    classes it is close to sqrt(C (C - 1)) (label_weight + kd_weight T) / (label_weight + kd_weight).

    Args:
      num_classes: number of classes C > 2.
      temperature: temperature T of the distill term.
      kd_weight: weight of the distill term.
      label_weight: weight of the label term; the two weights must not both be 0.

    Returns:
      The radius R.

    Examples:
      >>> round(second_minimum_radius(10), 1)
      9.5
      >>> round(second_minimum_radius(10, temperature=4.0, kd_weight=0.9, label_weight=0.1), 1)
      35.1
    """
    k = math.sqrt(num_classes / (num_classes - 1))

    def curvature(radius, target):
        others = math.exp(-radius * k)  # of the label's logit beside the others': no overflow for a large radius
        label = others / (others + num_classes - 1)
        return radius**2 * (1 - label) / (num_classes - 1) - radius * k * (target - label)

    def total(radius):
        distill = curvature(radius / temperature, top_probability(num_classes, radius, temperature))
        return label_weight * curvature(radius, 1.0) + kd_weight * temperature**2 * distill

    low, high = 0.0, math.sqrt(num_classes * (num_classes - 1)) * max(1.0, temperature)  # there both terms bend up
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) < 0 else (low, middle)
    return high
