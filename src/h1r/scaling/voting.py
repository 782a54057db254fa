"""Votes over the answers of one problem's traces: V(a) = sum_t C_t 1[answer(t) = a]  (arXiv 2508.15260, section 3).

The seven voters are pairs of a trace statistic C_t and, for two of them, a filter that keeps the traces at or above its
90th percentile first. Answers are grouped by equivalence (1/2 and 0.5 vote together), which is injected; each distinct
string is compared once with one representative of each group. A trace without an answer neither votes nor enters the
percentile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from h1r.scaling.confidence import Confidence

Equivalent = Callable[[str, str], bool]
"""Whether a new answer (second) means the same as the one that founded a group (first)."""

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

    `answer`: the form in which the winning answer was first given; None when nothing voted. `weight`: its total.
    `share`: its part of all weight (the beta of Algorithm 2), 0 when nothing weighs. `totals`: every group's total, in
    order of first appearance. `index`: position of the first vote for the winner in the sequences that were voted on.
    """

    answer: str | None = None
    weight: float = 0.0
    share: float = 0.0
    totals: dict[str, float] = field(default_factory=dict)
    index: int | None = None


class AnswerGroups:
    """Sorts the answers of one problem into groups of equivalent ones and remembers every string it has seen."""

    def __init__(self, equivalent: Equivalent) -> None:
        self._equivalent = equivalent
        self._founders: list[str] = []
        self._known: dict[str, int] = {}

    def __call__(self, answer: str) -> int:
        """The number of the answer's group; the first group, in order of founding, that it is equivalent to."""
        if answer not in self._known:
            found = (i for i, founder in enumerate(self._founders) if self._equivalent(founder, answer))
            number = next(found, len(self._founders))
            if number == len(self._founders):
                self._founders.append(answer)
            self._known[answer] = number
        return self._known[answer]


def vote(answers: Sequence[str | None], weights: Sequence[float] | NDArray[np.float64], groups: AnswerGroups) -> Vote:
    """Adds up the weights (one per answer, nats or counts) of equivalent answers; None does not vote.

    Ties go to the answer that appeared first. Raises `ValueError` on a weight that is negative or not finite.
    """
    first: dict[int, int] = {}
    totals: dict[int, float] = {}
    for index, (answer, weight) in enumerate(zip(answers, weights, strict=True)):
        if answer is None:
            continue
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"vote {index} weighs {weight}; weights are finite and not negative")
        group = groups(answer)
        first.setdefault(group, index)
        totals[group] = totals.get(group, 0.0) + float(weight)
    if not totals:
        return Vote()
    winner = max(totals, key=lambda group: (totals[group], -first[group]))
    everything = math.fsum(totals.values())
    named = {_answer_at(answers, first[group]): total for group, total in totals.items()}
    share = totals[winner] / everything if everything > 0 else 0.0
    return Vote(_answer_at(answers, first[winner]), totals[winner], share, named, first[winner])


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


def _answer_at(answers: Sequence[str | None], index: int) -> str:
    answer = answers[index]
    assert answer is not None
    return answer
