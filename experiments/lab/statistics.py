"""Means and differences over seeds with 95% intervals, from one spread that is pooled over all entries of a table."""

import dataclasses
import functools
import math

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
Columns = dict[str, dict[int, float]]  # {entry: {seed: value}}


@dataclasses.dataclass(frozen=True)
class Pool:
    """What entries and seeds leave over: y[entry, seed] = a[entry] + b[seed] + e.

    Attributes:
      spread: standard deviation of e.
      degrees: degrees of freedom of `spread`.
      seeds: standard deviation of b, from what the entries' own spread has beyond that of e; 0 where it has none.
      seed_degrees: degrees of freedom of `seeds`.
      equal: p value of Bartlett's test that all entries have one variance; None with fewer than two such entries.
    """

    spread: float
    degrees: int
    seeds: float
    seed_degrees: int
    equal: float | None


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over `seeds` seeds and the half width of its 95% interval; `half` is None where no spread is known."""

    mean: float
    half: float | None
    seeds: int


def pool(columns: Columns) -> Pool | None:
    """The `Pool` of a table's entries by least squares; None where no degree of freedom is left.

    Bartlett's test looks at the entries' own spread, without entries whose values are all equal. An effect that a seed has
    on all entries is in each of them, and makes its p too large.
    """
    entries, seeds = list(columns), sorted({seed for column in columns.values() for seed in column})
    points = [(entries.index(e), seeds.index(s), y) for e, column in columns.items() for s, y in column.items()]
    design = np.zeros((len(points), len(entries) + len(seeds)))
    for number, (entry, seed, _) in enumerate(points):
        design[number, entry] = design[number, len(entries) + seed] = 1
    y = np.array([value for _, _, value in points])
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None) if points else (0, 0, 0, 0)
    degrees = len(points) - int(rank)
    if degrees < 1:
        return None
    several = [list(column.values()) for column in columns.values() if len(set(column.values())) > 1]
    equal = float(stats.bartlett(*several).pvalue) if len(several) > 1 else None
    rest = float(np.sum((y - design @ solution) ** 2)) / degrees
    own = sum(float(np.var(list(column.values()))) * len(column) for column in columns.values() if column)
    own /= len(points) - sum(map(bool, columns.values()))
    return Pool(math.sqrt(rest), degrees, math.sqrt(max(own - rest, 0.0)), max(len(seeds) - 1, 1), equal)


@functools.cache
def critical(degrees: float, comparisons: int = 1, shared: bool = True) -> float:
    """Two-sided 95% critical value for `comparisons` simultaneous differences of means with one pooled spread.

        P(max |T_i| <= c) = 0.95        T_i = (Z_i - Z_0) / (sqrt(2) S)   shared: Dunnett's, all against one entry
                                        T_i = Z_i / S                     not shared: each against another entry

    It is Student's t for one comparison. Balanced seeds are assumed.
    """
    if comparisons == 1:
        return float(stats.t.ppf((1 + LEVEL) / 2, degrees))
    normal, weights = np.polynomial.hermite_e.hermegauss(61)
    weights = weights / weights.sum()
    places, parts = np.polynomial.legendre.leggauss(96)
    spreads = np.sqrt(stats.chi2.ppf((places + 1) / 2, degrees) / degrees)

    def coverage(c):
        if shared:
            ends = (normal[:, None] + sign * c * math.sqrt(2) * spreads for sign in (1, -1))
            inside = weights @ (np.subtract(*map(stats.norm.cdf, ends)) ** comparisons)
        else:
            inside = (2 * stats.norm.cdf(c * spreads) - 1) ** comparisons
        return inside @ parts / 2 - LEVEL

    return float(optimize.brentq(coverage, 0.5, 200, xtol=1e-7))


def contrast(
    columns: Columns, weights: dict[str, float], pooled: Pool | None, comparisons: int = 1, shared: bool = True
) -> Estimate | None:
    """sum of weight x entry, seed by seed, averaged over the seeds that all weighted entries have; None without any.

        variance of one seed's sum = spread^2 sum(w^2) + seeds^2 sum(w)^2        of `Pool`

    What the seeds share cancels in a difference, whose weights sum to 0, and stays in a mean. There the degrees of freedom are
    those of the sum of both variances (Satterthwaite 1946, Biometrics Bulletin 2).

    Args:
      columns: every entry's values.
      weights: {entry: weight}, such as {"SKD": 1, "KD": -1}.
      pooled: the spread of one value; None takes the spread of the seeds' own contrasts.
      comparisons, shared: as in `critical`.
    """
    seeds = sorted(set.intersection(*(set(columns[entry]) for entry in weights)))
    values = [sum(weight * columns[entry][seed] for entry, weight in weights.items()) for seed in seeds]
    if not values:
        return None
    spread, degrees = (float(np.std(values, ddof=1)), len(values) - 1) if len(values) > 1 else (None, 0)
    if pooled:
        parts = (
            (pooled.spread**2 * sum(w * w for w in weights.values()), pooled.degrees),
            ((pooled.seeds * sum(weights.values())) ** 2, pooled.seed_degrees),
        )
        variance = sum(part for part, _ in parts)
        spread, degrees = math.sqrt(variance), pooled.degrees
        if parts[1][0]:
            degrees = variance**2 / sum(part**2 / its for part, its in parts)
    half = None if spread is None else critical(degrees, comparisons, shared) * spread / math.sqrt(len(values))
    return Estimate(float(np.mean(values)), half, len(values))
