"""The verdict on a procedural problem.

    reward = 1 if score >= 1 - 1e-9 else 0

Partial credit goes to `parts["score"]` and never into the reward: a partly right answer is a wrong one.

Families whose scorer evaluates the answer, or pays what solves nothing, have scorers of ours (`scorers`); where a later
version of the library has a scorer that may evaluate them, its answers are held to `is_inert`. All others are called
as they are. Either way the scorer runs in a process of this answer's own, which can be killed.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from h1r.records import Problem, Verdict
from h1r.response.extract import stated_box, unwrap
from h1r.verify.reasoning_gym.library import families, library
from h1r.verify.reasoning_gym.scorers import OWN

FULL_SCORE = 1.0 - 1e-9
MAX_CHARS = 100_000
"""Of an answer; the longest reference has some thousand."""

EVALUATES_ITS_OWN = frozenset(
    (
        *("basic_arithmetic", "bf", "bitwise_arithmetic", "codeio", "decimal_arithmetic", "dice", "gsm_symbolic"),
        *("number_sorting", "propositional_logic", "rubiks_cube"),
    )
)
"""Read: they evaluate what an item holds, or when they make it, or have a function of that name; never an answer."""
_EVALUATION = re.compile(
    r"\b(?:eval|exec|compile|parse_expr|sympify|parse_latex|lambdify|simplify|pickle|__import__)\b"
)
_INERT = re.compile(r"[0-9 +\-,.()\[\]\n]*")

_GRID_FAMILIES = frozenset(("arc_agi", "rearc"))
"""Their scorers compare grids of tuples, which JSON turns into lists."""


def warm() -> None:
    """Imports the library and makes the scorers of all families, so that no answer is charged for them."""
    for family in families():
        if family not in OWN:
            with contextlib.suppress(Exception):  # a family that cannot be made says so where it is asked for
                _scorer(family)


def grade(problem: Problem, answer: str) -> Verdict:
    """Scores the boxed answer. `problem.metadata["entry"]` is the family's own item; the scorer may raise or hang."""
    boxed = stated_box(answer)
    if boxed is None:
        return Verdict(0.0, error=r"no readable \boxed{} answer", reason="not_extracted")
    entry = problem.metadata.get("entry")
    if not isinstance(entry, dict):
        return Verdict(
            0.0, extracted=boxed, error="the problem has no metadata.entry for its scorer", reason="unscored"
        )
    family = family_of(problem, entry)
    readable = [value for one in candidates(boxed) if (value := score(family, one, entry)) is not None]
    if not readable:
        why = f"not an answer that family `{family}` reads"
        return Verdict(0.0, {"score": 0.0}, extracted=boxed, error=why, reason="not_readable")
    return best_of(readable, boxed)


def family_of(problem: Problem, entry: dict[str, Any]) -> str:
    """The family whose scorer an item wants."""
    metadata = entry.get("metadata")
    return str(metadata.get("source_dataset", problem.family)) if isinstance(metadata, dict) else problem.family


def candidates(boxed: str) -> list[str]:
    """What a box may have meant to state: its content, and that without what only typesets it."""
    return list(dict.fromkeys((boxed, unwrap(boxed))))


def best_of(scores: Sequence[float], boxed: str) -> Verdict:
    """The verdict on a box from the scores of its candidates."""
    best = max(scores)
    return Verdict(float(best >= FULL_SCORE), {"score": best}, extracted=boxed)


def score(family: str, answer: str, entry: dict[str, Any]) -> float | None:
    """What the family's scorer gives an answer, whether or not `entry` has been through JSON; None for what no scorer
    may see, or can read. May raise or hang."""
    if len(answer) > MAX_CHARS:
        return None
    if family in OWN:
        right = OWN[family](answer, entry)
        return None if right is None else float(right)
    if evaluates(family) and answer != str(entry.get("answer")) and not is_inert(answer):
        return None
    if family in _GRID_FAMILIES:
        metadata = entry["metadata"]
        entry = {**entry, "metadata": {**metadata, "output": tuple(map(tuple, metadata["output"]))}}
    return float(_scorer(family)(answer=answer, entry=entry))


@lru_cache(maxsize=256)
def evaluates(family: str) -> bool:
    """Whether the scorer of a family of the library may evaluate the answer: its module names a way to do it."""
    if family in EVALUATES_ITS_OWN:
        return False
    made = families().get(family)
    module = sys.modules[made[0].__module__] if made else None
    return bool(module and _EVALUATION.search(inspect.getsource(module)))


def is_inert(answer: str) -> bool:
    """Whether a text holds numbers, their signs, and lists of them only: nothing that runs, or takes long."""
    return bool(_INERT.fullmatch(answer))


@lru_cache(maxsize=256)
def _scorer(family: str) -> Callable[..., Any]:
    scorer: Callable[..., Any] = library().get_score_answer_fn(family)
    return scorer
