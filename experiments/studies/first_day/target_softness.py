"""How soft a teacher's targets are: their mean entropy at a temperature, and the temperature for a given entropy."""

import math

import numpy as np

from skd_tf.errors import input_error

_RANGE = (1e-3, 1e4)  # of temperatures that are tried
_HALVINGS = 60


def mean_entropy(logits: np.ndarray, temperature: float) -> float:
    """The mean entropy of softmax(z / T), as a fraction of ln(classes), computed in float64.

    Args:
      logits: `[n, classes]`, any float dtype; for the spherical loss the projected ones.
      temperature: T > 0.

    Returns:
      In [0, 1]: 0 for one-hot targets, 1 for uniform ones.

    Examples:
      >>> round(mean_entropy(np.array([[2.0, 0.0, 0.0]]), temperature=1.0), 3)
      0.607
      >>> round(mean_entropy(np.array([[2.0, 0.0, 0.0]]), temperature=4.0), 3)
      0.975
    """
    scaled = np.asarray(logits, np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    powers = np.exp(scaled)
    total = powers.sum(axis=1)
    entropies = np.log(total) - (powers * scaled).sum(axis=1) / total
    return float(entropies.mean()) / math.log(scaled.shape[1])


def temperature_for_entropy(logits: np.ndarray, share: float) -> float:
    """The temperature T at which `mean_entropy(logits, T)` equals `share`. The entropy grows with T, so there is one T.

    Args:
      logits: as in `mean_entropy`.
      share: fraction of ln(classes), in (0, 1).

    Returns:
      T, to 15 digits.

    Raises:
      InputError: the logits are not finite, or no temperature gives this entropy: all logits of most images are equal.

    Examples:
      >>> T = temperature_for_entropy(np.array([[2.0, 0.0, 0.0]]), share=0.975)
      >>> round(T, 1)
      4.0
    """
    logits = np.asarray(logits, np.float64)
    low, high = _RANGE
    # A NaN compares as False.
    if not (mean_entropy(logits, low) < share < mean_entropy(logits, high)):
        raise input_error(
            "No temperature gives the teacher's targets this entropy",
            expected=f"finite logits whose entropy can be {share:g} of ln({logits.shape[1]})",
            received=f"{mean_entropy(logits, low):.3g} at T={low:g}, {mean_entropy(logits, high):.3g} at T={high:g}",
            remedy="Check the teacher, or give --temperature as a number",
        )
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if mean_entropy(logits, middle) < share else (low, middle)
    return math.sqrt(low * high)
