"""cons@n: the share of problems whose most frequent answer is right, over the n answers of each.

Answers that are the same vote together, as in test-time scaling (`scaling/answers.py`); of several that are equally
frequent the earlier one wins. A problem counts as right when the answer that won was graded as right. Answers without a
verdict, or in which nothing was found, do not vote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from h1r.evals.metrics import is_correct
from h1r.records import Problem, Verdict
from h1r.rollout.pipeline import VerifyMany, is_scored
from h1r.scaling.answers import groups_for
from h1r.scaling.voting import vote
from h1r.verify import require

_KINDS = ("text", "value", "letters")
"""Answers that can be the same; programs and whole responses cannot."""


def cons_at_n(
    problems: Sequence[Problem], verdicts: Iterable[tuple[tuple[int, int], Verdict]], verify_many: VerifyMany
) -> float | None:
    """`verdicts` in order of (problem, sample). Problems without a scored answer are left out; None where answers have
    no majority, or nothing is left."""
    if any(not name or require(name).answer_kind not in _KINDS for name in {problem.verifier for problem in problems}):
        return None
    right: list[bool] = []
    for index, found in groupby(verdicts, key=lambda one: one[0][0]):
        scored = [verdict for _, verdict in found if is_scored(verdict)]
        if scored:
            answers = [verdict.extracted for verdict in scored]
            winner = vote(answers, [1.0] * len(answers), groups_for(problems[index], verify_many))
            right.append(winner.index is not None and is_correct(scored[winner.index]))
    return sum(right) / len(right) if right else None
