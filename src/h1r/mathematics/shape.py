r"""How an answer is written, apart from what it is worth: nothing is evaluated, only notation is made the same.

    the same shape     x+1 and 1+x; \frac{x}{2} and \frac12 x; -(a-b) and b-a; \sqrt{x} and x^{1/2}; e^x and \exp(x)
    other shapes       23*47 and 1081; 10/16 and 5/8; 0.5 and 1/2; (x+1)^2 and x^2+2x+1; \sqrt{50} and 5\sqrt{2}

A sum is the sorted list of its terms; a term is (sign, factors above, factors below), each factor with its exponent.
Zeros are left out of sums, ones out of products. Work is linear in the tree, but for sorting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from h1r.mathematics.names import name
from h1r.mathematics.parse import Node
from h1r.mathematics.types import Answer, Group, Matrix, Relation, Union, Value
from h1r.mathematics.value import approximate, same_value

Shape = tuple[Any, ...]
_MAX_EXPONENT = 10_000
_ZERO: Shape = ("num", Fraction(0))
_ONE: Shape = ("num", Fraction(1))


def shape(node: Node) -> Shape:
    """The shape of a formula: an atom, ("term", ...) or ("sum", terms)."""
    found = [term for term in _terms(node, 1) if term[1:] != (((_ZERO, 1),), ())]
    if not found:
        return _ZERO
    if len(found) > 1:
        return ("sum", tuple(sorted(found, key=_unsigned)))
    sign, above, below = found[0]
    alone = sign > 0 and not below and len(above) == 1 and above[0][1] == 1
    return above[0][0] if alone else ("term", sign, above, below) if above or below or sign < 0 else _ONE


def shape_of(answer: Answer) -> Shape:
    """The shape of an answer of any type; what was not read is its text."""
    if isinstance(answer, Value):
        return ("mixed", shape(answer.node)) if is_mixed(answer) else shape(answer.node)
    if isinstance(answer, Relation):
        sides = [shape_of(side) for side in answer.sides]
        return ("relation", answer.signs, tuple(sorted(sides, key=repr) if set(answer.signs) == {"="} else sides))
    if isinstance(answer, Group):
        items = [shape_of(item) for item in answer.items]
        ordered = answer.opening in ("(", "[")
        return ("ordered" if ordered else "list", tuple(items if ordered else sorted(items, key=repr)))
    if isinstance(answer, Matrix):
        return ("matrix", tuple(tuple(map(shape_of, row)) for row in answer.rows))
    return ("text", answer.text.replace(" ", ""))


def is_mixed(answer: Value) -> bool:
    r"""Whether a value is a whole number and a fraction, with no sign between: 3\frac{1}{2}, not 3+\frac{1}{2}."""
    node = answer.node[1] if answer.node[0] == "neg" else answer.node
    return node[0] == "add" and ratio(node[2]) is not None and node[1][0] == "num" and "+" not in answer.text


def ratio(node: Node) -> tuple[int, int] | None:
    """Numerator and denominator of a quotient of two whole numbers, without signs."""
    if node[0] != "div":
        return None
    over, under = (part[1] if part[0] == "neg" else part for part in node[1:])
    if over[0] != "num" or under[0] != "num" or over[1].denominator != 1 or under[1].denominator != 1:
        return None
    return int(over[1]), int(under[1])


def stated(answer: Answer) -> tuple[Answer, ...]:
    """What an answer states, each of which may be it: x = 2+3 = 5 states 2+3 and 5, 2+3 = 5 the same."""
    if not isinstance(answer, Relation) or set(answer.signs) != {"="}:
        return (answer,)
    if name(answer) is not None:
        sides = [side for side in answer.sides[1:-1] if not (isinstance(side, Value) and side.node[0] == "var")]
        return (*sides, answer.sides[-1], *(() if answer.rounded is None else (answer.rounded,)))
    nodes = [side.node for side in answer.sides if isinstance(side, Value)]
    constant = len(nodes) == len(answer.sides) and all(approximate(node) is not None for node in nodes)
    return answer.sides if constant and all(same_value(node, nodes[0]) for node in nodes[1:]) else (answer,)


def leaves(answer: Answer) -> tuple[Answer, ...]:
    """The elements of a list, tuple, union or matrix, at any depth; the answer itself where it is none of these."""
    inner: tuple[Answer, ...]
    if isinstance(answer, Group):
        inner = answer.items
    elif isinstance(answer, Union):
        inner = answer.parts
    elif isinstance(answer, Matrix):
        inner = tuple(entry for row in answer.rows for entry in row)
    else:
        return (answer,)
    return tuple(leaf for part in inner for leaf in leaves(part))


def _terms(node: Node, sign: int) -> list[Shape]:
    kind = node[0]
    if kind == "add":
        return _terms(node[1], sign) + _terms(node[2], sign)
    if kind == "neg":
        return _terms(node[1], -sign)
    above: Counter[Shape] = Counter()
    below: Counter[Shape] = Counter()
    sign *= _multiply(node, 1, above, below)
    above.pop(_ONE, None)
    below.pop(_ONE, None)
    if not below and len(above) == 1 and next(iter(above.items()))[1] == 1 and next(iter(above))[0] == "sum":
        (inner,) = above  # a sum in brackets is no product
        return [(sign * term[0], *term[1:]) for term in inner[1]]
    return [(sign, _sorted(above), _sorted(below))]


def _sorted(factors: Counter[Shape]) -> Shape:
    return tuple(sorted(factors.items(), key=repr))


def _multiply(node: Node, exponent: int, above: Counter[Shape], below: Counter[Shape]) -> int:
    """Adds the factors of a node, to a power, to those above or below the line; the sign that they leave."""
    kind = node[0]
    if kind == "mul":
        return _multiply(node[1], exponent, above, below) * _multiply(node[2], exponent, above, below)
    if kind == "div":
        return _multiply(node[1], exponent, above, below) * _multiply(node[2], -exponent, above, below)
    if kind == "neg":
        return _multiply(node[1], exponent, above, below) * (-1 if exponent % 2 else 1)
    if kind == "pow" and (power := _integer(node[2])) is not None and abs(power * exponent) <= _MAX_EXPONENT and power:
        if _integer(node[1]) is None:
            return _multiply(node[1], exponent * power, above, below)
        if power < 0:
            return _multiply(("pow", node[1], ("num", Fraction(-power))), -exponent, above, below)
    sign = 1
    atom = _atom(node)
    if atom[0] == "sum" and atom[1][0][0] < 0:  # b-a is -(a-b)
        atom = ("sum", tuple((-term[0], *term[1:]) for term in atom[1]))
        sign = -1 if exponent % 2 else 1
    if atom[0] == "term":  # what is left of 0+2x
        for factors, side in ((atom[2], 1), (atom[3], -1)):
            for factor, count in factors:
                (above if side * exponent > 0 else below)[factor] += abs(count * exponent)
        return sign * (atom[1] if exponent % 2 else 1)
    (above if exponent > 0 else below)[atom] += abs(exponent)
    return sign


def _unsigned(term: Shape) -> tuple[str, int]:
    return repr(term[1:]), term[0]


def _atom(node: Node) -> Shape:
    kind = node[0]
    if kind in ("num", "var", "const"):
        return tuple(node)
    if kind == "add":
        return shape(node)
    if kind == "exp":
        return ("pow", ("const", "e"), shape(node[1]))
    if kind == "root":
        return ("pow", shape(node[2]), shape(("div", ("num", Fraction(1)), node[1])))
    return (kind, *(shape(part) for part in node[1:]))


def _integer(node: Node) -> int | None:
    if node[0] == "neg":
        inner = _integer(node[1])
        return None if inner is None else -inner
    return int(node[1]) if node[0] == "num" and node[1].denominator == 1 else None


def any_part(node: Node, holds: Callable[[Node], bool]) -> bool:
    """Whether a condition holds for a tree or for any part of it."""
    return holds(node) or any(any_part(part, holds) for part in node[1:] if isinstance(part, tuple))


def terms(written: Shape) -> tuple[Shape, ...]:
    """The terms of a shape, each (sign, factors above, factors below), a factor being (shape, exponent)."""
    if written[0] == "sum":
        return tuple(written[1])
    return (written[1:],) if written[0] == "term" else ((1, ((written, 1),), ()),)


def factors(written: Shape) -> tuple[tuple[Shape, int], ...]:
    """The factors above the line of a shape that is no sum."""
    return tuple(terms(written)[0][1]) if written[0] != "sum" else ((written, 1),)


def numbers(pairs: Shape) -> list[tuple[Fraction, int]]:
    """The numbers among factors, with their exponents: 2 and 3^4."""
    found = [(factor[1], power) for factor, power in pairs if factor[0] == "num"]
    return found + [(factor[1][1], int(factor[2][1]) * power) for factor, power in pairs if _is_power(factor)]


def _is_power(factor: Shape) -> bool:
    if factor[0] != "pow" or factor[1][0] != "num" or factor[2][0] != "num":
        return False
    return factor[2][1].denominator == 1 and 0 < factor[2][1] <= _MAX_EXPONENT
