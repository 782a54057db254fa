r"""What a named answer names: `x = 3`, `f(x) = 2x`, `a=4,-8`, `\text{Total area} = 5`, `m+n = 277`, `AB:BC = 3:2`.

A name, decorated (`\angle A`, `S_n`, `f'`), a quantity (`P(A \cup B)`, `\mathbb{E}[X]`, `[ABC]`), words, or an
expression that questions ask the value of is assigned what stands on the other side. Such an expression is a sum or
difference of names, perhaps times ten or a hundred (100m + n), a quotient or a ratio of such. A product or a power of
unknowns is none (abc = 0 says that one of three is zero), nor is a sum with other coefficients (2x + z = 1 is a line).

What a function is defined under is bound, and no part of its name: f(x) = 2x is f(t) = 2t, and neither is f(t) = 2x. An
argument in upper case is none (P(A) and P(B) are two numbers), and no constant is (f(1), f(e)).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from h1r.mathematics.parse import Node, UnreadableError, variables
from h1r.mathematics.text import bracketed
from h1r.mathematics.types import Answer, Group, Matrix, Opaque, Ratio, Relation, Union, Value, Words
from h1r.mathematics.units import NO_UNIT

_DECORATED = (
    r"\\(?:angle|triangle|overline|overrightarrow|widehat|mathrm|vec|hat|bar|sin|cos|tan|log|ln|min|max|Delta) ?"
)
_NAME = re.compile(
    rf"(?:[A-Za-z]++ ?: ?)?+(?:{_DECORATED})?[|{{]*+\\?[A-Za-z]++'*+"
    r"(?:[_^]_*+ ?(?:\{[^{}]*+\}|\\?[^\W_]++))*+[|}]*+(?:\([^()]*+\))?(?: ?\([^()]*+\))?"
)
_WORDS = frozenset(
    (
        *("area", "sum", "min", "max", "gcd", "lcm", "ans", "answer", "deg", "rate"),
        *("cost", "time", "total", "arg", "var", "det", "dim", "rank", "tr", "mean"),
        *("mode", "median", "range", "slope", "ratio", "prob", "vol", "volume", "dist", "length"),
        *("width", "height", "base", "angle", "speed", "mass", "force", "energy", "work", "power"),
        "hcf",
    )
)
"""Runs of small letters that are words; other short ones are products of unknowns."""
_RUN = re.compile(r"(?<!\\)(?<![A-Za-z\\])[a-z]{2,}")
_POWER = re.compile(
    r"(?<![A-Za-z\\])[a-eijk-z](?:_\w)? ?\^ ?(?!\{? ?[*'(])|\\(?:alpha|beta|gamma|theta|lambda)(?:_\w)? ?\^"
)
_INDEXED = re.compile(r"[a-z]_\{?\d\}? ?[a-z]")
"""x_1x_2 is a product, whatever a name may have below."""
_APPLIED = re.compile(r"([a-z])(?:_\w)? ?\((.*)\)", re.DOTALL)
_NO_FUNCTIONS = frozenset("abcklmnotxyz")
"""Letters that name no function: x(x-1) is a product."""
_QUANTITY = re.compile(
    r"(?:\\mathbb ?\{? ?[A-Z] ?\}?|\\Pr|\\operatorname ?\{[A-Za-z]++\}|[A-Z][A-Za-z]{0,3}+"
    r"|[\ue000][A-Za-z ]++[\ue001]|[fgh]"
    r"|\\(?:deg|det|dim|sin|cos|tan|max|min|gcd))'*+(?:_\{?\w++\}?)? ?(?:\^ ?(?:\{[^{}]*+\}|\d))? ?"
    r"(?=[(\[])"
)
_FIGURE = re.compile(
    r"m? ?\\angle ?[A-Z]{1,3}'*+|\[ ?[A-Z]{3,8} ?\]|\|\|? ?\\?[A-Za-z]++ ?\|\|?"
    r"|\\\| ?(?:\\[a-z]++ ?\{?)?+\w++\}? ?\\\||[A-Z]_\{? ?\\triangle ?[A-Z]{3} ?\}?"
)
_PARTS = re.compile(
    r"(?:(?<=\A)|(?<=[ ,;.\ue000\ue001]))(?:[Pp]art )?\(?((?<![A-Za-z])[a-e]|i{1,3}|iv|v)\)[ :.]*+(?=[^ ,;.+\-*/=^)])"
)
_SEQUENCES = (("a", "b", "c", "d", "e"), ("i", "ii", "iii", "iv", "v"))
_ARGUMENT = r"(?:(?![ei](?![a-z]))[a-z]|\\(?!pi(?![a-z]))[a-z]++)"
_ARGUMENTS = re.compile(rf"\(({_ARGUMENT}(?:,{_ARGUMENT})*)\)$")


def name(answer: Answer) -> str | None:
    """What an assignment `name = value` names; of the arguments of a function only how many there are."""
    if not isinstance(answer, Relation) or set(answer.signs) != {"="}:
        return None
    side = answer.sides[0]
    if not _NAME.fullmatch(side.text):
        return _label(side) or _expression(answer)
    bound = arguments(answer)
    plain = side.text.replace(" ", "")
    if _is_product(side.text):
        return None
    return f"{_ARGUMENTS.sub('', plain)}{',' * (len(bound) - 1)}" if bound else plain


def _is_product(text: str) -> bool:
    """Whether a text with the form of a name is a product or a power of unknowns: abc, x^2, x(x-1)."""
    if (
        _POWER.search(text)
        or _INDEXED.search(text)
        or text.startswith(("\\log", "\\ln"))
        or any(len(run) < 7 and run not in _WORDS for run in _RUN.findall(text.partition("(")[0]))
    ):
        return True
    applied = _APPLIED.fullmatch(text)
    return applied is not None and applied[1] in _NO_FUNCTIONS and not applied[2].strip().isalnum()


def is_expression(relation: Relation) -> bool:
    """Whether what a relation names is an expression of several unknowns (m+n), and no name."""
    return bool(relation.sides) and not _NAME.fullmatch(relation.sides[0].text) and _expression(relation) is not None


def is_quantity(text: str) -> bool:
    r"""Whether a text is a quantity with its argument in brackets (P(A \cup B), E[X], f(3)), an integral or a limit."""
    if text.startswith((r"\int", r"\lim", r"\oint")):
        return True
    head = _QUANTITY.match(text)
    return head is not None and bracketed(text[head.end() :]) is not None


def _expression(relation: Relation) -> str | None:
    """The text of a quantity, a sum or difference of names, or a quotient or ratio of such, that is given a value."""
    side, value = relation.sides[0], relation.sides[-1]
    plain = side.text.replace(" ", "")
    if _FIGURE.fullmatch(side.text) or is_quantity(side.text):
        return plain
    if isinstance(side, Ratio):
        return plain if all(_is_sum(part.node) or _is_size(part) for part in side.parts) else None
    if not isinstance(side, Value) or not isinstance(value, Value | Ratio):
        return None
    known = variables(value.node) if isinstance(value, Value) else frozenset()
    if not known.isdisjoint(variables(side.node)) or (known and not _is_applied(side.node)):
        return None
    return plain if _is_size(side) else None


def _is_size(value: Value) -> bool:
    """Whether the value of a formula is what a question may ask for."""
    node = value.node
    if _SEGMENTS.fullmatch(value.text) or _is_applied(node):
        return True
    if node[0] == "div":
        return (_is_sum(node[1]) or _is_segment(value.text)) and (_is_sum(node[2]) or _is_segment(value.text))
    return node[0] in ("add", "abs") and _is_sum(node[1] if node[0] == "abs" else node)


_SEGMENTS = re.compile(
    r"\\frac ?\{ ?\\?[A-Z]{1,3}'*(?:_\w)? ?\} ?\{ ?\\?[A-Z]{1,3}'*(?:_\w)? ?\}|[A-Z]{1,3} ?/ ?[A-Z]{1,3}"
    r"|[A-Z]{2}(?: ?[+-] ?[A-Z]{2})++"
)


def _is_segment(text: str) -> bool:
    return _SEGMENTS.fullmatch(text) is not None


def _is_applied(node: Node) -> bool:
    """A function of an unknown: sin A, log x."""
    return node[0] in ("sin", "cos", "tan", "cot", "sec", "csc") and bool(variables(node))


_POWERS_OF_TEN = frozenset(("num", Fraction(10**power)) for power in (1, 2, 3))


def _is_sum(node: Node) -> bool:
    """A sum or difference of different names, with no other coefficients than powers of ten: m+n, 100m+n."""
    found: list[str] = []
    stack = [node]
    while stack:
        part = stack.pop()
        if part[0] == "add":
            stack += [part[1], part[2]]
        elif part[0] == "neg":
            stack.append(part[1])
        elif part[0] == "mul" and part[1] in _POWERS_OF_TEN and part[2][0] == "var":
            stack.append(part[2])
        elif part[0] == "var":
            found.append(part[1])
        else:
            return False
    return len(set(found)) == len(found) > 0


def labelled_parts(text: str) -> list[tuple[str, str]]:
    """(label, answer) of each part of an answer in parts, (a) 6, (b) 9; [] for anything else."""
    found = list(_PARTS.finditer(text)) if ")" in text else []
    labels = [match[1] for match in found]
    if (
        len(found) < 2
        or text[: found[0].start()].strip(" \ue000")
        or not any(labels == list(sequence[: len(labels)]) for sequence in _SEQUENCES)
    ):
        return []
    ends = [match.start() for match in found[1:]] + [len(text)]
    bodies = []
    for match, end in zip(found, ends, strict=True):
        body = text[match.end() : end].strip(" ,;.")
        if body.startswith("\ue001"):
            body = body[1:]
        if body.endswith("\ue000"):
            body = body[:-1]
        bodies.append(body.strip(" ,;."))
    joined = [re.sub("(?<![ ,;])[ ,;]*+[\ue000]? ?(?:and|or)[\ue001]? ?[\ue000]?\\Z", "", body) for body in bodies]
    return [(f"({label})", body) for label, body in zip(labels, joined, strict=True)] if all(joined) else []


_NO_LABEL = frozenset(
    (
        *("contradicts", "contradict", "reject", "rejects", "discard", "discards", "exclude", "excludes", "unless"),
        *("suppose", "assume", "let", "try", "trying", "guess", "whether", "impossible", "can't", "doubt", "unlike"),
    )
)
"""Words of a sentence that states no value: this contradicts x = 5."""


def _label(side: Answer) -> str | None:
    """The words that name what follows ("Total area = 5"), unless they deny it."""
    if not isinstance(side, Words) or not NO_UNIT.isdisjoint(side.words) or not _NO_LABEL.isdisjoint(side.words):
        return None
    return " ".join(side.words) or None


def arguments(relation: Relation) -> tuple[str, ...]:
    """The bound unknowns of a function that is defined: x and y in f(x,y) = x - y."""
    match = _ARGUMENTS.search(relation.sides[0].text.replace(" ", ""))
    found = tuple(match[1].split(",")) if match else ()
    return found if len(set(found)) == len(found) else ()


def names(items: Sequence[Answer]) -> list[str] | None:
    """The names of a list of assignments; those after the first may leave it out (`a=4,-8`). None without names."""
    found = [name(item) for item in items]
    if not found or found[0] is None:
        return None
    if all(other is None for other in found[1:]) and not any(isinstance(item, Relation) for item in items[1:]):
        return [found[0]] * len(found)
    return [one for one in found if one is not None] if None not in found else None


def values(items: Sequence[Answer]) -> list[Answer]:
    """The items, without their names where they have one."""
    return [item.sides[-1] if isinstance(item, Relation) and name(item) is not None else item for item in items]


def with_shared_arguments(left: Relation, right: Relation) -> tuple[Relation, Relation] | None:
    """Two definitions of a function under the same unknowns, as given when they are; None where one is not read."""
    bound = arguments(left), arguments(right)
    if bound[0] == bound[1] or len(bound[0]) != len(bound[1]):
        return left, right
    # Under names that no text can have: of f(x) = ax and f(a) = xa the second x is not the first.
    fresh = [{unknown: f"#{index}" for index, unknown in enumerate(known)} for known in bound]
    try:
        return _renamed(left, fresh[0]), _renamed(right, fresh[1])
    except UnreadableError:
        return None


def _renamed(relation: Relation, fresh: dict[str, str]) -> Relation:
    rounded = None if relation.rounded is None else _put(relation.rounded, fresh)
    sides = (relation.sides[0], *(_put(side, fresh) for side in relation.sides[1:]))
    return dataclasses.replace(relation, sides=sides, rounded=rounded)


def _put(part: Any, fresh: dict[str, str]) -> Any:
    """An answer, or a part of one, with other unknowns. Texts are compared first, so a new one says all that it is."""
    if isinstance(part, tuple):
        return tuple(_put(inner, fresh) for inner in part)
    if isinstance(part, Opaque):
        raise UnreadableError("what nobody has read has no unknowns")
    if isinstance(part, Value):
        part = dataclasses.replace(part, text="", node=_put_in_node(part.node, fresh))
    elif isinstance(part, Group | Matrix | Ratio | Relation | Union):
        fields = [field.name for field in dataclasses.fields(part) if field.name != "text"]
        part = dataclasses.replace(part, text="", **{field: _put(getattr(part, field), fresh) for field in fields})
    else:
        return part
    return dataclasses.replace(part, text=repr(part))


def _put_in_node(node: Node, fresh: dict[str, str]) -> Node:
    if node[0] == "var":
        return ("var", fresh.get(node[1], node[1]))
    return tuple(_put_in_node(part, fresh) if isinstance(part, tuple) else part for part in node)
