"""Pooled spreads, simultaneous intervals and contrasts, against SciPy, regression and simulation."""

import numpy as np
import pytest
import scipy.stats

from experiments.lab.statistics import Pool, contrast, critical, pool


def test_the_pooled_spread_is_what_entries_and_seeds_leave_over():
    values = np.random.default_rng(0).normal(size=(5, 3)) + np.arange(5)[:, None] + np.array([0, 10, 20])
    columns = {str(n): dict(enumerate(row)) for n, row in enumerate(values)}
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    single = columns | {"one seed": {0: 99.0}, "empty": {}}  # neither adds a degree of freedom
    for found in (pool(columns), pool(single)):
        assert (found.spread, found.degrees) == (pytest.approx((np.sum(rest**2) / 8) ** 0.5), 8)
        assert found.spread**2 + found.seeds**2 == pytest.approx(np.mean(np.var(values, axis=1, ddof=1)))
        assert found.equal == pytest.approx(scipy.stats.bartlett(*values).pvalue)
    ragged = {"a": {0: 1.0, 1: 2.0, 2: 6.0}, "b": {0: 2.0, 2: 4.0}}  # a seed that one entry has does not count
    assert (pool(ragged).spread, pool(ragged).degrees) == (pytest.approx(1.5), 1)  # differences -1 and 2
    assert pool({"a": {0: 1.0}, "b": {0: 2.0}}) is None and pool({}) is None


def test_simultaneous_intervals_are_dunnetts():
    """Against scipy.stats.dunnett, and the maximum of independent t by simulation."""
    assert critical(10) == pytest.approx(scipy.stats.t.ppf(0.975, 10))
    assert critical(10, 5) == pytest.approx(2.990, abs=0.001)  # Dunnett's two-sided table
    groups = np.random.default_rng(1).normal(size=(5, 4))
    control, others = groups[0], groups[1:]
    interval = scipy.stats.dunnett(*others, control=control, random_state=0).confidence_interval(0.95)
    spread = np.mean(np.var(groups, axis=1, ddof=1)) ** 0.5 * (2 / 4) ** 0.5
    half = (interval.high - interval.low) / 2
    np.testing.assert_allclose(half, critical(15, 4) * spread, rtol=0.005)
    random = np.random.default_rng(2)
    largest = abs(random.normal(size=(200_000, 3)) / np.sqrt(random.chisquare(6, (200_000, 1)) / 6)).max(1)
    assert np.mean(largest <= critical(6, 3, shared=False)) == pytest.approx(0.95, abs=0.002)


def test_a_contrast_is_paired_by_seed():
    columns = {"skd": {0: 3.0, 1: 5.0, 2: 7.0, 9: 0.0}, "kd": {0: 1.0, 1: 4.0, 2: 4.0}, "none": {7: 1.0}}
    low, high = scipy.stats.t.interval(0.95, 2, 2, scipy.stats.sem([2, 1, 3]))
    own = contrast(columns, {"skd": 1, "kd": -1}, None)
    assert (own.mean, own.seeds) == (2, 3) and own.half == pytest.approx((high - low) / 2)
    pooled = contrast(columns, {"skd": 1, "kd": -1}, Pool(0.5, 7, 3.0, 2, None), comparisons=4)  # the seeds cancel
    assert pooled.half == pytest.approx(critical(7, 4) * 0.5 * (2 / 3) ** 0.5)
    mean = contrast(columns, {"skd": 0.5, "kd": 0.5}, Pool(0.5, 7, 0.0, 2, None))
    assert mean.mean == 4 and mean.half == pytest.approx(critical(7) * 0.5 * (0.5 / 3) ** 0.5)
    shared = contrast(columns, {"skd": 0.5, "kd": 0.5}, Pool(0.5, 7, 2.0, 2, None))  # the seeds do not cancel in a mean
    degrees = (0.5**2 / 2 + 2.0**2) ** 2 / ((0.5**2 / 2) ** 2 / 7 + 2.0**4 / 2)
    assert shared.half == pytest.approx(critical(degrees) * ((0.5**2 / 2 + 2.0**2) / 3) ** 0.5)
    assert contrast(columns, {"skd": 1, "none": -1}, None) is None
    assert (
        contrast(columns, {"none": 1}, None).half is None
        and contrast(columns, {"none": 1}, Pool(1, 5, 0, 2, None)).half
    )


@pytest.mark.parametrize("seeds_spread", [0.0, 0.1, 0.3, 1.0])
def test_intervals_of_means_cover_what_seeds_share(seeds_spread):
    random, covered = np.random.default_rng(0), 0
    for _ in range(300):
        values = random.normal(0, 0.3, (6, 3)) + random.normal(0, seeds_spread, 3)
        columns = {str(entry): dict(enumerate(row)) for entry, row in enumerate(values)}
        found = contrast(columns, {"0": 1}, pool(columns))
        covered += abs(found.mean) <= found.half
    assert covered / 300 > 0.9
