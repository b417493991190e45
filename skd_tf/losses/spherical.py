"""The sphere: logits scaled to one norm, and the loss, the readout and the radius that go with it."""

import math

from keras import ops

from skd_tf.errors import input_error
from skd_tf.losses import sphere_geometry
from skd_tf.losses.terms import as_float, distill_term, label_term, logit_pair

# A row whose spread is below this counts as all-equal: its gradient, R / norm, would overflow float32.
_SMALLEST_SPREAD = 1e-30


def _rescaled(logits, center):
    """Logits divided by their own spread, centred if asked, with that spread and the norm of the result.

    Subtracting the largest logit first makes an all-equal row exactly zero, and the mean exact to rounding of
    the spread, also where all logits are large. Dividing by the spread keeps the squares in range; a row that
    is not all-equal then has a sum of squares of at least 1/2. Neither step can change the result, so neither
    needs a gradient.
    """
    if center:
        top = ops.max(logits, axis=-1, keepdims=True)
        spread = top - ops.min(logits, axis=-1, keepdims=True)
        logits = logits - ops.stop_gradient(top)
    else:
        spread = ops.max(ops.abs(logits), axis=-1, keepdims=True)
    spread = ops.stop_gradient(spread)
    rescaled = logits / ops.where(spread > _SMALLEST_SPREAD, spread, 1.0)
    if center:
        rescaled = rescaled - ops.mean(rescaled, axis=-1, keepdims=True)
    squares = ops.sum(ops.square(rescaled), axis=-1, keepdims=True)
    return rescaled, spread, ops.sqrt(ops.maximum(squares, 0.25))


def project(logits, radius, *, center=True):
    """Logits scaled to the norm `radius`.

        R * (z - m(z)) / ||z - m(z)||_2        without centring: R * z / ||z||_2

    Unchanged when a row is scaled by c > 0 and, centred, when it is shifted; the gradient flows through the
    norm. `layer_norm(z) * m` (population std) is `project(z, m * sqrt(classes))`.

    Args:
      logits: `[batch, classes]`, any float dtype; computed in float32, float64 stays float64.
      radius: the norm R > 0: a float, a scalar tensor or a `[batch, 1]` tensor.
      center: whether the mean over classes, m(z), is taken off first.

    Returns:
      `[batch, classes]` float32 or float64. An all-equal row (without centring: an all-zero one) gives zeros,
      and a finite gradient that leads away from there.

    Raises:
      InputError: `radius` is a name.

    Reference: Guo et al. 2021, arXiv:2010.07485.
    """
    if isinstance(radius, str):
        raise input_error(
            "The radius is a name where its value is needed",
            expected="a number > 0",
            received=f"radius={radius!r}",
            remedy="Take resolve_radius for auto, Distiller.adapt for teacher_mean",
        )
    logits = as_float(logits)
    rescaled, _, norm = _rescaled(logits, center)
    return rescaled * (ops.convert_to_tensor(radius, dtype=logits.dtype) / norm)


def logit_norm(logits, *, center=True):
    """The norm that `project` replaces: ||z - m(z)||_2, or ||z||_2 without centring.

    Args:
      logits: `[batch, classes]`, any float dtype; computed in float32, float64 stays float64.
      center: whether the mean over classes is taken off first.

    Returns:
      `[batch]` float32 or float64; a measurement, not for differentiating.
    """
    _, spread, norm = _rescaled(as_float(logits), center)
    return ops.squeeze(spread * norm, axis=-1)


def spherical_kd(student_logits, teacher_logits, labels, *, temperature=4.0, radius, center=True):
    """Spherical Knowledge Distillation: both terms on logits that lie on one sphere.

        label   = CE( softmax(project(z_s; R)), y )
        distill = T^2 * KL( softmax(project(z_t; R) / T) || softmax(project(z_s; R) / T) )

    The published variants, by `center` and `radius`:

        the authors' 2020 code, m = 2     True     2 * sqrt(classes), what "auto" resolves to
        the authors' 2023 code            True     "teacher_sample"
        the paper's figure                False    the teacher's mean norm, as a number
        PaddleClas                        True     2 * sqrt(classes), with temperature 1

    Args:
      student_logits: `[batch, classes]`, any float dtype; computed in float32.
      teacher_logits: `[batch, classes]`; receives no gradient.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft
        `[batch, classes]`.
      temperature: softmax temperature of the distill term, > 0, a float or a scalar tensor.
      radius: norm R > 0 that both nets' logits are scaled to, a float or a scalar tensor; or
        "teacher_sample": each image's own teacher norm, where the teacher's logits stay as they are.
      center: whether the mean over classes is taken off before the norm.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32, nats, not reduced.

    Raises:
      InputError: another name for the radius, or shapes that do not fit.

    Reference: Guo et al. 2021, arXiv:2010.07485, and its code.
    """
    student, teacher = on_one_sphere(student_logits, teacher_logits, radius, center=center)
    return {"label": label_term(student, labels), "distill": distill_term(student, teacher, temperature)}


def on_one_sphere(student_logits, teacher_logits, radius, *, center=True):
    """Both nets' logits on the sphere of `spherical_kd`, the teacher's cut off from the gradient.

    Args:
      student_logits: `[batch, classes]`, any float dtype; computed in float32.
      teacher_logits: `[batch, classes]`; receives no gradient.
      radius: as in `spherical_kd`.
      center: as in `project`.

    Returns:
      (student, teacher), each `[batch, classes]` float32, float64 where the student's are.

    Raises:
      InputError: another name for the radius, or shapes that do not fit.
    """
    student, teacher = logit_pair(student_logits, teacher_logits)
    if isinstance(radius, str) and radius == "teacher_sample":
        radius = logit_norm(teacher, center=center)[:, None]
    else:
        teacher = project(teacher, radius, center=center)
    return project(student, radius, center=center), teacher


READOUTS = {
    "raw": lambda logits, radius, center: as_float(logits),
    "sphere": lambda logits, radius, center: project(logits, radius, center=center),
}


def readout(logits, kind, radius=None, center=True):
    """The logits whose softmax is the student's probability.

    Args:
      logits: raw logits `[batch, classes]`, any float dtype.
      kind: "raw" (as they are) or "sphere" (projected), the `readout` of the loss's row in LOSSES.
      radius: as in `project`; unused for "raw".
      center: as in `project`; unused for "raw".

    Returns:
      `[batch, classes]` float32, float64 where `logits` are.

    Raises:
      InputError: an unknown kind.
    """
    if kind not in READOUTS:
        raise input_error(
            "Unknown readout",
            expected=f"one of {', '.join(READOUTS)}",
            received=f"readout={kind!r}",
            remedy="Correct the loss's row in LOSSES",
        )
    return READOUTS[kind](logits, radius, center)


def resolve_radius(radius, num_classes):
    """The radius as a number where it is known without a teacher: "auto" is the authors' 2 * sqrt(classes).

    Args:
      radius: a number > 0, "auto", "teacher_mean" or "teacher_sample".
      num_classes: classes of the dataset.

    Returns:
      A float > 0, or "teacher_mean" or "teacher_sample" as given.

    Raises:
      InputError: anything else.
    """
    if radius in ("teacher_mean", "teacher_sample"):
        return radius
    try:
        number = sphere_geometry.auto_radius(num_classes) if radius == "auto" else float(radius)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 < number < math.inf:
        raise input_error(
            "Not a radius",
            expected="a number > 0, auto, teacher_mean or teacher_sample",
            received=f"radius={radius!r}",
            remedy="Take auto, the authors' 2 * sqrt(classes)",
        )
    return number
