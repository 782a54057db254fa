"""Formulas as the families ask for them (`2*x**3 - sqrt(x)*cos(x)/3 + C`), read by the parser of `h1r.mathematics`.

Nothing is evaluated by Python or sympy. The grammar is an allow list on the very text that is read:

    ASCII only, MAX_CHARS of them        digits and points, + - * / ^ **, brackets, bars of absolute values
    one letter is an unknown             e, E and i are constants, pi too
    a longer word is one of FUNCTIONS    and stands before an opening bracket

LaTeX of the same content is read too (`\\frac{x^2}{2}`, `\\sin x`). No quotes, underscores, attributes, calls of
anything else, commas, or text around the formula.
"""

from __future__ import annotations

import re
from fractions import Fraction

from h1r.mathematics.parse import Node, UnreadableError, parse, variables

MAX_CHARS = 2_000
FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp", "sqrt", "ln")},
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{f"arc{name}": f"arc{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    "log": "ln",
}
"""Their names in Python and in LaTeX; the logarithm is the natural one in both."""

_ALLOWED = re.compile(r"[A-Za-z0-9.+\-*/^(){}\[\]|\\ ]*")
_WORD = re.compile(r"\\?[A-Za-z]++")
_PASSED_COMMANDS = frozenset(
    (r"\frac", r"\dfrac", r"\tfrac", r"\cdot", r"\times", r"\div", r"\left", r"\right", r"\pi")
)
_SPELLINGS = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\left": "", r"\right": "", "E": "e"}
_ABSOLUTE = ("abs", "Abs")


def read_formula(text: str) -> Node | None:
    """The tree of a formula (`h1r.mathematics.parse`), or None for what the grammar does not allow."""
    if len(text) > MAX_CHARS or not text.isascii() or not _ALLOWED.fullmatch(text):
        return None
    try:
        return parse(_WORD.sub(_spelled, _with_bars(text)))
    except UnreadableError:
        return None


def _spelled(match: re.Match[str]) -> str:
    word = match[0]
    if word in _SPELLINGS or word in _PASSED_COMMANDS:
        return _SPELLINGS.get(word, word)
    name = word.removeprefix("\\")
    if name in FUNCTIONS:
        return f"\\{FUNCTIONS[name]} "
    if word == "pi":
        return r"\pi "
    if len(word) == 1:
        return word
    raise UnreadableError(f"the word `{word[:20]}`")


def _with_bars(text: str) -> str:
    r"""`abs(x)` as `(\lvert x\rvert)`, which the parser knows."""
    parts: list[str] = []
    closers: list[str] = []
    position = 0
    for match in re.finditer(r"\\?[A-Za-z]++|[()]", text):
        if match.start() < position:
            continue
        parts.append(text[position : match.start()])
        position = match.end()
        if match[0] == "(":
            closers.append(")")
        elif match[0] == ")":
            parts.append(closers.pop() if closers else ")")
            continue
        elif match[0] in _ABSOLUTE and text[position : position + 1] == "(":
            parts.append(r"(|(")
            closers.append(")|)")
            position += 1
            continue
        parts.append(match[0])
    return "".join((*parts, text[position:]))


def numbers_of(node: Node) -> list[Fraction] | None:
    """The numbers of a tree of sums, differences, products and quotients; None if there is anything else in it."""
    if node[0] == "num":
        return [node[1]]
    if node[0] not in ("add", "mul", "div", "neg"):
        return None
    found: list[Fraction] = []
    for part in node[1:]:
        inner = numbers_of(part)
        if inner is None:
            return None
        found += inner
    return found


def value_of(node: Node) -> Fraction | None:
    """The exact value of a tree for which `numbers_of` is not None; None where it divides by zero."""
    try:
        return _value(node)
    except ZeroDivisionError:
        return None


def _value(node: Node) -> Fraction:
    kind, *parts = node
    if kind == "num":
        return Fraction(parts[0])
    if kind == "neg":
        return -_value(parts[0])
    left, right = map(_value, parts)
    return left + right if kind == "add" else left * right if kind == "mul" else left / right


def is_expanded(node: Node) -> bool:
    """Whether a tree is a sum of products without sums in them."""
    if node[0] in ("add", "neg"):
        return all(is_expanded(part) for part in node[1:])
    return not _has_sum(node)


def _has_sum(node: Node) -> bool:
    return node[0] == "add" or any(_has_sum(part) for part in node[1:] if isinstance(part, tuple))


def derivative(node: Node, name: str) -> Node | None:
    """The derivative by an unknown, not simplified; None where a function has none here."""
    if name not in variables(node):
        return ("num", Fraction(0))
    kind, *parts = node
    if kind == "var":
        return ("num", Fraction(1))
    inner = [derivative(part, name) for part in parts]
    if None in inner:
        return None
    if kind in ("add", "neg"):
        return (kind, *inner)
    if kind == "mul":
        return ("add", ("mul", inner[0], parts[1]), ("mul", parts[0], inner[1]))
    if kind == "div":
        top = ("add", ("mul", inner[0], parts[1]), ("neg", ("mul", parts[0], inner[1])))
        return ("div", top, ("pow", parts[1], _TWO))
    if kind == "pow":
        return _of_power(parts[0], parts[1], inner, name)
    if kind == "root" and name not in variables(parts[0]):
        return _of_power(parts[1], ("div", _ONE, parts[0]), [inner[1], ("num", Fraction(0))], name)
    if kind in _OUTER:
        return ("mul", _OUTER[kind](parts[0]), inner[0])
    return None


def _of_power(base: Node, exponent: Node, inner: list[Node | None], name: str) -> Node:
    """By the power rule, and by that of exponentials where the exponent is no constant."""
    lowered = ("pow", base, ("add", exponent, ("neg", _ONE)))
    rule = ("mul", ("mul", exponent, lowered), inner[0])
    if name not in variables(exponent):
        return rule
    return ("add", rule, ("mul", ("mul", ("pow", base, exponent), ("ln", base)), inner[1]))


_ONE, _TWO = ("num", Fraction(1)), ("num", Fraction(2))


def _square(node: Node) -> Node:
    return ("pow", node, _TWO)


def _one_over(node: Node) -> Node:
    return ("div", _ONE, node)


def _less(left: Node, right: Node) -> Node:
    return ("add", left, ("neg", right))


def _root(node: Node) -> Node:
    return ("root", _TWO, node)


_OUTER = {
    "sin": lambda x: ("cos", x),
    "cos": lambda x: ("neg", ("sin", x)),
    "tan": lambda x: _one_over(_square(("cos", x))),
    "cot": lambda x: ("neg", _one_over(_square(("sin", x)))),
    "sec": lambda x: ("div", ("sin", x), _square(("cos", x))),
    "csc": lambda x: ("neg", ("div", ("cos", x), _square(("sin", x)))),
    "sinh": lambda x: ("cosh", x),
    "cosh": lambda x: ("sinh", x),
    "tanh": lambda x: _one_over(_square(("cosh", x))),
    "exp": lambda x: ("exp", x),
    "ln": _one_over,
    "abs": lambda x: ("div", x, ("abs", x)),
    "asin": lambda x: _one_over(_root(_less(_ONE, _square(x)))),
    "acos": lambda x: ("neg", _one_over(_root(_less(_ONE, _square(x))))),
    "atan": lambda x: _one_over(("add", _ONE, _square(x))),
    "acot": lambda x: ("neg", _one_over(("add", _ONE, _square(x)))),
}
"""The derivatives of functions, as trees of their operands."""
