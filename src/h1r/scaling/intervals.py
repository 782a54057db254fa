"""Intervals for means over problems: Wilson's score, and the bootstrap that resamples whole problems.

    Wilson     (p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)
    bootstrap  percentile interval of the statistic over problems drawn with replacement, each with all its samples

Samples of one problem are not independent, so the problem is the unit that is resampled (a cluster bootstrap). Wilson
is taken with one sample a problem, and where every problem has the same accuracy, since resampling would give an
interval of no width there. The resamples come from a fixed seed: the same numbers give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

RESAMPLES = 4000
_CHUNK = 250


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval."""

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Second minus first over the same problems; on how many the second is better, worse, the same."""

    value: float
    interval: Interval
    better: int
    worse: int
    equal: int


def wilson(successes: float, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share; raises `ValueError` without trials."""
    if trials < 1:
        raise ValueError("an interval needs at least one trial")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / trials
    centre = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_accuracy(accuracies: Sequence[float], samples: int, level: float = 0.95) -> Estimate:
    """The mean over problems of each problem's accuracy in [0, 1], measured with `samples` answers each."""
    values = _column(accuracies)
    mean = float(values.mean())
    if samples == 1 or values.min() == values.max():
        return Estimate(mean, wilson(float(values.sum()), values.size, level))
    return Estimate(mean, _percentiles(_resampled_sums(values[:, None])[:, 0] / values.size, level))


def paired_difference(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> PairedDifference:
    """The mean of second - first over the same problems in the same order, with a bootstrap interval.

    When no problem differs the interval has no width and says only that; the counts say how much was seen.
    """
    difference = _column(second) - _column(first)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    sums = _resampled_sums(difference[:, None])[:, 0]
    interval = _percentiles(sums / difference.size, level)
    return PairedDifference(float(difference.mean()), interval, better, worse, difference.size - better - worse)


def saving(spent: Sequence[float], full: Sequence[float], level: float = 0.95) -> Estimate:
    """The share of the full cost that was not spent, 1 - sum(spent) / sum(full), resampled over problems.

    Raises `ValueError` when a problem's full cost is not positive.
    """
    columns = np.stack([_column(spent), _column(full)], axis=1)
    if not (columns[:, 1] > 0).all():
        raise ValueError("the full cost of every problem must be positive")
    sums = _resampled_sums(columns)
    total = columns.sum(axis=0)
    return Estimate(float(1 - total[0] / total[1]), _percentiles(1 - sums[:, 0] / sums[:, 1], level))


def _column(values: Sequence[float]) -> NDArray[np.float64]:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or column.size == 0:
        raise ValueError("a mean over problems needs at least one problem")
    return column


def _resampled_sums(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of (problems, c) columns over RESAMPLES draws of as many problems with replacement: (RESAMPLES, c)."""
    rng = np.random.default_rng(0)
    problems = len(columns)
    draws = (rng.integers(problems, size=(_CHUNK, problems)) for _ in range(RESAMPLES // _CHUNK))
    return np.concatenate([columns[draw].sum(axis=1) for draw in draws])


def _percentiles(values: NDArray[np.float64], level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
