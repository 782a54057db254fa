r"""Whether two answers are the same, by their types. Symmetric; different types are different answers, but for these:

    x=3 and 3                 a named value is its value; so is the last side of a true equality of constants (2+5=7)
    0<x<1 and (0,1)           what an inequality says of one unknown is an interval or a union of them
    \{5\} and 5               a set of one is its element
    x=1,y=2 and 1,2           values may be named on one side only, then in this order (`names`)
    1,2 and (1,2)             a bare list beside a tuple is in the tuple's order; beside a set or a bare list in any
    3:2 and 3/2, (D) and D    a ratio is its quotient, a choice its letter or its text

`None` means that neither can be shown here: the form is one that only `math-verify` may read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from h1r.mathematics.constants import same_but_for_constants
from h1r.mathematics.names import arguments, is_expression, name, names, values, with_shared_arguments
from h1r.mathematics.options import DEFAULT, Options
from h1r.mathematics.parse import Node, mentions, variables
from h1r.mathematics.phrases import NONE
from h1r.mathematics.read import read
from h1r.mathematics.region import ORDERED, is_list_of_conditions, region, same_region, unknown
from h1r.mathematics.types import (
    Answer,
    Based,
    Choice,
    Group,
    Matrix,
    Opaque,
    Ratio,
    Relation,
    Union,
    Value,
    Words,
)
from h1r.mathematics.units import DEGREE, RADIAN, Unit, agree, in_kelvin, is_temperature
from h1r.mathematics.value import DECIMAL_RELATIVE, DECIMAL_SLACK, approximate, constant_ratio, same_value

INFINITE_SLACK = Fraction(10**30)
_RADIANS: Node = ("div", ("const", "pi"), ("num", Fraction(180)))
MAX_UNORDERED_UNKNOWNS = 12
"""Unordered lists of formulas with unknowns longer than this are left to `math-verify`: each is tried against each."""

_CHOICE_LETTERS = frozenset("ABCDEFGHIJ")
_DIGITS_APART = re.compile(r"\d \d")


def compare(left: Answer, right: Answer, options: Options = DEFAULT) -> bool | None:
    """Whether two answers are equal. `options` are those of the problem."""
    if not left.text or not right.text:
        return False
    if left.text == right.text:
        return True
    if left.text.replace(" ", "") == right.text.replace(" ", "") and not _blanks_count(left, right):
        return True
    for first, second in ((left, right), (right, left)):
        if isinstance(first, Choice):
            return _same_choice(first, second, options)
    for first, second in ((left, right), (right, left)):
        if isinstance(first, Opaque):
            refused = not first.readable or (isinstance(second, Opaque) and not second.readable)
            refused = refused or (isinstance(second, Group) and len(second.items) > 1 and _is_single(first))
            return False if refused or isinstance(second, Words) else None
    if isinstance(left, Value) and isinstance(right, Value):
        return _same_quantity(left, right, options)
    if isinstance(left, Relation) and isinstance(right, Relation):
        return _same_relation(left, right, options)
    for first, second in ((left, right), (right, left)):
        if isinstance(first, Relation) and "=" in first.signs and set(first.signs) == {"="}:
            return _any(compare(value, second, options) for value in _stated_values(first))
    if isinstance(left, Group) and isinstance(right, Group) and not (_is_region(left) or _is_region(right)):
        return _same_group(left, right, options)
    for first, second in ((left, right), (right, left)):
        if isinstance(first, Group) and first.opening in ORDERED and isinstance(second, Matrix):
            return _same_vector(first, second, options)
        if isinstance(first, Group) and isinstance(second, Value | Matrix):
            return _same_single(first, second, options)
    if isinstance(left, Matrix) and isinstance(right, Matrix):
        return _same_matrix(left, right, options)
    return _same_rest(left, right, options)


def _is_region(group: Group) -> bool:
    """Whether a bare list states conditions on one unknown."""
    return is_list_of_conditions(group) and region(group) is not None


def _same_rest(left: Answer, right: Answer, options: Options) -> bool | None:
    one_region, other_region = region(left), region(right)
    if one_region is not None and other_region is not None:
        return _every(same_region(one_region, other_region, lambda one, other: compare(one, other, options)))
    for first, second in ((left, right), (right, left)):
        if isinstance(first, Union | Group) and isinstance(second, Union):
            return None
        if isinstance(first, Based):
            if isinstance(second, Based):
                return first.base == second.base and first.digits.lstrip("0") == second.digits.lstrip("0")
            return isinstance(second, Value) and second.text == first.digits
        if isinstance(first, Ratio):
            return _same_ratio(first, second, options)
        if isinstance(first, Words):
            if isinstance(second, Group) and first.words == NONE:
                return second.opening == r"\{" and not second.items
            if isinstance(second, Words):
                return bool(first.words) and first.words == second.words
            return isinstance(second, Value) and second.node[0] == "var" and first.text.strip("()") == second.text
    return False


def _is_single(opaque: Opaque) -> bool:
    """Whether an unread text is one value at most, whatever it is."""
    return not any(sign in opaque.source for sign in (",", ";", r"\pm", r"\mp", r"\cup", "and", "or"))


def _blanks_count(left: Answer, right: Answer) -> bool:
    """Between words and between digits a blank means something."""
    apart = _DIGITS_APART.search(left.text) or _DIGITS_APART.search(right.text)
    return bool(apart) or (isinstance(left, Words) and isinstance(right, Words))


def _same_choice(choice: Choice, other: Answer, options: Options) -> bool | None:
    if isinstance(other, Choice):
        if choice.letter != other.letter or not (choice.content and other.content):
            return choice.letter == other.letter
        contents = read(choice.content), read(other.content)
        return not any(isinstance(one, Choice) for one in contents) and compare(*contents, options) is not False
    if other.text.strip("()") == choice.letter:
        return True
    content = read(choice.content) if choice.content else None
    if (
        content is None or isinstance(content, Choice) or content.text in _CHOICE_LETTERS
    ):  # a choice of a choice is no answer
        return False
    return compare(content, other, options) is True


def _same_quantity(left: Value, right: Value, options: Options) -> bool:
    """What cannot be evaluated within bounds is not equal: no other reader would do better, and some would hang."""
    slack, relative = _slack(left.decimals or right.decimals, options)
    for one, other in ((left, right), (right, left)):
        if one.unit == DEGREE and _is_in_radians(other, options):
            return same_value(("mul", one.node, _RADIANS), other.node, slack, relative) is True
    if options.units != "ignored" and _are_on_other_scales(left.unit, right.unit):
        return same_value(_in_kelvin(left), _in_kelvin(right), slack, relative) is True
    factors = _factors(left.unit, right.unit, options)
    if any(
        same_value(_scaled(left.node, one), _scaled(right.node, other), slack, relative) is True
        for one, other in factors
    ):
        return True
    return bool(factors) and left.unit == right.unit and same_but_for_constants(left.node, right.node)


def _are_on_other_scales(left: Unit | None, right: Unit | None) -> bool:
    """Whether both units are of temperature, and not the same."""
    return bool(left and right) and left != right and is_temperature(left) and is_temperature(right)


def _in_kelvin(value: Value) -> Node:
    assert value.unit is not None
    factor, shift = in_kelvin(value.unit)
    return ("add", ("mul", ("num", factor), value.node), ("num", shift))


def _is_in_radians(value: Value, options: Options) -> bool:
    """Whether a number beside one of degrees is an angle in radians: by its unit, or without one by a pi in it."""
    if value.unit is None and options.units != "required":
        return mentions(value.node, "pi")
    return value.unit == RADIAN


def _factors(left: Unit | None, right: Unit | None, options: Options) -> list[tuple[Fraction, Fraction]]:
    if options.units == "ignored":
        return [(Fraction(1), Fraction(1))]
    if options.units == "required" and (left is None) != (right is None):
        return []
    return agree(left, right)


def _slack(written: int, options: Options) -> tuple[Fraction, Fraction]:
    """The allowed difference (absolute, relative) of numbers, of which one is written with `written` decimals."""
    if options.decimals is not None:
        return Fraction(1, 2 * 10**options.decimals), Fraction(1)
    if options.tolerance is not None:
        return INFINITE_SLACK, Fraction(options.tolerance).limit_denominator(10**9)
    return (DECIMAL_SLACK, DECIMAL_RELATIVE) if written else (Fraction(0), Fraction(0))


def _scaled(node: Node, factor: Fraction) -> Node:
    return node if factor == 1 else ("mul", ("num", factor), node)


def _same_relation(left: Relation, right: Relation, options: Options) -> bool | None:
    named = [name(side) for side in (left, right)]
    if named[0] and (named[0] == named[1] or _is_graph(left, right) or _is_graph(right, left)):
        shared = with_shared_arguments(left, right)
        if shared is None:
            return False
        pairs = [(one, other) for one in _stated_values(shared[0]) for other in _stated_values(shared[1])]
        return _any(compare(one, other, options) for one, other in pairs)
    stated = [_stated_values(side) for side in (left, right)]
    if stated[0] and stated[1] and not all(named):
        if not any(named):  # two true equalities of constants
            return False
        return _any(compare(one, other, options) for one in stated[0] for other in stated[1])
    if len(left.sides) == 2 and left.signs == right.signs:
        same = _same_difference(left, right)
        if same is not False or left.signs == ("=",):
            return same
    one_region, other_region = region(left), region(right)
    if one_region is not None and other_region is not None and unknown(left) == unknown(right):
        return _every(same_region(one_region, other_region, lambda one, other: compare(one, other, options)))
    if left.signs != right.signs:
        return False
    return _every(compare(one, other, options) for one, other in zip(left.sides, right.sides, strict=True))


def _is_graph(one: Relation, other: Relation) -> bool:
    """f(x) = ... and y = ... name the same function."""
    return other.sides[0].text == "y" and len(arguments(one)) == 1 and name(one) is not None


def _same_difference(left: Relation, right: Relation) -> bool | None:
    """Whether one relation is the other times a constant: positive for an inequality, else any but zero."""
    sides = [side for relation in (left, right) for side in relation.sides]
    if not all(isinstance(side, Value) for side in sides):
        return None if any(isinstance(side, Opaque) for side in sides) else False
    nodes = [side.node for side in sides if isinstance(side, Value)]
    ratio = constant_ratio(("add", nodes[0], ("neg", nodes[1])), ("add", nodes[2], ("neg", nodes[3])))
    if ratio is None:
        return False
    return ratio > 0 if left.signs[0] in ("<", "<=") else ratio != 0


def _stated_values(relation: Relation) -> list[Answer]:
    """What a chain of equalities states: its last side, when the first is a name or all are one constant.

    Of `x = 4/3 \\approx 1.33` both are stated, provided that one is the other rounded.
    """
    stated = [relation.sides[-1], *(() if relation.rounded is None else (relation.rounded,))]
    if name(relation) is not None and not (is_expression(relation) and _contradicts_itself(relation)):
        return stated
    nodes = [side.node for side in relation.sides if isinstance(side, Value)]
    constant = len(nodes) == len(relation.sides) and all(approximate(node) is not None for node in nodes)
    return stated if constant and all(same_value(node, nodes[0]) for node in nodes[1:]) else []


def _contradicts_itself(relation: Relation) -> bool:
    """Whether a chain behind its name has constants of different values: m + n = 2 + 3 = 6."""
    nodes = [side.node for side in relation.sides[1:] if isinstance(side, Value) and not variables(side.node)]
    return any(same_value(node, nodes[0]) is False for node in nodes[1:])


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    """True when one is, else None when one is, else False."""
    found = list(verdicts)
    return True if True in found else None if None in found else False


def _same_group(left: Group, right: Group, options: Options) -> bool | None:
    for one, other in ((left, right), (right, left)):
        if one.opening == r"\{" and len(one.items) == 1 and other.opening in ORDERED:
            return compare(one.items[0], other, options)
    if len(left.items) != len(right.items):
        return False
    ordered = [side.opening in ORDERED for side in (left, right)]
    bare = [side.opening == "" for side in (left, right)]
    if ordered[0] != ordered[1] and not any(bare):
        return False
    if all(ordered) and len(left.items) == 2 and (left.opening, left.closing) != (right.opening, right.closing):
        return False
    if left.names and right.names and sorted(left.names) == sorted(right.names):
        places = [right.names.index(name) for name in left.names]
        return _every(
            _same_element(one, right.items[place], options) for one, place in zip(left.items, places, strict=True)
        )
    named = [names(side.items) for side in (left, right)]
    if named[0] and named[1]:
        if sorted(named[0]) == sorted(named[1]) and len(set(named[0])) == len(named[0]):
            found = dict(zip(named[1], right.items, strict=True))
            pairs = [(item, found[known]) for known, item in zip(named[0], left.items, strict=True)]
        elif any(ordered) or options.ordered:
            pairs = list(zip(left.items, right.items, strict=True))
        else:
            return _match(left.items, right.items, options)
        return _every(_same_element(one, other, options) for one, other in pairs)
    plain = values(left.items), values(right.items)
    if any(ordered) or options.ordered or any(known and len(set(known)) == len(known) > 1 for known in named):
        sides = [
            _in_alphabetical_order(found, known) if known and ordered[1 - side] else found
            for side, (found, known) in enumerate(zip(plain, named, strict=True))
        ]
        return _every(_same_element(one, other, options) for one, other in zip(*sides, strict=True))
    return _match(plain[0], plain[1], options)


def _in_alphabetical_order(items: Sequence[Answer], known: Sequence[str]) -> Sequence[Answer]:
    """The values of x, y, z (or a, b, c, d) in this order, in which a tuple without names has them."""
    if len(set(known)) < len(known) or not (set(known) <= set("xyz") or set(known) <= set("abcd")):
        return items
    return [item for _, item in sorted(zip(known, items, strict=True), key=lambda pair: pair[0])]


def _same_element(one: Answer, other: Answer, options: Options) -> bool | None:
    """As `compare`, but inside brackets a set of one is not its element."""
    sets = [isinstance(side, Group) and side.opening == r"\{" for side in (one, other)]
    return False if sets[0] != sets[1] else compare(one, other, options)


def _match(left: Sequence[Answer], right: Sequence[Answer], options: Options) -> bool | None:
    """Whether the elements pair off, in any order, with their repetitions."""
    sizes = [[approximate(item.node) if isinstance(item, Value) else None for item in side] for side in (left, right)]
    if len(left) > MAX_UNORDERED_UNKNOWNS and any(size is None for side in sizes for size in side):
        return None
    rest = list(range(len(right)))
    for index, item in enumerate(left):
        for other in rest:
            near, far = sizes[0][index], sizes[1][other]
            apart = near is not None and far is not None and abs(near - far) > 0.01 * (abs(near) + abs(far)) + 0.01
            if apart and not (_has_unit(item) or _has_unit(right[other])):
                continue
            if _same_element(item, right[other], options):
                rest.remove(other)
                break
        else:
            return _unmatched(left, right, options)
    return True


def _unmatched(left: Sequence[Answer], right: Sequence[Answer], options: Options) -> bool | None:
    """Of two lists that do not pair off: False when an element differs from all of the other list, else unknown."""
    verdicts = [[_same_element(one, other, options) for other in right] for one in left]
    columns = [[row[index] for row in verdicts] for index in range(len(right))]
    if any(all(found is False for found in line) for line in (*verdicts, *columns)):
        return False
    return None if any(found is None for row in verdicts for found in row) else False


def _has_unit(answer: Answer) -> bool:
    return isinstance(answer, Value) and answer.unit is not None


def _same_single(group: Group, other: Answer, options: Options) -> bool | None:
    """A set or list of one element and that element; a decimal comma; thousands apart, as in 1,234 beside 1234."""
    if len(group.items) == 1 and group.opening not in ORDERED:
        return compare(group.items[0], other, options)
    if re.fullmatch(r"-?\d+,\d{2,}", group.text) and isinstance(other, Value):
        return compare(read(group.text.replace(",", ".")), other, options)
    return False


def _same_vector(group: Group, matrix: Matrix, options: Options) -> bool | None:
    """A tuple and a matrix of one column, or of one row."""
    entries = [entry for row in matrix.rows for entry in row]
    if group.opening == "[" and len(entries) < 3:
        return False  # an interval
    if len(entries) != len(group.items) or 1 not in (len(matrix.rows), len(matrix.rows[0])):
        return False
    return _every(compare(one, other, options) for one, other in zip(group.items, entries, strict=True))


def _same_matrix(left: Matrix, right: Matrix, options: Options) -> bool | None:
    if [len(row) for row in left.rows] != [len(row) for row in right.rows]:
        return False
    entries = [[entry for row in side.rows for entry in row] for side in (left, right)]
    return _every(compare(one, other, options) for one, other in zip(*entries, strict=True))


def _same_ratio(ratio: Ratio, other: Answer, options: Options) -> bool | None:
    nodes = [part.node for part in ratio.parts]
    if isinstance(other, Value) and len(nodes) == 2:
        return same_value(("div", nodes[0], nodes[1]), other.node)
    if not isinstance(other, Ratio) or len(other.parts) != len(nodes):
        return False
    others = [part.node for part in other.parts]
    zero: Node = ("num", Fraction(0))
    if any((same_value(a, zero) is True) != (same_value(b, zero) is True) for a, b in zip(nodes, others, strict=True)):
        return False  # 0:0 is no ratio, and its cross products with any are equal
    return _every(
        same_value(("mul", nodes[0], others[index]), ("mul", nodes[index], others[0])) for index in range(1, len(nodes))
    )


def _every(verdicts: Iterable[bool | None]) -> bool | None:
    """False when one is, else None when one is, else True; stops at the first False."""
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown |= verdict is None
    return None if unknown else True
