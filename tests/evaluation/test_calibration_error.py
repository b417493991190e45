"""The debiased ECE and its interval, against simulated models whose true calibration error is known."""

import json
import math
import pathlib

import numpy as np
import pytest

from experiments.lab import interval_coverage as simulation
from skd_tf.evaluation import calibration_error, metrics

RECORD = pathlib.Path(__file__).parents[2] / "experiments" / "results" / "intervals" / "coverage.json"


def require_coverage(entry):
    assert entry["coverage"] >= 0.9, entry
    # A true value that so few images hardly tell from 0 is nearly always in the interval: its upper end is kept up.
    assert entry["coverage"] <= 0.99 or entry["true"] <= 0.05, entry


@pytest.mark.parametrize(
    "sharpness", [1.0, *(pytest.param(sharpness, marks=pytest.mark.slow) for sharpness in (0.9, 0.6))]
)
def test_the_interval_holds_the_true_value_and_the_estimate_has_little_bias(sharpness):
    """The bootstrap of the usual estimate held it in 0 of 40 calibrated models, and in 7 of 40 at ECE 0.034."""
    for entry in simulation.ece_coverage(simulation.Case(10, 2.5, sharpness), 200, sizes=(300, 900)):
        require_coverage(entry)
        bias, usual_bias = (entry[name] - entry["true"] for name in ("ece_debiased", "ece"))
        assert abs(bias) < max(0.5 * usual_bias, 0.07 * entry["true"]), entry


def test_ten_thousand_images():
    (entry,) = simulation.ece_coverage(simulation.Case(2, 2.5, 0.7), 100, sizes=(10_000,))
    require_coverage(entry)
    assert entry["ece_debiased"] == pytest.approx(entry["true"], abs=0.001) and entry["width"] < 0.03


def test_the_estimate_and_the_interval_by_their_definitions():
    """Gaussian noise on scaled gaps, drawn here without the closed forms."""
    stated, _, labels = simulation.draw(simulation.Case(10, 2.5, 0.7), 900, np.random.default_rng(3))
    confidence, correct = np.exp(stated.max(axis=1)), (stated.argmax(axis=1) == labels) * 1.0
    found = calibration_error.bin_gaps(confidence, correct)
    bins = [max(0, math.ceil(c * 15) - 1) for c in confidence]
    rows = [[correct[i] - confidence[i] for i in range(900) if bins[i] == b] for b in range(15)]
    np.testing.assert_allclose(found.gaps, [sum(row) / 900 for row in rows], atol=1e-12)
    bernoulli = [[confidence[i] * (1 - confidence[i]) for i in range(900) if bins[i] == b] for b in range(15)]
    squares = [
        len(x) * (sum(v * v for v in x) + 2 * np.mean(p)) / (len(x) + 2) / 900 if x else 0
        for x, p in zip(rows, bernoulli, strict=True)
    ]
    np.testing.assert_allclose(found.squares, squares, atol=1e-12)
    covariance = (np.diag(squares) - np.outer(found.gaps, found.gaps)) / 900
    np.testing.assert_allclose(np.cov(found.noise(200_000).T), covariance, atol=3e-6)
    noise = np.random.default_rng(0).multivariate_normal(np.zeros(15), covariance, 20_000)
    share = calibration_error.debiased(found) / calibration_error.ece(found)
    expected = np.abs(share * found.gaps + noise).sum(axis=1)
    assert 0 < share < 1 and expected.mean() == pytest.approx(calibration_error.ece(found), rel=0.01)
    low, high = (end / calibration_error.ece(found) for end in calibration_error.interval(found))
    tails = [np.quantile(np.abs(end * found.gaps + noise).sum(axis=1), q) for end, q in ((low, 0.985), (high, 0.015))]
    assert low < share < high and tails == pytest.approx([calibration_error.ece(found)] * 2, rel=0.03)
    one_sided = found._replace(gaps=np.abs(found.gaps))
    own = one_sided.noise(1000)  # the draws of the interval itself
    for end, beyond in zip(calibration_error.interval(one_sided), (0.015, 0.985), strict=True):
        estimates = np.abs(end / calibration_error.ece(found) * one_sided.gaps + own).sum(axis=1)
        assert (estimates > calibration_error.ece(found)).mean() == pytest.approx(beyond, abs=0.003)


