"""The expected calibration error (ECE) of the top probability: as the literature reports it, debiased, and an interval.

With g_b = E[(correct - confidence) 1(confidence in bin b)], ECE = sum_b |g_b| over 15 equal-width bins (Guo et al.
2017, arXiv:1706.04599). The usual estimate puts the observed gaps in place of g_b. A gap's noise does not cancel in |.|,
so the estimate is too high on few images: a calibrated model gets about 0.03 on 900 images. Resampling images adds the
noise once more, so a bootstrap interval lies above the true value.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BINS = 15
LEVEL = 0.95
# The direction of the observed gaps is noisy too, which costs about 2% of the coverage (experiments/results/intervals).
_TAIL = 0.015
_DRAWS = 1000
_LUCKY = 0.16  # one standard deviation below the median
_PRIOR = 2.0  # images' worth of Bernoulli variance in each bin: a bin without errors would have almost none


class BinGaps(NamedTuple):
    """Accuracy minus confidence, x, of the images in each bin; a sum over a bin is divided by the number of all images.

    Attributes:
      gaps: `[15]`, sums of x.
      squares: `[15]`, sums of x^2.
      images: their number.
    """

    gaps: np.ndarray
    squares: np.ndarray
    images: int

    @property
    def errors(self) -> np.ndarray:
        """The standard errors of the gaps, `[15]`."""
        return np.sqrt(np.maximum(self.squares - self.gaps**2, 0) / self.images)

    def noise(self, draws: int) -> np.ndarray:
        """Gaussian noise of the gaps, `[draws, 15]`, with their covariance (diag(squares) - gaps gaps^T) / count."""
        normal = np.random.Generator(np.random.Philox(0)).normal(size=[draws, BINS])
        scale = np.sqrt(self.squares)
        direction = self.gaps / np.maximum(scale, 1e-300)
        length = min(float(direction @ direction), 1.0)
        share = (1 - math.sqrt(1 - length)) / length if length else 0.0  # (I - share d d^T)^2 = I - d d^T
        return scale * (normal - share * np.outer(normal @ direction, direction)) / math.sqrt(self.images)


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """The bin of each top probability. Bins are (lower, upper], so exactly 1 falls into the last one."""
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1)
    return np.nan_to_num(bins).astype(int)  # a NaN makes the gap of bin 0 NaN


def bin_gaps(confidence: np.ndarray, correct: np.ndarray) -> BinGaps:
    """The gaps of all bins.

    Args:
      confidence: `[n]`, top probabilities.
      correct: `[n]`, 0 or 1.
    """
    bins, count, difference = bin_of(confidence), len(confidence), correct - confidence
    size = np.bincount(bins, minlength=BINS)
    gaps = np.bincount(bins, difference, BINS) / count
    squares, bernoulli = (np.bincount(bins, column, BINS) for column in (difference**2, confidence * (1 - confidence)))
    mean_square = (squares + _PRIOR * bernoulli / np.maximum(size, 1)) / (size + _PRIOR)
    return BinGaps(gaps, mean_square * size / count, count)


def ece(found: BinGaps) -> float:
    """sum_b |gap_b|."""
    return float(np.abs(found.gaps).sum())


def debiased(found: BinGaps) -> float:
    """The ECE without the bias of its noise: l ECE, with the l in [0, 1] for which the usual estimate is expected.

    If the true gaps were l gap_b, the usual estimate would be sum_b E|N(l gap_b, error_b^2)| on average. This is the
    Gaussian model of the bias by Kumar et al. 2019 (arXiv:1909.10155), solved for the true value instead of subtracted
    once, which would leave half of the bias of a calibrated model (MacKinnon and Smith 1998, J. Econometrics 85).
    """
    observed = ece(found)
    if math.isnan(observed):
        return observed
    return observed * _root(lambda share: _expected(share * np.abs(found.gaps), found.errors) - observed)


def interval(found: BinGaps) -> list[float]:
    """A 95% interval of the true ECE: every l under which the observed estimate is no exception.

    The distribution of the estimate, if the true gaps are l gap_b / ECE, is simulated with Gaussian noise, the same for all l.
    An estimate can be lower than even that of a calibrated model would usually be. The upper end then does not shrink to 0:
    it is at least the one of an estimate at the 16% quantile of a calibrated model's (Cowan et al. 2011, arXiv:1105.3166).
    """
    observed, errors = ece(found), found.errors
    if math.isnan(observed) or not observed + errors.sum() > 0:
        return [observed, observed]
    noise = found.noise(_DRAWS)
    direction = found.gaps / observed if observed > 0 else errors / errors.sum()

    def end(quantile, estimate):
        """The smallest true ECE for which this quantile of the estimates reaches the given one."""
        rank = round(quantile * (_DRAWS - 1))

        def above(true):
            estimates = np.abs(true * direction + noise).sum(axis=1)
            return np.partition(estimates, rank)[rank] - estimate

        return _root(above)

    usual = float(np.quantile(np.abs(noise).sum(axis=1), _LUCKY))
    return [end(1 - _TAIL, observed), end(_TAIL, max(observed, usual))]


def _expected(gaps, errors):
    """sum_b E|N(gap_b, error_b^2)|, the mean of a folded normal distribution."""
    ratio = gaps / np.maximum(errors, 1e-300)
    bell = math.sqrt(2 / math.pi) * errors * np.exp(-(np.minimum(ratio, 40) ** 2) / 2)
    return float((bell + gaps * np.array([math.erf(r / math.sqrt(2)) for r in ratio])).sum())


def _root(increasing: Callable[[float], float]) -> float:
    """The smallest x >= 0 at which an increasing function is not negative."""
    low, high = 0.0, 1.0
    if increasing(low) >= 0:
        return low
    while increasing(high) < 0:
        high *= 2
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return high
