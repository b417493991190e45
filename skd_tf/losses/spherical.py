"""The sphere: the projection of logits to one norm, the spherical loss, its radius, and the student's probabilities."""

import math

from keras import ops

from skd_tf.errors import input_error
from skd_tf.losses import sphere_geometry
from skd_tf.losses.terms import (
    Scalar,
    Tensor,
    Terms,
    Weights,
    as_float,
    distill_term,
    label_term,
    logit_pair,
    over_teachers,
)

# A row with a smaller spread counts as all-equal: its gradient, R / norm, would overflow float32.
_SMALLEST_SPREAD = 1e-30


def _rescaled(logits, center):
    """Logits centred (if asked) and divided by their own spread; the spread; the norm of the result.

    Subtracting the largest logit first makes an all-equal row exactly zero. It also keeps the mean accurate when all
    logits are large. Dividing by the spread keeps the squares in range: a row that is not all-equal then has a sum of
    squares of at least 1/2. The projection is invariant under both steps, so neither needs a gradient.
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


def project(logits: Tensor, radius: Scalar, *, center: bool = True) -> Tensor:
    """Logits projected onto the sphere of the given radius.

        R * (z - m(z)) / ||z - m(z)||_2        without centring: R * z / ||z||_2

    The result does not change when a row is scaled by c > 0 or, if centred, shifted. The gradient flows through the
    norm. `layer_norm(z) * m` (population std) equals `project(z, m * sqrt(classes))`.

    Args:
      logits: z, `[..., classes]`, any float dtype; computed in float32, or float64 if given float64.
      radius: the norm R > 0: a float, a scalar tensor or a `[..., 1]` tensor.
      center: whether to subtract the mean over classes, m(z), first.

    Returns:
      `[..., classes]` float32 or float64. An all-equal row (without centring: an all-zero row) gives zeros and a
      finite gradient that leads away from there.

    Raises:
      InputError: `radius` is a name.

    Examples:
      >>> from skd_tf import losses
      >>> print(losses.project([[4.0, 1.0, 1.0]], radius=6.0).numpy().round(3))
      [[ 4.899 -2.449 -2.449]]
      >>> print(losses.project([[3.0, 4.0]], radius=10.0, center=False).numpy().round(3))
      [[6. 8.]]

    Reference: Guo et al. 2021, arXiv:2010.07485.
    """
    if isinstance(radius, str):
        raise input_error(
            "This needs the radius as a number",
            expected="a number > 0",
            received=f"radius={radius!r}",
            remedy="Use resolve_radius for auto, Distiller.adapt for teacher_mean",
        )
    logits = as_float(logits)
    rescaled, _, norm = _rescaled(logits, center)
    return rescaled * (ops.convert_to_tensor(radius, dtype=logits.dtype) / norm)


def logit_norm(logits: Tensor, *, center: bool = True) -> Tensor:
    """The norm that `project` replaces: ||z - m(z)||_2, or ||z||_2 without centring.

    Args:
      logits: z, `[..., classes]`, any float dtype; computed in float32, or float64 if given float64.
      center: whether to subtract the mean over classes first.

    Returns:
      `[...]` float32 or float64. It is a measurement: do not differentiate it.

    Examples:
      >>> from skd_tf import losses
      >>> print(losses.logit_norm([[4.0, 1.0, 1.0]]).numpy().round(3))
      [2.449]
      >>> print(losses.logit_norm([[3.0, 4.0]], center=False).numpy().round(3))
      [5.]
    """
    _, spread, norm = _rescaled(as_float(logits), center)
    return ops.squeeze(spread * norm, axis=-1)


def spherical_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: Scalar = 4.0,
    radius: Scalar | str,
    center: bool = True,
    teacher_weights: Weights = None,
) -> Terms:
    """Spherical Knowledge Distillation: both terms use logits projected onto one sphere.

        label   = CE( softmax(project(z_s; R)), y )
        distill = T^2 * KL( softmax(project(z_t; R) / T) || softmax(project(z_s; R) / T) )

    The published variants differ in `center` and `radius`:

        the authors' 2020 code, m = 2     True     2 * sqrt(classes), which is what "auto" resolves to
        the authors' 2023 code            True     "teacher_sample"
        the paper's figure                False    the teacher's mean norm, as a number
        PaddleClas                        True     2 * sqrt(classes), with temperature 1

    Args:
      student_logits: z_s, `[batch, classes]`, any float dtype; computed in float32, or float64 if given float64.
      teacher_logits: z_t, `[batch, classes]`; receives no gradient. Of several teachers `[batch, teachers, classes]`.
      labels: class numbers `[batch]`, -1 for unlabelled (label term 0); or one-hot or soft `[batch, classes]`.
      temperature: softmax temperature T > 0 of the distill term, a float or a scalar tensor.
      radius: norm R > 0 that the logits of both networks are scaled to, a float or a scalar tensor; or
        "teacher_sample": each image's own teacher norm, which leaves the teacher's logits as they are; of several
        teachers the mean of their norms.
      center: whether to subtract the mean over classes before the norm.
      teacher_weights: of several teachers, numbers > 0; None: equal. The target is the mean of the softmaxes of their
        projected logits.

    Returns:
      {"label": `[batch]`, "distill": `[batch]`} float32 or float64, in nats, not reduced.

    Raises:
      InputError: any other name for the radius, or shapes that do not match.

    Examples:
      The norm of the logits does not matter: 10 times the student's logits give the same loss.

      >>> import numpy as np
      >>> from skd_tf import losses
      >>> student, teacher = np.array([[2.0, 1.0, 0.0]]), np.array([[3.0, 1.0, 0.0]])
      >>> for scale in (1, 10):
      ...     terms = losses.spherical_kd(scale * student, teacher, [0], temperature=4.0, radius=3.0)
      ...     print({name: round(float(term[0]), 3) for name, term in terms.items()})
      {'label': 0.126, 'distill': 0.047}
      {'label': 0.126, 'distill': 0.047}

    Reference: Guo et al. 2021, arXiv:2010.07485, and its code.
    """
    student, teacher = on_one_sphere(
        student_logits, teacher_logits, radius, center=center, teacher_weights=teacher_weights
    )
    label = label_term(student, labels)
    return {"label": label, "distill": distill_term(student, teacher, temperature, teacher_weights)}


def on_one_sphere(
    student_logits: Tensor,
    teacher_logits: Tensor,
    radius: Scalar | str,
    *,
    center: bool = True,
    teacher_weights: Weights = None,
) -> tuple[Tensor, Tensor]:
    """The logits of both networks on the sphere of `spherical_kd`. No gradient flows into the teacher's.

    Args:
      student_logits: `[batch, classes]`, any float dtype; computed in float32, or float64 if given float64.
      teacher_logits: `[batch, classes]`, or `[batch, teachers, classes]`.
      radius: as in `spherical_kd`.
      center: as in `project`.
      teacher_weights: as in `spherical_kd`; only "teacher_sample" reads them here.

    Returns:
      (student, teacher), of the same shapes, float32 or float64.

    Raises:
      InputError: any other name for the radius, or shapes that do not match.

    Examples:
      >>> from skd_tf import losses
      >>> student, teacher = losses.on_one_sphere([[2.0, 0.0]], [[-3.0, 3.0]], "teacher_sample")
      >>> print(student.numpy().round(3), teacher.numpy().round(3))
      [[ 3. -3.]] [[-3.  3.]]
    """
    student, teacher = logit_pair(student_logits, teacher_logits, several=True)
    if isinstance(radius, str) and radius == "teacher_sample":
        radius = over_teachers(logit_norm(teacher, center=center), teacher_weights)[:, None]
        if len(teacher.shape) > 2:  # their norms differ, and one sphere has one radius
            teacher = project(teacher, radius[:, None], center=center)
    else:
        teacher = project(teacher, radius, center=center)
    return project(student, radius, center=center), teacher


READOUTS = {
    "raw": lambda logits, radius, center: as_float(logits),
    "sphere": lambda logits, radius, center: project(logits, radius, center=center),
}


def readout(logits: Tensor, kind: str, radius: Scalar | None = None, center: bool = True) -> Tensor:
    """The logits whose softmax gives the student's probabilities.

    Args:
      logits: raw logits `[batch, classes]`, any float dtype.
      kind: where the probabilities are taken, a key of READOUTS: "raw" (the logits unchanged) or "sphere" (projected).
      radius: as in `project`; unused for "raw".
      center: as in `project`; unused for "raw".

    Returns:
      `[batch, classes]` float32, or float64 if given float64.

    Raises:
      InputError: an unknown kind.

    Examples:
      >>> from skd_tf import losses
      >>> for kind in losses.READOUTS:
      ...     print(losses.readout([[4.0, 1.0, 1.0]], kind, radius=6.0).numpy().round(3))
      [[4. 1. 1.]]
      [[ 4.899 -2.449 -2.449]]
    """
    if kind not in READOUTS:
        raise input_error(
            "The loss does not say where probabilities are taken",
            expected=f"one of {', '.join(READOUTS)}",
            received=f"readout={kind!r}",
            remedy="Correct the loss's entry in LOSSES",
        )
    return READOUTS[kind](logits, radius, center)


def resolve_radius(radius: float | str, num_classes: int) -> float | str:
    """The radius as a number, if it does not depend on a teacher; "auto" is the authors' 2 * sqrt(classes).

    Args:
      radius: a number > 0, "auto", "teacher_mean" or "teacher_sample".
      num_classes: number of classes of the dataset.

    Returns:
      A float > 0; "teacher_mean" and "teacher_sample" are returned unchanged.

    Raises:
      InputError: anything else.

    Examples:
      >>> from skd_tf import losses
      >>> losses.resolve_radius("auto", num_classes=100)
      20.0
      >>> losses.resolve_radius("teacher_mean", num_classes=100)
      'teacher_mean'
    """
    if radius in ("teacher_mean", "teacher_sample"):
        return radius
    try:
        number = sphere_geometry.auto_radius(num_classes) if radius == "auto" else float(radius)
    except (TypeError, ValueError):
        number = math.nan
    number = math.nan if isinstance(radius, bool) else number
    if not 0.0 < number < math.inf:
        raise input_error(
            "The radius is not valid",
            expected="a number > 0, auto, teacher_mean or teacher_sample",
            received=f"radius={radius!r}",
            remedy="Use auto, the authors' 2 * sqrt(classes)",
        )
    return number
