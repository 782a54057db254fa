"""Procedural problems, judged by their family's own scorer.

    reward = 1 if score >= 1 - 1e-9 else 0

Partial credit goes to `parts["score"]` and never into the reward: a partly right answer is a wrong one. Several scorers
`eval` the answer they are given, so an answer that could call anything but an elementary function is refused before a
scorer sees it; the scorer itself runs where it can be killed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from h1r.records import Problem, Verdict
from h1r.verify.extract import last_boxed, unwrap

FULL_SCORE = 1.0 - 1e-9

_FUNCTIONS = frozenset(
    (
        *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh", "coth"),
        *("exp", "log", "ln", "sqrt", "Abs", "abs", "Rational", "Integer"),
    )
)
_GRID_FAMILIES = frozenset(("arc_agi", "rearc"))
"""Their scorers compare grids of tuples, which JSON turns into lists."""

_CALL = re.compile(r"""([^\W\d]\w*|[\])}'"])\s*\(""")
_INVISIBLE_TO_PYTHON = re.compile(r"#[^\n]*|\\\r?\n")


def warm() -> None:
    """Imports the library, so that its import time is not charged to an answer."""
    import reasoning_gym  # noqa: F401


def grade(problem: Problem, answer: str) -> Verdict:
    """Scores the boxed answer. `problem.metadata["entry"]` is the family's own item; the scorer may raise or hang."""
    boxed = last_boxed(answer)
    if boxed is None:
        return Verdict(0.0, error=r"no readable \boxed{} answer")
    entry = problem.metadata.get("entry")
    if not isinstance(entry, dict):
        return Verdict(0.0, extracted=boxed, error="the problem has no metadata.entry for its scorer")
    family = str(entry.get("metadata", {}).get("source_dataset", problem.family))
    best, refused = 0.0, False
    for candidate in dict.fromkeys((boxed, unwrap(boxed))):
        if candidate != str(entry.get("answer")) and is_executable(candidate):
            refused = True
            continue
        best = max(best, score(family, candidate, entry))
        if best >= FULL_SCORE:
            break
    error = "the answer could run as code" if refused and best < FULL_SCORE else None
    return Verdict(float(best >= FULL_SCORE), {"score": best}, extracted=boxed, error=error)


def score(family: str, answer: str, entry: dict[str, Any]) -> float:
    """What the family's scorer gives an answer, whether or not `entry` has been through JSON. May raise or hang."""
    if family in _GRID_FAMILIES:
        metadata = entry["metadata"]
        entry = {**entry, "metadata": {**metadata, "output": tuple(map(tuple, metadata["output"]))}}
    return float(_scorer(family)(answer=answer, entry=entry))


def is_executable(answer: str) -> bool:
    """Whether evaluating the text as Python could do more than call elementary functions."""
    forms = (answer, _INVISIBLE_TO_PYTHON.sub(" ", answer))
    return any("__" in form or any(m[1] not in _FUNCTIONS for m in _CALL.finditer(form)) for form in forms)


@lru_cache(maxsize=256)
def _scorer(family: str) -> Callable[..., Any]:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(family)
