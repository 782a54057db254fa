r"""Constants that a formula leaves open: x^2 + c is x^2 + C, and c_1 e^x + c_2 e^{-x} is C_1 e^x + C_2 e^{-x}.

Only letters that stand for such constants count, only where the other side has another in its place, and only where the
formula is linear in them and has other unknowns: in a law of cosines C is an angle.
"""

from __future__ import annotations

import re
from fractions import Fraction

from h1r.mathematics.parse import Node, variables
from h1r.mathematics.value import same_value

_CONSTANT = re.compile(r"[CcKk](?:_\d)?")
_MAX_CONSTANTS = 4
_NUMBERS = tuple(("num", Fraction(value)) for value in (0, 1, 2))


def same_but_for_constants(left: Node, right: Node) -> bool:
    """Whether two formulas are equal once the open constants of one are named as those of the other."""
    names = variables(left), variables(right)
    if names[0] == names[1]:
        return False
    only = sorted(names[0] - names[1]), sorted(names[1] - names[0])
    if not 0 < len(only[0]) == len(only[1]) <= _MAX_CONSTANTS or not names[0] & names[1]:
        return False
    if not all(map(_CONSTANT.fullmatch, (*only[0], *only[1]))) or not any(
        name[0] in "Cc" for name in only[0] + only[1]
    ):
        return False
    if not all(_is_linear(side, name) for side, own in ((left, only[0]), (right, only[1])) for name in own):
        return False
    renamed = left
    for old, new in zip(*only, strict=True):
        renamed = _put(renamed, old, ("var", new))
    if same_value(renamed, right) is True:
        return True
    if len(only[0]) > 1 or not (_is_addend(left, only[0][0]) and _is_addend(right, only[1][0])):
        return False
    return same_value(_put(left, only[0][0], _NUMBERS[0]), _put(right, only[1][0], _NUMBERS[0])) is True


def _is_linear(node: Node, name: str) -> bool:
    zero, one, two = (_put(node, name, number) for number in _NUMBERS)
    return same_value(("add", two, ("neg", one)), ("add", one, ("neg", zero))) is True


def _is_addend(node: Node, name: str) -> bool:
    """Whether a constant only adds to a formula: with any factor it stands for the same family."""
    zero, one, _ = (_put(node, name, number) for number in _NUMBERS)
    step: Node = ("add", one, ("neg", zero))
    return any(same_value(step, ("num", Fraction(number))) is True for number in (1, -1, 2, -2, 3, 4))


def _put(node: Node, name: str, value: Node) -> Node:
    if node == ("var", name):
        return value
    return tuple(_put(part, name, value) if isinstance(part, tuple) else part for part in node)
