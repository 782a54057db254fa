r"""What a named answer names: `x = 3`, `f(x) = 2x`, `a=4,-8`, `\text{Total area} = 5`.

A name, decorated (`\angle A`, `S_n`, `f'`), or words are assigned what stands on the other side. What a function is
defined under is bound, and no part of its name: f(x) = 2x is f(t) = 2t, and neither is f(t) = 2x. An argument in upper
case is none (P(A) and P(B) are two numbers), and no constant is (f(1), f(e)).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from h1r.verify.math.parse import Node, UnreadableError
from h1r.verify.math.types import Answer, Group, Matrix, Opaque, Ratio, Relation, Union, Value, Words
from h1r.verify.math.units import NO_UNIT

_DECORATED = (
    r"\\(?:angle|triangle|overline|overrightarrow|widehat|mathrm|vec|hat|bar|sin|cos|tan|log|ln|min|max|Delta) ?"
)
_NAME = re.compile(
    rf"(?:[A-Za-z]++ ?: ?)?+(?:{_DECORATED})?[|{{]*+\\?[A-Za-z]++'*+"
    r"(?:[_^]_*+ ?(?:\{[^{}]*+\}|\\?[^\W_]++))*+[|}]*+(?:\([^()]*+\))?(?: ?\([^()]*+\))?"
)
_ARGUMENT = r"(?:(?![ei](?![a-z]))[a-z]|\\(?!pi(?![a-z]))[a-z]++)"
_ARGUMENTS = re.compile(rf"\(({_ARGUMENT}(?:,{_ARGUMENT})*)\)$")


def name(answer: Answer) -> str | None:
    """What an assignment `name = value` names; of the arguments of a function only how many there are."""
    if not isinstance(answer, Relation) or set(answer.signs) != {"="}:
        return None
    text = answer.sides[0].text
    if not _NAME.fullmatch(text):
        return _label(answer.sides[0])
    bound = arguments(answer)
    plain = text.replace(" ", "")
    return f"{_ARGUMENTS.sub('', plain)}{',' * (len(bound) - 1)}" if bound else plain


def _label(side: Answer) -> str | None:
    """The words that name what follows ("Total area = 5"), unless they deny it."""
    if not isinstance(side, Words) or not NO_UNIT.isdisjoint(side.words):
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
