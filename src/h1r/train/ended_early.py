"""Rollouts that `rl.end_early` ends before they are done, and what becomes of them.

    a proven loop    "repetition": an answer as one that was cut off at `max_tokens` is. It is graded, trained on, left
                     out where `mask_truncated` says so, and as long as the longest for a penalty for length
    doubtful         "confidence": censored. How it would have ended nobody knows, so it has no reward and no gradient,
                     and its group's mean and deviation are those of the others

Both rules are those of test-time scaling: `response.loops` and `engine.protocol.is_doubtful`. Censoring is not neutral:
rollouts that are stopped are wrong more often than others, so the mean that is subtracted is higher without them.
"""

from __future__ import annotations

import dataclasses

from h1r.config import RLSection
from h1r.engine.protocol import SamplingParams
from h1r.records import Trace
from h1r.response.loops import Loop


def ending_early(params: SamplingParams, section: RLSection) -> SamplingParams:
    """The parameters with what is to end a rollout early."""
    early = section.end_early
    if early.loop_repeats:
        loop = Loop(early.loop_repeats, early.loop_period, early.loop_shortest)
        params = dataclasses.replace(params, loop=loop)
    if early.confidence:
        window = early.confidence_window
        params = dataclasses.replace(params, confidence_threshold=early.confidence, confidence_window=window)
    return params


def is_censored(trace: Trace) -> bool:
    """Whether it was stopped for its confidence."""
    return trace.finish_reason == "confidence"


def is_looped(trace: Trace) -> bool:
    """Whether a loop ended it."""
    return trace.finish_reason == "repetition"


def is_cut_off(trace: Trace) -> bool:
    """Whether it has no end of its own."""
    return trace.finish_reason == "length" or is_looped(trace)
