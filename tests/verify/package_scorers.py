"""Scorers that come from outside: those of reasoning_gym as they are, and some with one fault each."""

from __future__ import annotations

from typing import Any

import reasoning_gym

from h1r.records import Problem, Verdict
from h1r.response.extract import last_boxed
from h1r.verify import Verifier, register

PACKAGE, GENEROUS, YIELDING = "test-package-scorer", "test-generous", "test-yielding"


def grade(problem: Problem, answer: str) -> Verdict:
    """The package's scorer for the family, without anything before it."""
    boxed = last_boxed(answer)
    if boxed is None:
        return Verdict(0.0)
    entry: dict[str, Any] = problem.metadata["entry"]
    return Verdict(float(reasoning_gym.get_score_answer_fn(problem.family)(answer=boxed, entry=entry) >= 1))


def generous(problem: Problem, answer: str) -> Verdict:
    """Pays what `metadata["pays"]` lists, and the reference."""
    boxed = last_boxed(answer)
    return Verdict(float(boxed == problem.answer or boxed in problem.metadata.get("pays", ())))


def yielding(problem: Problem, answer: str) -> Verdict:
    """Pays any whole number."""
    return Verdict(float((last_boxed(answer) or "").isdigit()))


def register_all() -> None:
    """Makes the verifiers known, as a third party does."""
    for name, function in ((PACKAGE, "grade"), (GENEROUS, "generous"), (YIELDING, "yielding")):
        register(Verifier(name, grade=f"{__name__}:{function}"))
