"""Trace confidences of DeepConf, from the token confidences that the engine computes (arXiv 2508.15260, section 3).

    token   C_i = -(1/k) sum_{j<=k} log P_i(j)            nats, over the k likeliest tokens; `Trace.confidences`
    group   G_i = (1/w) sum_{i-w<t<=i} C_t                 one for every full window of w tokens, stride 1
    mean    (1/N) sum_i C_i            tail    mean of the last w tokens
    lowest  min_i G_i                  bottom  mean of the lowest 10 % of the groups
    threshold  s = a percentile of the warm-up traces' lowest group confidences; two readings, `stopping_threshold`

A trace shorter than the window has one group, its mean. One definition serves warm-up, stopping and voting. All arrays
are float64 of shape (tokens,) or (groups,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from h1r.engine.protocol import is_doubtful

Array = NDArray[np.float64]

BOTTOM_SHARE = 0.10
"""Share of the groups, lowest first, that the bottom-window statistic averages."""

TIE_SLACK = 1e-4
"""Nats. Token confidences are float32 values whose last digits depend on what else is in the batch. A trace that
repeats the one which set the threshold must not be stopped or kept by such a digit, so only confidences more than this
below the threshold count as below it."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """The four statistics of one trace, in nats."""

    mean: float
    tail: float
    bottom: float
    lowest: float


def group_confidences(confidences: Sequence[float] | Array, window: int) -> Array:
    """Means of every `window` consecutive token confidences, shape (max(tokens - window, 0) + 1,).

    O(tokens). No running sum is ever subtracted from: each window is the suffix of one block of `window` tokens plus
    the prefix of the next, so rounding does not build up along a long trace and a non-finite value stays in its own
    windows. Raises `ValueError` on an empty trace or a window below 1.
    """
    values = np.asarray(confidences, dtype=np.float64)
    if values.size == 0:
        raise ValueError("a trace without tokens has no confidence")
    if window < 1:
        raise ValueError(f"window = {window} must be at least 1")
    if values.size <= window:
        return np.array([values.mean()])
    groups = values.size - window + 1
    blocks = np.pad(values, (0, -values.size % window)).reshape(-1, window)
    prefix = np.cumsum(blocks, axis=1).reshape(-1)
    suffix = np.cumsum(blocks[:, ::-1], axis=1)[:, ::-1].reshape(-1)
    sums = suffix[:groups].copy()
    straddles = np.arange(groups) % window != 0
    sums[straddles] += prefix[window - 1 : window - 1 + groups][straddles]
    return sums / window


def summarise(confidences: Sequence[float] | Array, window: int) -> Confidence:
    """All statistics of one trace; raises `ValueError` on an empty trace.

    The lowest 10 % of g groups are max(1, floor(g / 10)) of them, as in the reference implementation.
    """
    values = np.asarray(confidences, dtype=np.float64)
    groups = group_confidences(values, window)
    count = max(1, int(groups.size * BOTTOM_SHARE))
    return Confidence(
        mean=float(values.mean()),
        tail=float(values[-window:].mean()),
        bottom=float(np.partition(groups, count - 1)[:count].mean()),
        lowest=float(groups.min()),
    )


Reading = Literal["keep_top", "literal"]


def stopping_threshold(lowest: Sequence[float], keep_top: float, reading: Reading = "keep_top") -> float:
    """The threshold s from the warm-up traces' lowest group confidences, nats, by linear interpolation.

    "keep_top": the 100 * (1 - keep_top)-th percentile, which a share `keep_top` of the warm-up lies above: 0.10 is the
    90th, as in Algorithm 2 and the reference code. "literal": the 100 * keep_top-th, which is what the Falcon-H1R
    paper's words say ("s at the eta-th percentile", eta = 10 %), and keeps 90 % of the warm-up. Raises `ValueError`
    without warm-up traces.
    """
    if not len(lowest):
        raise ValueError("a stopping threshold needs at least one warm-up trace")
    share = keep_top if reading == "literal" else 1 - keep_top
    return float(np.percentile(np.asarray(lowest, dtype=np.float64), 100 * share))


def stopping_limit(threshold: float) -> float:
    """The confidence, nats, below which a trace is really below the threshold and not by rounding alone."""
    return threshold - TIE_SLACK


def stop_length(confidences: Sequence[float] | Array, window: int, limit: float) -> int | None:
    """Tokens after which an engine with `confidence_threshold=limit` stops a trace: its first full window below it.

    None when no full window is, which is always so for a trace shorter than the window.
    """
    if not len(confidences):
        return None
    groups = group_confidences(confidences, window)
    counts = np.arange(groups.size) + min(window, len(confidences))
    below = np.flatnonzero(is_doubtful(groups, counts, window, limit))
    return int(counts[below[0]]) if below.size else None
