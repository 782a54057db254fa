"""Votes over the answers of one problem's traces: V(a) = sum_t C_t 1[answer(t) = a]  (arXiv 2508.15260, section 3).

The seven voters are pairs of a trace statistic C_t and, for two of them, a filter that keeps the traces at or above its
90th percentile first. Equivalent answers (1/2 and 0.5) vote together: `h1r.scaling.answer_groups`. A trace without an
answer neither votes nor enters the percentile.

How sure a vote is of its leader: its `share` (beta of Algorithm 2), or the probability that the leader really is the
likelier of the two answers ahead (`lead_probability`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.confidence import Confidence

Voter = Literal[
    "majority", "mean", "tail", "bottom_window", "min_window", "top10_tail_filtered", "top10_bottom_window_filtered"
]
Statistic = Literal["mean", "tail", "bottom", "lowest"]

VOTERS: dict[Voter, tuple[Statistic | None, float | None]] = {
    "majority": (None, None),
    "mean": ("mean", None),
    "tail": ("tail", None),
    "bottom_window": ("bottom", None),
    "min_window": ("lowest", None),
    "top10_tail_filtered": ("tail", 0.10),
    "top10_bottom_window_filtered": ("bottom", 0.10),
}
"""Voter -> (statistic that weighs, None: every vote weighs 1; share kept by that statistic first, None: all)."""


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of one vote.

    `answer`: the winning answer in the form that most votes have; None when nothing voted. `weight`: its total.
    `share`: its part of all weight (the beta of Algorithm 2), 0 when nothing weighs. `totals`: every group's total, in
    order of first appearance. `count`: how many voted. `index`: position of the first vote with that form in the
    sequences that were voted on.
    """

    answer: str | None = None
    weight: float = 0.0
    share: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    count: int = 0
    index: int | None = None


def vote(answers: Sequence[str | None], weights: Sequence[float] | NDArray[np.float64], groups: AnswerGroups) -> Vote:
    """Adds up the weights (one per answer, nats or counts) of equivalent answers; None does not vote.

    Ties go to the group that appeared first. Raises `ValueError` on a weight that is negative or not finite.
    """
    totals: dict[str, float] = {}
    count = 0
    for index, (centre, weight) in enumerate(zip(groups(answers), weights, strict=True)):
        if centre is None:
            continue
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"vote {index} weighs {weight}; weights are finite and not negative")
        totals[centre] = totals.get(centre, 0.0) + float(weight)
        count += 1
    if not totals:
        return Vote()
    winner = max(totals, key=totals.__getitem__)  # the first of equals
    everything = math.fsum(totals.values())
    share = totals[winner] / everything if everything > 0 else 0.0
    return Vote(winner, totals[winner], share, totals, count, answers.index(winner))


def lead_probability(outcome: Vote) -> float:
    """The probability that the leading answer is drawn more often than the runner-up: P(p > 1/2) of p ~ Beta(v1 + 1,
    v2 + 1), their votes being v1 and v2 (the Beta criterion of Adaptive-Consistency, arXiv 2305.11860, section 3.1).

    Weighted votes count by their weight in units of the mean weight. 0 when nothing weighs.
    """
    if outcome.weight <= 0:
        return 0.0
    unit = math.fsum(outcome.totals.values()) / outcome.count
    second = max((total for answer, total in outcome.totals.items() if answer != outcome.answer), default=0.0)
    from scipy.special import betaincc  # which takes longer to import than most problems to solve

    return float(betaincc(outcome.weight / unit + 1, second / unit + 1, 0.5))


def vote_by(
    voter: Voter, answers: Sequence[str | None], confidences: Sequence[Confidence], groups: AnswerGroups
) -> Vote:
    """The vote of one of the seven voters over one problem's traces (answers and confidences in the same order)."""
    statistic, keep_top = VOTERS[voter]
    if statistic is None:
        return vote(answers, np.ones(len(answers)), groups)
    return filtered_vote(answers, [getattr(c, statistic) for c in confidences], keep_top, groups)


def filtered_vote(
    answers: Sequence[str | None], weights: Sequence[float], keep_top: float | None, groups: AnswerGroups
) -> Vote:
    """Offline DeepConf: keeps the `keep_top` share of the answered traces by weight (None: all), then votes by it.

    The cut-off is the 100 * (1 - keep_top)-th percentile of the answered traces, linear; traces at it stay.
    """
    given = [weight for answer, weight in zip(answers, weights, strict=True) if answer is not None]
    if keep_top is None or not given:
        return vote(answers, weights, groups)
    cut = float(np.percentile(given, 100 * (1 - keep_top)))
    kept = [a if weight >= cut else None for a, weight in zip(answers, weights, strict=True)]
    return vote(kept, weights, groups)
