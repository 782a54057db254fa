"""The online algorithm as the public reference implementation runs it, on recorded complete traces.

Written from a description of that code, not from the code. Where it differs from `h1r.scaling`:

    confidence    a trace's token confidences are rounded to three digits before its windows are averaged for the
                  warm-up and the vote, and are not for stopping
    threshold     np.percentile(lowest of the warm-up, 100 - confidence_percentile); its example passes 10 (the 90th
                  percentile), its wrapper's default is 90 (the 10th)
    stop          the window must be full; the stopped trace is made to emit its end token, which costs one token
    votes         traces at or above the threshold, warm-up included, weighing their lowest group confidence; answers
                  are compared as strings, and without a trace above the threshold there is no answer
    consensus     none: every trace of the budget is started

Left out: that the reference averages 21 values instead of 20 where the sampled token is not among the likeliest 20.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from h1r.records import Trace


def reference_online(
    traces: Sequence[Trace], budget: int, warmup: int, confidence_percentile: float, window: int
) -> tuple[str | None, int]:
    """(answer, generated tokens) of one problem."""
    first, later = traces[:warmup], traces[warmup:budget]
    lowest = [_lowest(trace.confidences, window) for trace in first]
    bar = float(np.percentile(lowest, 100 - confidence_percentile))
    votes: dict[str, float] = {}
    tokens = 0
    for number, trace in enumerate((*first, *later)):
        stop = None if number < warmup else _stopped_after(trace.confidences, window, bar)
        if stop is not None and stop < trace.num_tokens:
            tokens += stop + 1
            continue
        tokens += trace.num_tokens
        weight = lowest[number] if number < warmup else _lowest(trace.confidences, window)
        if trace.text and weight >= bar:
            votes[trace.text] = votes.get(trace.text, 0.0) + weight
    return (max(votes, key=votes.__getitem__) if votes else None), tokens


def _lowest(confidences: Sequence[float], window: int) -> float:
    rounded = np.round(confidences, 3)
    if len(rounded) <= window:
        return float(rounded.mean())
    return float(np.convolve(rounded, np.ones(window), mode="valid").min() / window)


def _stopped_after(confidences: Sequence[float], window: int, bar: float) -> int | None:
    """Tokens after which the logits processor first sees a full window below the bar."""
    recent: deque[float] = deque(maxlen=window)
    total = 0.0
    for position, value in enumerate(confidences, 1):
        if len(recent) == window:
            total -= recent[0]
        recent.append(value)
        total += value
        if len(recent) == window and total / window < bar:
            return position
    return None
