"""The scorers of reasoning_gym as they come, for a verifier that is registered from outside."""

from __future__ import annotations

from typing import Any

import reasoning_gym

from h1r.records import Problem, Verdict
from h1r.response.extract import last_boxed


def grade(problem: Problem, answer: str) -> Verdict:
    """What the family's scorer gives the boxed answer."""
    boxed = last_boxed(answer)
    if boxed is None:
        return Verdict(0.0, reason="not_extracted")
    entry: dict[str, Any] = problem.metadata["entry"]
    score = float(reasoning_gym.get_score_answer_fn(problem.family)(answer=boxed, entry=entry))
    return Verdict(float(score >= 1 - 1e-9), {"score": score}, extracted=boxed)
