"""Formulas that are the same where they are looked at: AMO-Bench's rule for answers with unknowns (arXiv 2510.26768).

    metadata  "try_list": ["n=1", "n=2"] or ["a=2,b=3,c=4"]      values of all unknowns, one text for each point
    equal     both formulas have a value at each point, and their real and imaginary parts agree to 8 decimals

Of an equation the last side is the formula. (-1)^n and cos(pi n) are the same by it where n is an integer, though not
as functions. Two formulas with an unknown that no point gives a value are not the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from h1r.mathematics.parse import Node, variables
from h1r.mathematics.types import Answer, Group, Relation, Value
from h1r.mathematics.value import same_value

SLACK = Fraction(1, 2 * 10**8)
_DIGITS = frozenset("0123456789./-")
_MAX_CHARS = 40
"""Of a value."""

Point = Mapping[str, Fraction]


def point_of(text: str) -> dict[str, Fraction]:
    """The values of "a=2,b=3"; `ValueError` for anything else."""
    found = {}
    for part in text.split(","):
        name, _, value = (one.strip() for one in part.partition("="))
        letters = name.removeprefix("\\")
        is_name = letters.isascii() and letters.isalpha() and (len(letters) == 1 or letters != name)
        if not is_name or not _DIGITS.issuperset(value) or len(value) > _MAX_CHARS:
            raise ValueError(f"{text!r} is no list of values such as a=2,b=3")
        try:
            found[name] = Fraction(value)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{text!r} is no list of values such as a=2,b=3") from None
    return found


def same_at(left: Answer, right: Answer, points: tuple[Point, ...]) -> bool | None:
    """Whether two answers are formulas of equal values at all points; None where one of them is no formula."""
    one, other = _formula(left), _formula(right)
    if one is None or other is None:
        return None
    for point in points:
        pair = _at(one, point), _at(other, point)
        if any(variables(node) for node in pair) or same_value(*pair, slack=SLACK) is not True:
            return False
    return True


def _formula(answer: Answer) -> Node | None:
    if isinstance(answer, Relation) and set(answer.signs) == {"="}:
        return _formula(answer.sides[-1])
    if isinstance(answer, Group) and len(answer.items) == 1:
        return _formula(answer.items[0])
    return answer.node if isinstance(answer, Value) else None


def _at(node: Node, point: Point) -> Node:
    """The tree with numbers in place of the unknowns of `point`."""
    if node[0] == "var":
        return ("num", point[node[1]]) if node[1] in point else node
    return tuple(_at(part, point) if isinstance(part, tuple) else part for part in node)
