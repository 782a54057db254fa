"""When two objects of the tested code are the same to a test: `assert middle(a, b) == Point(1, 1)`.

The tested code's own word is not enough: its `==` may be true of everything. So one of the two has to be what the test
itself made, by calling a class with values, or named, as a member of an enumeration; and the other one has to have
shown just these values, or this name, before the tested code was told them. Then its own `==` has to hold as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shown:
    """What an object was when it came out, and when. `kinds`: its class and those above; `form`: its state as sent."""

    when: int
    kinds: tuple[str, ...]
    member: str | None
    state: tuple[tuple[str, Any], ...] | None
    form: Any


@dataclass(frozen=True, slots=True)
class _Made:
    """What the test made an object of, or the name by which it got it last."""

    when: int
    kind: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    member: str | None = None


class Seen:
    """What is known of the objects, by number. Time is counted in exchanges with the tested code."""

    def __init__(self) -> None:
        self._now = 0
        self._shown: dict[Any, Shown] = {}
        self._made: dict[Any, _Made] = {}

    def tick(self) -> None:
        self._now += 1

    def describe(self, number: int, kinds: list[str], member: Any, state: Any, form: Any) -> Shown:
        before, made = self._shown.get(number), self._made.get(number)
        if made is not None and made.member is None and before is not None and before.form != form:
            del self._made[number]  # it is no longer what the test made
        name = str(member) if isinstance(member, str) else None
        shown = Shown(self._now, tuple(kinds), name, None if form is None else tuple(state), form)
        self._shown[number] = shown
        return shown

    def make(self, number: Any, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._made[number] = _Made(self._now, kind.rpartition(".")[2], args, tuple(kwargs.items()))

    def name(self, number: Any, kind: str, member: str) -> None:
        self._made[number] = _Made(self._now, kind.rpartition(".")[2], member=member)

    def answers(self, result: Any, came: Shown | None, expected: Any) -> bool | None:
        """Whether an object showed what `expected` was made of later; None where it cannot be said.

        `came`: what it showed when it came out, which is what counts for a member: all that name one are one object.
        """
        made = self._made.get(expected)
        shown = came if made is not None and made.member is not None else self._shown.get(result)
        if shown is None or made is None or shown.when >= made.when:
            return None
        if made.kind not in shown.kinds[:1]:
            return False
        if made.member is not None:
            return shown.member == made.member
        if shown.state is None or len(shown.state) < len(made.args):
            return None
        by_name = {name.lstrip("_"): value for name, value in shown.state}
        positional = zip(made.args, (value for _, value in shown.state), strict=False)
        named = ((value, by_name.get(name, _MISSING)) for name, value in made.kwargs)
        return all(_equal(given, found) for given, found in (*positional, *named))


_MISSING = object()


def _equal(given: Any, found: Any) -> bool:
    if hasattr(type(given), "_says_equal"):
        return bool(found == given)
    return type(given) is type(found) and bool(given == found)
