"""Procedural problems, judged by their family's own scorer.

    reward = 1 if score >= 1 - 1e-9 else 0

Partial credit goes to `parts["score"]` and never into the reward: a partly right answer is a wrong one. Several scorers
`eval` the answer they are given, or have sympy do it, so an answer that could call anything but an elementary function
is refused before a scorer sees it; the scorer itself runs where it can be killed.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from h1r.records import Problem, Reason, Verdict
from h1r.verify.response.extract import last_boxed, unwrap

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
_ATTRIBUTE = re.compile(r"""[\w)\]}'"]\s*\.\s*[^\W\d]""")
_QUOTE = re.compile(r"""['"]""")
_BINDS = re.compile(r":=|\blambda\b.*:|[(\[{].*\bfor\b|\bfor\b.*[(\[{]", re.DOTALL)
_INVISIBLE_TO_PYTHON = re.compile(r"#[^\n]*|\\\r?\n")
_FACTORIAL = re.compile(r"!(?!=)")
_HARMLESS = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp),
    *(ast.BoolOp, ast.Compare, ast.Call, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def warm() -> None:
    """Imports the library, so that its import time is not charged to an answer."""
    import reasoning_gym  # noqa: F401


def grade(problem: Problem, answer: str) -> Verdict:
    """Scores the boxed answer. `problem.metadata["entry"]` is the family's own item; the scorer may raise or hang."""
    boxed = last_boxed(answer)
    if boxed is None:
        return Verdict(0.0, error=r"no readable \boxed{} answer", reason="not_extracted")
    entry = problem.metadata.get("entry")
    if not isinstance(entry, dict):
        why = "the problem has no metadata.entry for its scorer"
        return Verdict(0.0, extracted=boxed, error=why, reason="unscored")
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
    reason: Reason = "not_readable" if error else "wrong"
    return Verdict(float(best >= FULL_SCORE), {"score": best}, extracted=boxed, error=error, reason=reason)


def score(family: str, answer: str, entry: dict[str, Any]) -> float:
    """What the family's scorer gives an answer, whether or not `entry` has been through JSON. May raise or hang."""
    if family in _GRID_FAMILIES:
        metadata = entry["metadata"]
        entry = {**entry, "metadata": {**metadata, "output": tuple(map(tuple, metadata["output"]))}}
    return float(_scorer(family)(answer=answer, entry=entry))


def is_executable(answer: str) -> bool:
    """Whether evaluating the text could do more than call elementary functions of numbers.

    Python reads names in compatibility form (`_\uff3fclass_\uff3f` is `__class__`), binds in comprehensions what can
    then be called without a call, and sympy's functions evaluate a text that they are given. So a text that is an
    expression may hold plain parts only, and in any other, which sympy may still make one, nothing that names, binds or
    quotes may stand beside a call.
    """
    text = unicodedata.normalize("NFKC", answer)
    forms = (text, _INVISIBLE_TO_PYTHON.sub(" ", text))
    return any(map(_could_run, forms)) or any(not _is_plain(form) for form in (*forms, _FACTORIAL.sub("", text)))


def _could_run(text: str) -> bool:
    calls = [match[1] for match in _CALL.finditer(text)]
    if "__" in text or _BINDS.search(text) or any(name not in _FUNCTIONS for name in calls):
        return True
    return bool(calls and (_QUOTE.search(text) or _ATTRIBUTE.search(text)))


def _is_plain(text: str) -> bool:
    """Whether a text is no expression of Python, or one of plain parts; quoted texts stand alone or in containers."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return True
    if not all(isinstance(node, _HARMLESS) for node in ast.walk(tree)):
        return False
    has_text = any(isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)) for node in ast.walk(tree))
    works = any(isinstance(node, (ast.BinOp, ast.Compare, ast.Call)) for node in ast.walk(tree))
    return not (has_text and works)


@lru_cache(maxsize=256)
def _scorer(family: str) -> Callable[..., Any]:
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(family)
