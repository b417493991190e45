"""Values of few trials, spread over the whole space: independent draws would leave gaps and repeat themselves."""

import itertools
import math

import numpy as np

from skd_tf.search.plan import Plan, points
from skd_tf.search.space import Dimension

_JITTER = 0.03  # of the distance between neighbours, so that seeds differ
_STRIDE = 1021  # from one attempt to the next, past the places of the trials to come
_ATTEMPTS = 200


def places(trial: int, starts: list[float], seed: int) -> list[float]:
    """The place of a trial in the unit cube: an additive recurrence (Roberts 2018, the R sequence) with a little jitter.

        u_j = frac(start_j + s_j n / g^(j + 1) + jitter)        g^(d + 1) = g + 1

    The first n points are spread evenly for every n, so more trials may be added. In one dimension g is the golden ratio.

    Args:
      trial: n, from 0.
      starts: place of trial 0 in each of d dimensions, in [0, 1].
      seed: of the signs s_j and the jitter, at most 0.03 (n + 1)^(-1/d).
    """
    g = 2.0
    for _ in range(50):
        g = (1 + g) ** (1 / (len(starts) + 1))
    signs = np.random.default_rng(seed).choice([-1, 1], len(starts))
    shift = (
        _JITTER * (trial + 1) ** (-1 / len(starts)) * np.random.default_rng([seed, trial]).uniform(-1, 1, len(starts))
    )
    steps = trial * signs / g ** np.arange(1, len(starts) + 1)
    return [float(place) for place in (np.array(starts) + steps + shift * (trial > 0)) % 1]


def starts(plan: Plan) -> list[float]:
    """Where the default lies; the middle where it is outside the space."""
    default = plan.default
    return [0.5 if default is None else dimension.place_of(default[dimension.name]) for dimension in plan.space]


def value_at(dimension: Dimension, place: float) -> object:
    """The value of a dimension at a place in [0, 1), as `Config` holds it: four significant digits, or more if the range is narrow."""
    listed = points(dimension)
    if listed:
        return listed[min(int(place * len(listed)), len(listed) - 1)]
    low, high = dimension.ends
    value = low * (high / low) ** place if dimension.kind == "log" else low + (high - low) * place
    narrow = math.log10(max(abs(low), abs(high)) / (high - low))
    rounded = float(f"{value:.{4 + max(0, math.floor(narrow))}g}")
    return min(max(rounded, low), high)


def candidates(plan: Plan, trial: int):
    """{setting: value} of a trial; then others, for when that has been tried; at last, all of a finite space."""
    from_default = starts(plan)
    for attempt in range(_ATTEMPTS):
        spots = places(trial + attempt * _STRIDE, from_default, plan.search_seed)
        yield {d.name: value_at(d, place) for d, place in zip(plan.space, spots, strict=True)}
    listed = [points(dimension) for dimension in plan.space]
    if all(listed) and math.prod(map(len, listed)) <= 100_000:
        for values in itertools.product(*listed):
            yield dict(zip(plan.names, values, strict=True))
