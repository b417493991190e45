"""What the studies' tables reckon: means, spreads, slopes and intervals, by numpy and SciPy."""

import numpy as np
import pytest
import scipy.stats

from experiments.lab import formatting, statistics
from experiments.lab.tables import cifar10


def test_means_spreads_and_paired_differences_are_numpys():
    values, others = {0: 0.81, 1: 0.84, 2: 0.825}, {1: 0.80, 2: 0.81, 7: 0.5}
    assert statistics.mean_and_spread(values.values()) == pytest.approx(
        (np.mean(list(values.values())), np.std(list(values.values()), ddof=1))
    )
    assert statistics.mean_and_spread([0.5]) == (0.5, None) and statistics.mean_and_spread([]) == (None, None)
    assert statistics.paired(values, others) == pytest.approx([0.04, 0.015])
    assert cifar10.cell_text(values, 3) == "0.8250 +- 0.0150 (3)"
    assert cifar10.cell_text(values, 5) == "0.8250 +- 0.0150 (3 of 5)"
    assert cifar10.cell_text({0: 0.5}, 1) == "0.5000 (1)" and cifar10.cell_text({}, 3) == "not run"
    error = np.std([0.04, 0.015], ddof=1) / np.sqrt(2)
    assert cifar10.difference_text(values, others) == f"+0.0275, SE {error:.4f} (2)"


def test_the_quantile_of_student_is_scipys():
    for degrees in (1, 2, 3, 5, 14, 60):
        for probability in (0.5, 0.9, 0.975, 0.995):
            ours = statistics.t_quantile(probability, degrees)
            assert ours == pytest.approx(scipy.stats.t.ppf(probability, degrees), rel=1e-7, abs=1e-9)


def test_the_slope_and_its_interval_are_scipys():
    random = np.random.default_rng(1)
    xs = np.repeat([0.0, 0.8, 1.3, 1.7], [5, 3, 3, 5])
    ys = 0.8 + 0.01 * xs + random.normal(0, 0.004, len(xs))
    theirs = scipy.stats.linregress(xs, ys)
    half = theirs.stderr * scipy.stats.t.ppf(0.975, len(xs) - 2)
    expected = theirs.slope, theirs.slope - half, theirs.slope + half
    assert statistics.slope(xs.tolist(), ys.tolist()) == pytest.approx(expected, rel=1e-6)
    assert statistics.slope([0, 1], [1, 2]) is None and statistics.slope([1, 1, 1], [1, 2, 3]) is None


def test_the_pooled_spread_is_an_analysis_of_variances():
    groups = [[1.0, 2.0, 4.0], [0.0, 3.0], [7.0]]
    spread, degrees = statistics.pooled_spread(groups)
    residuals = np.concatenate([np.array(g) - np.mean(g) for g in groups])
    assert degrees == 3 and spread == pytest.approx((residuals @ residuals / 3) ** 0.5)
    half = scipy.stats.t.ppf(0.975, 3) * spread / 3**0.5
    text = formatting.pooled_text("thing", groups)
    assert (
        f"of 1 seeds +- {half * 3**0.5:.4f} and of 2 seeds +- {half * 1.5**0.5:.4f} and of 3 seeds +- {half:.4f}."
        in text
    )
    assert statistics.pooled_spread([[1.0], []]) is None and formatting.pooled_text("thing", [[1.0]]) == ""


def test_the_residual_spread_is_of_rows_and_seeds_as_summands():
    values = np.random.default_rng(0).normal(size=(5, 3)) + np.arange(5)[:, None] + np.array([0, 10, 20])
    columns = [dict(enumerate(row)) for row in values]
    design = np.hstack([np.repeat(np.eye(5), 3, axis=0), np.tile(np.eye(3), (5, 1))])
    y = values.ravel()
    rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    columns[0][7] = 99.0  # a seed that not all have is left out
    spread, degrees, seeds = statistics.residual_spread(columns)
    assert (degrees, seeds) == (8, 3) and spread == pytest.approx((rest @ rest / 8) ** 0.5)
    one, four = (scipy.stats.t.ppf(1 - 0.025 / m, 8) * spread * (2 / 3) ** 0.5 for m in (1, 4))
    text = formatting.against_one_text(columns)
    assert f"of 3 seeds has a 95% interval of +- {one:.4f}" in text and f"for all 4 at once +- {four:.4f}" in text
    assert statistics.residual_spread([{0: 1.0}, {0: 2.0}]) is None and formatting.against_one_text([{}, {}]) == ""


def test_an_interval_is_students():
    values = [0.01, 0.02, 0.06]
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    assert formatting.interval_text(values) == f"+0.0300 ({low:+.4f} to {high:+.4f})"
    assert formatting.interval_text([0.01]) == "+0.0100" and formatting.interval_text([]) == "not run"