def test_gaps_of_both_signs_keep_their_correlations():
    """Half of the images: confidence 0.95, half of them right. The other half: confidence 0.55, all right."""
    confidence, correct = np.repeat([0.95, 0.55], 200), np.concatenate([np.tile([1.0, 0.0], 100), np.ones(200)])
    found = calibration_error.bin_gaps(confidence, correct)
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 400, 400) for _ in range(2000)]
    spread = np.std([calibration_error.ece(calibration_error.bin_gaps(confidence[row], correct[row])) for row in rows])
    low, high = calibration_error.interval(found)
    assert low < calibration_error.ece(found) < high
    assert high - low == pytest.approx(2 * 2.17 * spread, rel=0.05)  # 97% of a normal distribution


def test_an_estimate_that_is_unusually_low_does_not_prove_that_the_model_is_calibrated():
    confidence = np.linspace(0.4, 0.99, 90)
    found = calibration_error.bin_gaps(confidence, np.random.default_rng(0).random(90) < confidence)
    usual = calibration_error.interval(found)
    low, high = calibration_error.interval(found._replace(gaps=found.gaps / 100))
    assert low == 0 and 0.2 * usual[1] < high < usual[1]


@pytest.mark.parametrize(("confidence", "right"), [(0.1, 0.1), (0.5, 0.5)])
def test_equal_answers_that_are_right_as_often_as_they_say(confidence, right):
    """The ECE is 0 or, by rounding, about 1e-17."""
    correct = np.arange(10_000) < right * 10_000
    low, high = calibration_error.interval(calibration_error.bin_gaps(np.full(10_000, confidence), correct))
    assert low < 1e-4 and 0.005 < high < 0.02  # the standard error is 0.003 to 0.005


def test_a_bin_holds_its_upper_end():
    assert calibration_error.bin_of(np.array([1e-9, 0.2, 0.2 + 1e-9, 0.4, 0.6, 1.0])).tolist() == [0, 2, 3, 5, 8, 14]


def test_special_cases():
    sure = calibration_error.bin_gaps(np.full(50, 0.999), np.ones(50))
    low, high = calibration_error.interval(sure)
    assert low == 0.0 and 0.001 <= high < 0.03  # without any error, the rate of errors is still not known to be 0
    assert calibration_error.debiased(sure) <= calibration_error.ece(sure) == pytest.approx(0.001)
    assert calibration_error.interval(sure) == [low, high]  # nothing random
    undefined = metrics.quality(np.full([3, 4], np.nan), [0, 1, 2])
    assert math.isnan(undefined["ece"]) and math.isnan(undefined["ece_debiased"])
    assert all(math.isnan(end) for end in calibration_error.interval(metrics.summarize([[np.nan, 0]], [0]).gaps))


def test_the_record_says_what_the_documentation_says():
    record = json.loads(RECORD.read_text())
    assert {entry["images"] for entry in record["ece_debiased"]} == set(simulation.SIZES)
    assert len(record["ece_debiased"]) == 3 * len(simulation.CASES)
    for entry in record["ece_debiased"]:
        require_coverage(entry)
    for entry in record["bootstrap"]:
        assert min(entry["coverage"].values()) >= 0.9, entry


@pytest.mark.slow
def test_every_interval_holds_the_true_value():
    """The simulation of the record, with other draws."""
    for case in simulation.CASES:
        for entry in simulation.ece_coverage(case, 200, seed=1, sizes=(300, 900)):
            assert entry["coverage"] >= 0.88, entry  # 0.90 with three standard errors of 200 draws of 0.94
    for case in simulation.BOOTSTRAP_CASES:
        for entry in simulation.bootstrap_coverage(case, 100, seed=1, sizes=(300, 900)):
            assert min(entry["coverage"].values()) >= 0.86, entry
