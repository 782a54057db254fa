r"""Tier 2: `math-verify` for integrals, sums, products, limits and matrix arithmetic, and the guards around it.

It may hang, raise, or take all memory: only a worker calls it. Its own time limits are SIGALRM, which works in a main
thread only; the limit here is the caller's. It is asked both ways round, since it is asymmetric by design.

Its parser drops what it does not know (`\gcd(p,q)` and `\gcd(p,r)` both become 1, `x^\circ` becomes x, A becomes a),
so that different texts may be equal to it. Hence what it is given holds only commands that it reads faithfully, and
what it makes of them must still hold every letter.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from h1r.mathematics.parse import FUNCTIONS

_TOWER = re.compile(r"\^ ?\{[^{}]*\^|\^ ?\([^()]*\^|\*\* ?[({][^(){}]*\*\*|!\s*!|\d{31}|(?:\^|\*\*) ?[{(]? ?-?\d{5}")
_COMMANDS = frozenset(
    (
        *("int", "sum", "prod", "lim", "max", "min", "to", "rightarrow", "limits", "infty", "begin", "end"),
        *("frac", "dfrac", "tfrac", "sqrt", "binom", "log", "ln", "exp", "pi", "cdot", "times", "div", "pm", "ldots"),
        *("le", "leq", "ge", "geq", "ne", "neq", "lt", "gt", "cup", "in", "mathbb", "left", "right", "text", "mathrm"),
        *("alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "omega", "phi", "rho", "sigma", "tau", "varphi"),
        *("quad", "displaystyle", "lvert", "rvert", "lfloor", "rfloor", "lceil", "rceil"),
        *FUNCTIONS,
    )
)
_OF_LIMITS = frozenset(("to", "rightarrow"))
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_ENVIRONMENT = re.compile(r"\\(?:begin|end) ?\{([^{}]*)\}")
_MATRICES = frozenset(("matrix", "pmatrix", "bmatrix", "vmatrix"))
_STRAY = re.compile(r"[^\x20-\x7e\n]|[\"'`@#?~;]|\\[^A-Za-z{},;:! ()\[\]\\|]")
_NO_NAMES = re.compile(r"\\[A-Za-z]+|mathbb ?\{?R\}?")
_CONSTANTS = frozenset("ei")


def symbolic(gold: str, answer: str) -> bool:
    """Whether `math-verify` takes each for the other. Towers of powers and long numbers are refused unread."""
    if not (is_readable(gold) and is_readable(answer)):
        return False
    import sympy  # type: ignore[import-untyped]

    math_verify = _library()
    expressions = []
    for text in (gold, answer):
        parsed = _parsed(text)
        if not parsed or not isinstance(parsed[0], sympy.Basic) or not _is_whole(text, parsed[0]):
            return False  # what is left are texts, which were compared before
        expressions.append(parsed[0])
    if not _says_something(*expressions):
        return False
    return all(
        math_verify.verify(one, other, allow_set_relation_comp=True, timeout_seconds=None)
        for one, other in ((expressions[0], expressions[1]), (expressions[1], expressions[0]))
    )


def is_readable(latex: str) -> bool:
    """Whether a text has only what `math-verify` reads faithfully, and nothing that would keep it busy for hours."""
    if _TOWER.search(latex) or _STRAY.search(latex):
        return False
    if any(name not in _MATRICES for name in _ENVIRONMENT.findall(latex)):
        return False
    commands = _COMMAND.findall(latex)
    if "lim" not in commands and not _OF_LIMITS.isdisjoint(commands):
        return False  # of "5 \\to 6" only the 6 would be read
    return all(name in _COMMANDS for name in commands)


def _is_whole(latex: str, expression: Any) -> bool:
    """Whether every letter of a text is in what was made of it; names lose their case there, so one case only."""
    import sympy

    rest = _NO_NAMES.sub(" ", _ENVIRONMENT.sub(" ", latex))
    letters = {letter for letter in rest if letter.isalpha()}
    if len({letter.lower() for letter in letters}) < len(letters):
        return False
    if r"\int" in latex:
        letters -= {"d"}
    found = {letter for symbol in expression.atoms(sympy.Symbol) for letter in str(symbol).lower()}
    return {letter.lower() for letter in letters} - _CONSTANTS <= found


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
