r"""Tier 2: `math-verify` for the forms that `read` does not read, and the guards around it.

It may hang, raise, or take all memory: only a worker calls it. Its own time limits are SIGALRM, which works in a main
thread only; the limit here is the caller's. It is asked both ways round, since it is asymmetric by design.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_TOWER = re.compile(r"\^ ?\{[^{}]*\^|\^ ?\([^()]*\^|\*\* ?[({][^(){}]*\*\*|!\s*!|\d{31}|(?:\^|\*\*) ?[{(]? ?-?\d{5}")


def symbolic(gold: str, answer: str) -> bool:
    """Whether `math-verify` takes each for the other. Towers of powers and long numbers are refused unread."""
    if _TOWER.search(gold) or _TOWER.search(answer):
        return False
    import sympy  # type: ignore[import-untyped]

    math_verify = _library()
    known, found = _parsed(gold), _parsed(answer)
    expressions = [side[0] for side in (known, found) if side and isinstance(side[0], sympy.Basic)]
    if len(expressions) < 2:
        return False  # what is left are texts, which were compared before
    if not _says_something(*expressions):
        return False
    return all(
        math_verify.verify(one, other, allow_set_relation_comp=True, timeout_seconds=None)
        for one, other in ((expressions[0], expressions[1]), (expressions[1], expressions[0]))
    )


@lru_cache(maxsize=1)
def _library() -> Any:
    """`math-verify`, imported when first needed, without its warnings that the caller keeps the time."""
    import logging

    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return math_verify


@lru_cache(maxsize=2048)
def _parsed(latex: str) -> list[Any]:
    parsed: list[Any] = _library().parse(rf"\boxed{{{latex}}}", parsing_timeout=None)
    return parsed


def _says_something(gold: Any, answer: Any) -> bool:
    """Refuses a statement of a falsehood (`8 = 7`), and two relations that hold whatever their unknowns are."""
    import sympy

    sides = (gold, answer)
    for side in sides:
        if any(not relation.free_symbols and relation.doit() != sympy.true for relation in side.atoms(sympy.Rel)):
            return False
    return not all(isinstance(side, sympy.Rel) and side.doit() == sympy.true for side in sides)
