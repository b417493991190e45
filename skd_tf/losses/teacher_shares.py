"""The shares of several teachers in one target, without TensorFlow."""

import math
from collections.abc import Sequence

from skd_tf.errors import input_error


def teacher_shares(weights: Sequence[float] | None, teachers: int) -> tuple[float, ...]:
    """The weights of teachers, divided by their sum.

    Args:
      weights: a number > 0 for each teacher, or None: all are equal.
      teachers: how many there are.

    Raises:
      InputError: there is not one number > 0 for each teacher.

    Examples:
      >>> teacher_shares(None, 2), teacher_shares([3, 1], 2)
      ((0.5, 0.5), (0.75, 0.25))
    """
    given = [1.0] * teachers if weights is None else [float(weight) for weight in weights]
    total = math.fsum(given)
    if len(given) != teachers or not all(weight > 0 for weight in given) or not total < math.inf:
        numbers = "number" if teachers == 1 else "numbers"
        raise input_error(
            "The weights do not fit the teachers",
            expected=f"{teachers} {numbers} > 0, one for each teacher",
            received=f"teacher_weights={','.join(f'{weight:g}' for weight in given)}",
            remedy="Give as many as there are teachers, in the same order",
        )
    return tuple(weight / total for weight in given)
