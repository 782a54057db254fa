r"""Sets of real numbers as intervals, however they are written: (2,5], 2 < x \le 5, x<2 or x>5, |x-1|<3.

Several conditions on one unknown are alternatives, unless they would leave nothing out: x<1, x>3 are two rays, but
x>0, x \ne 1 is one without a point. Only an "or" between them makes these alternatives too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from h1r.mathematics.parse import Node, variables
from h1r.mathematics.types import Answer, Group, Relation, Union, Value
from h1r.mathematics.value import approximate, exact

ORDERED = frozenset(("(", "["))


@dataclass(frozen=True, slots=True)
class Interval:
    """The numbers between two ends; a point is closed and has equal ends."""

    low: Value
    high: Value
    closed_below: bool
    closed_above: bool


INFINITE = Value(r"\infty", ("const", "infty"))
MINUS_INFINITE = Value(r"-\infty", ("neg", ("const", "infty")))


def region(answer: Answer) -> list[Interval] | None:
    """The answer as intervals of the real line; None when it is none."""
    if isinstance(answer, Union):
        intervals = _all_of(answer.parts)
        return intervals if intervals is None or answer.removed is None else _without(intervals, answer.removed)
    if isinstance(answer, Group):
        values = _values(answer.items)
        if values is not None and answer.opening == r"\{":
            return [Interval(value, value, True, True) for value in values]
        if values is not None and answer.opening in ORDERED and len(values) == 2:
            return [Interval(values[0], values[1], answer.opening == "[", answer.closing == "]")]
        return _conditions(answer) if is_list_of_conditions(answer) else None
    return _solution(answer) if isinstance(answer, Relation) else None


def is_list_of_conditions(group: Group) -> bool:
    """Whether a bare list holds inequalities only: alternatives such as x<1 or x>3."""
    return group.opening == "" and all(isinstance(item, Relation) and "=" not in item.signs for item in group.items)


def unknown(relation: Relation) -> str | None:
    """The name of the only unknown in a relation."""
    names = frozenset().union(*(variables(side.node) for side in relation.sides if isinstance(side, Value)))
    return next(iter(names)) if len(names) == 1 else None


def same_region(
    left: list[Interval], right: list[Interval], same: Callable[[Value, Value], bool | None]
) -> list[bool | None]:
    """Whether the ends pair off, in order, as `same` judges them: one verdict per end and border."""
    left, right = _joined(left), _joined(right)
    if len(left) != len(right):
        return [False]
    verdicts: list[bool | None] = []
    for one, other in zip(left, right, strict=True):
        verdicts.append((one.closed_below, one.closed_above) == (other.closed_below, other.closed_above))
        verdicts += [same(one.low, other.low), same(one.high, other.high)]
    return verdicts


def _place(interval: Interval) -> tuple[float, float]:
    low, high = approximate(interval.low.node), approximate(interval.high.node)
    return (low if low is not None else 0.0, high if high is not None else 0.0)


def _joined(intervals: list[Interval]) -> list[Interval]:
    """The same set in order, as intervals that do not touch; in order only, where an end has no known place."""
    ordered = sorted(intervals, key=lambda interval: (*_place(interval), not interval.closed_below))
    if not all(map(_is_proper, ordered)):
        return ordered
    found: list[Interval] = []
    for interval in ordered:
        if not found or not _touch(found[-1], interval):
            found.append(interval)
            continue
        last = found[-1]
        ends = _place(last)[1], _place(interval)[1]
        closed_below = last.closed_below or (_place(last)[0] == _place(interval)[0] and interval.closed_below)
        further = interval if ends[1] > ends[0] else last
        closed_above = further.closed_above or (ends[0] == ends[1] and (last.closed_above or interval.closed_above))
        found[-1] = Interval(last.low, further.high, closed_below, closed_above)
    return found


def _is_proper(interval: Interval) -> bool:
    if approximate(interval.low.node) is None or approximate(interval.high.node) is None:
        return False
    low, high = _place(interval)
    return low < high or (low == high and interval.closed_below and interval.closed_above)


def _touch(left: Interval, right: Interval) -> bool:
    """Whether nothing lies between two intervals, of which the second does not begin before the first."""
    end, start = _place(left)[1], _place(right)[0]
    return start < end or (start == end and (left.closed_above or right.closed_below))


def _conditions(group: Group) -> list[Interval] | None:
    """What a list of inequalities of one unknown says of it."""
    parts = [region(item) for item in group.items]
    names = {unknown(item) for item in group.items if isinstance(item, Relation)}
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len(names) != 1:
        return None
    either = _joined([interval for part in known for interval in part])
    if group.either or either != [Interval(MINUS_INFINITE, INFINITE, False, False)]:
        return either
    both = known[0]
    for part in known[1:]:
        both = [shared for one in both for other in part if (shared := _shared(one, other)) is not None]
    return both


def _shared(one: Interval, other: Interval) -> Interval | None:
    """What lies in both of two intervals."""
    lows, highs = (_place(one)[0], _place(other)[0]), (_place(one)[1], _place(other)[1])
    lower, upper = one if lows[0] > lows[1] else other, one if highs[0] < highs[1] else other
    closed_below = lower.closed_below if lows[0] != lows[1] else one.closed_below and other.closed_below
    closed_above = upper.closed_above if highs[0] != highs[1] else one.closed_above and other.closed_above
    found = Interval(lower.low, upper.high, closed_below, closed_above)
    return found if _is_proper(found) else None


def _all_of(answers: Sequence[Answer]) -> list[Interval] | None:
    parts = [region(answer) for answer in answers]
    return None if any(part is None for part in parts) else [interval for part in parts if part for interval in part]


def _values(items: Sequence[Answer]) -> list[Value] | None:
    values = [item for item in items if isinstance(item, Value)]
    return values if len(values) == len(items) else None


def _solution(relation: Relation) -> list[Interval] | None:
    """An inequality between constants and one side that is linear in the only unknown, or the size of such a side."""
    name, sides = unknown(relation), _values(relation.sides)
    if name is None or sides is None or len(sides) > 3:
        return None
    places = [index for index, side in enumerate(sides) if variables(side.node)]
    if len(places) != 1 or any(approximate(side.node) is None for side in sides if not variables(side.node)):
        return None
    place, node = places[0], sides[places[0]].node
    if relation.signs == ("!=",):
        point = sides[1 - place]
        found = [Interval(MINUS_INFINITE, point, False, False), Interval(point, INFINITE, False, False)]
        return _solve(node, name, found)
    if not set(relation.signs) <= {"<", "<="} or (len(sides) == 3 and place != 1):
        return None
    low = (sides[place - 1], relation.signs[place - 1] == "<=") if place > 0 else (MINUS_INFINITE, False)
    high = (sides[place + 1], relation.signs[place] == "<=") if place < len(sides) - 1 else (INFINITE, False)
    return _solve(node, name, [Interval(low[0], high[0], low[1], high[1])])


def _solve(node: Node, name: str, intervals: list[Interval]) -> list[Interval] | None:
    """The values of the unknown for which a formula lies in the intervals."""
    if node[0] == "abs":
        spread = [half for interval in intervals for half in _both_sides(interval)]
        return _solve(node[1], name, spread)
    if node == ("var", name):
        return intervals
    values = [exact(_put(node, name, Fraction(number))) for number in (0, 1, 2, -3)]
    if None in values:
        return None
    start, slope = values[0], values[1] - values[0]  # type: ignore[operator]
    if slope == 0 or values[2] != start + 2 * slope or values[3] != start - 3 * slope:  # type: ignore[operator]
        return None
    solved = []
    for interval in intervals:
        low, high = _unmap(interval.low, start, slope), _unmap(interval.high, start, slope)  # type: ignore[arg-type]
        solved.append(
            Interval(low, high, interval.closed_below, interval.closed_above)
            if slope > 0
            else Interval(high, low, interval.closed_above, interval.closed_below)
        )
    return solved


def _both_sides(interval: Interval) -> list[Interval]:
    """Where a number may lie whose size lies in an interval."""
    low, high = interval.low, interval.high
    negative = Interval(_negative(high), _negative(low), interval.closed_above, interval.closed_below)
    place = approximate(low.node)
    if place is None or place < 0:
        return [Interval(_negative(high), high, interval.closed_above, interval.closed_above)]
    return [negative, interval]


def _negative(end: Value) -> Value:
    if end in (INFINITE, MINUS_INFINITE):
        return MINUS_INFINITE if end == INFINITE else INFINITE
    node = ("neg", end.node)
    return Value(repr(node), node, end.unit, end.decimals)


def _unmap(end: Value, start: Fraction, slope: Fraction) -> Value:
    """The x with start + slope * x at the end of an interval."""
    if end in (INFINITE, MINUS_INFINITE):
        return end if slope > 0 else _negative(end)
    node = ("div", ("add", end.node, ("num", -start)), ("num", slope))
    return Value(repr(node), node, end.unit, end.decimals)


def _put(node: Node, name: str, value: Fraction) -> Node:
    if node == ("var", name):
        return ("num", value)
    return tuple(_put(part, name, value) if isinstance(part, tuple) else part for part in node)


def _without(intervals: list[Interval], removed: Answer) -> list[Interval] | None:
    """Intervals without a finite set of points."""
    points = _values(removed.items) if isinstance(removed, Group) and removed.opening == r"\{" else None
    if points is None:
        return None
    for point in points:
        place = approximate(point.node)
        if place is None:
            return None
        cut: list[Interval] = []
        for interval in intervals:
            low, high = _place(interval)
            if low < place < high:
                cut.append(Interval(interval.low, point, interval.closed_below, False))
                cut.append(Interval(point, interval.high, False, interval.closed_above))
            else:
                cut.append(interval)
        intervals = cut
    return intervals
