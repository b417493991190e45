"""What a sphere of logits allows: numbers from classes, radius and temperature, without TensorFlow."""

import math

from skd_tf.errors import input_error


def require_room(num_classes, center):
    """InputError for a centred sphere of two classes: it is the two points +-R / sqrt(2), and no gradient leads anywhere.

    Args:
      num_classes: classes C, None where they are not known yet.
      center: as in `skd_tf.losses.project`.
    """
    if center and num_classes == 2:
        raise input_error(
            "Two classes leave two points of a centred sphere, and no gradient",
            expected="three classes, or --nocenter",
            received="two classes and center=True",
            remedy="Take --nocenter (center=False), or --loss=kd",
        )


def auto_radius(num_classes: int) -> float:
    """The authors' radius, R = 2 sqrt(C): their code scales standardized logits by m = 2 (arXiv:2010.07485)."""
    return 2.0 * math.sqrt(num_classes)


def top_probability(num_classes, radius, temperature):
    """The highest probability that softmax(project(z; R) / T) can give: 1 / (1 + (C - 1) exp(-R sqrt(C / (C - 1)) / T))."""
    gap = radius * math.sqrt(num_classes / (num_classes - 1)) / temperature
    return 1 / (1 + (num_classes - 1) * math.exp(-gap))


def second_minimum_radius(num_classes, *, temperature=1.0, kd_weight=0.0, label_weight=1.0):
    """The radius from which the loss on a sphere has a second minimum, opposite the label.

        R = sqrt(C (C - 1)) * (label_weight + kd_weight T) / (label_weight + kd_weight)

    Opposite the label the gradient of CE(softmax(R u), y) is along z, and the projection leaves none of it. With p the
    softmax and k = sqrt(C / (C - 1)), its curvature there is, in every direction that leaves the mean over classes alone,

        (1 - p_y) (R^2 / (C - 1) - R k)

    So below R = sqrt(C (C - 1)) that point is a maximum, which images leave; above, one that has come there stays, with a
    loss of R k + ln(C - 1). A distill term of a teacher that is sure of the label has R / T in the place of R, and T^2 in
    front. The formula for both takes 1 - p_y for 1.

    Args:
      num_classes: classes C > 2.
      temperature: T of the distill term.
      kd_weight, label_weight: of the two terms, not both 0.

    Returns:
      A float: by the label term alone 9.5 for ten classes, 99.5 for a hundred.
    """
    mean_temperature = (label_weight + kd_weight * temperature) / (label_weight + kd_weight)
    return math.sqrt(num_classes * (num_classes - 1)) * mean_temperature
