"""What a stream tells of a DeepConf run while it goes on: the chunk's key `deepconf`, which other clients pass over.

The schema is docs/reference/serve-events.md. Each event holds the whole of the vote, and of the traces those alone that
are not as they were in the event before, so that 512 traces cost a few kilobytes an event.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from h1r.evals.solve_view import full_budget, lowest_of, weight_of
from h1r.scaling.ballot import Ballot, Entry
from h1r.scaling.confidence import group_confidences
from h1r.scaling.run import ScalingRun

MOST_ANSWERS = 20
"""Of the vote; the rest is told as one sum."""


class ProgressEvents:
    """Of a run with one problem. Belongs to the run's thread."""

    def __init__(self, run: ScalingRun, method: str, curves: int = 0) -> None:
        self._run, self._method, self._curves = run, method, curves
        self._begun = time.monotonic()
        self._told: dict[int, dict[str, Any]] = {}
        self._curved: set[int] = set()
        self.events = 0

    def event(self) -> dict[str, Any]:
        """The state as it stands."""
        run, (ballot,) = self._run, self._run.ballots
        running = [] if run.finished(0) else run.running()
        spent = ballot.tokens + sum(one.num_tokens for one in running)
        traces = [ended(ballot, entry) for entry in list(ballot.entries.values())] + [
            {
                "id": one.sample_index, "state": "running", "tokens": one.num_tokens,
                "confidence": rounded(one.group_confidence),
            }
            for one in running
            if one.sample_index not in ballot.entries
        ]  # fmt: skip
        changed = [trace for trace in traces if self._told.get(trace["id"]) != trace]
        self._told.update((trace["id"], trace) for trace in changed)
        self.events += 1
        phase = "warmup" if run.warming_up(0) else "done" if run.finished(0) else "voting"
        full = full_budget(ballot.params.budget, ballot)
        return {
            "event": "progress", "number": self.events, "seconds": round(time.monotonic() - self._begun, 3),
            "method": self._method, "phase": phase, "budget": ballot.params.budget, "warmup": ballot.params.warmup,
            "window": ballot.params.sampling.confidence_window, "tau": ballot.params.tau,
            "threshold": rounded(ballot.threshold), "tokens": spent,
            "full_budget_tokens": None if full is None else round(full),
            "ended": len(ballot.entries), "running": len(running), **votes(ballot),
            "traces": [self._with_curve(ballot, trace) for trace in changed],
        }  # fmt: skip

    def _with_curve(self, ballot: Ballot, trace: dict[str, Any]) -> dict[str, Any]:
        """With its curve, where that was asked for: once, when it has ended."""
        entry = ballot.entries.get(trace["id"])
        if not self._curves or entry is None or trace["id"] in self._curved:
            return trace
        self._curved.add(trace["id"])
        window = ballot.params.sampling.confidence_window
        return {**trace, "curve": curve(entry.trace.confidences, window, self._curves)}


def votes(ballot: Ballot) -> dict[str, Any]:
    """The vote as it stands: the heaviest answers, the sum of the others, and how sure it is."""
    vote = ballot.standing()
    whole = math.fsum(vote.totals.values())
    ordered = sorted(vote.totals.items(), key=lambda item: -item[1])
    told = [
        {"answer": answer, "weight": rounded(weight), "share": rounded(weight / whole if whole else 0.0)}
        for answer, weight in ordered[:MOST_ANSWERS]
    ]
    rest = math.fsum(weight for _, weight in ordered[MOST_ANSWERS:])
    return {"votes": told, "votes_rest": rounded(rest), "certainty": rounded(ballot.certainty(vote))}


def ended(ballot: Ballot, entry: Entry) -> dict[str, Any]:
    """A trace that has ended: how (`state` and `finish_reason`), and what it says."""
    trace = entry.trace
    return {
        "id": trace.sample_index, "state": entry.state or "voted", "tokens": trace.num_tokens,
        "confidence": rounded(lowest_of(ballot, entry)), "finish_reason": trace.finish_reason,
        "answer": entry.answer, "weight": rounded(weight_of(ballot, entry)),
    }  # fmt: skip


def curve(confidences: Sequence[float], window: int, points: int) -> list[float | None]:
    """The mean of the last `window` token confidences, or of all there are, after each of `points` tokens: point k of m
    after token ceil((k + 1) n / m), so that the last stands at the end. A trace of fewer tokens has one for each."""
    count = len(confidences)
    if not count:
        return []
    values = np.asarray(confidences, dtype=np.float64)
    before = min(window - 1, count)
    means = np.cumsum(values[:before]) / np.arange(1, before + 1)
    if count >= window:
        means = np.concatenate([means, group_confidences(values, window)])
    points = min(points, count)
    at = [-(-(k + 1) * count // points) - 1 for k in range(points)]
    return [rounded(float(means[one])) for one in at]


def rounded(value: float | None) -> float | None:
    """To six digits, and None where it is no number: what JSON can hold."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
