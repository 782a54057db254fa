"""What test code holds in place of the tested code's names and objects.

A result that is no data (an instance of a tested class) is a stand-in: its methods can be called, its attributes and
items read and set, but it has no equality, and where the test did not make it itself no order, truth or arithmetic with
data either, since those would be the tested code's word: `abs(f() - 3) < 1e-6` is no test of an `f` whose result
subtracts to 0. An object is made by the test if it comes from calling a name with a capital, as classes have it: there
`Money(3) < Money(5)` tests what it says.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from h1r.sandbox import structures
from h1r.sandbox.functions import function_form
from h1r.sandbox.raised import Exceptions, TestedCodeEndedError
from h1r.sandbox.sameness import Seen, Shown
from h1r.sandbox.values import CHANNEL, FrameReader, decode, dump_frame, encode, read_frame, write_all

_LARGEST_BATCH = 256
_DATA = (int, float, complex, str, bytes, list, tuple, dict, set, frozenset, BaseException)
_READABLE = frozenset(("__name__", "__qualname__", "__doc__"))


class Link:
    """The way to the tested code, and what is known of the test under way."""

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader
        self.exceptions = Exceptions()
        self.used = False
        self.shows_changes = False
        self.shows_states = False
        self.seen = Seen()

    def named(self, name: str) -> Any:
        """What stands for a name: a class where the test expects it to be an exception, else a stand-in."""
        if name not in self.exceptions.expected:
            return StandIn(self, name)
        known = self.exceptions.own.get(name)
        return known or self.exceptions.define(name, self._kinds(name))

    def _kinds(self, name: str) -> list[list[str]]:
        reply = self._exchange({"do": "kinds", "target": name})
        return list(reply["value"]) if isinstance(reply.get("value"), list) else []

    def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        write_all(CHANNEL, dump_frame({**message, "objects": True, "states": self.shows_states}))
        self.seen.tick()
        reply = read_frame(CHANNEL, self._reader)
        if reply is None:
            raise TestedCodeEndedError
        return reply

    def reply(self, message: dict[str, Any]) -> dict[str, Any]:
        """The reply with a value; raises what the tested code raised."""
        self.used = True
        reply = self._exchange(message)
        if isinstance(reply.get("printed"), str):
            sys.stdout.write(reply["printed"])
        if "value" in reply:
            return reply
        args, attributes = decode(reply.get("args") or []), decode(reply.get("attributes") or {"!": "dict", "v": []})
        raise self.exceptions.make(reply, args, attributes)

    def ask(self, message: dict[str, Any]) -> Any:
        return self.decode(self.reply(message)["value"])

    def call(self, target: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {str(index): value for index, value in enumerate(args)} | kwargs
        reply = self.reply({
            "do": "call",
            "target": target,
            "args": [self.encode(value) for value in args],
            "kwargs": {name: self.encode(value) for name, value in kwargs.items()},
        })  # fmt: skip
        result = self.decode(reply["value"])
        changed = reply.get("changed")
        if isinstance(changed, dict) and "self" in changed:
            self.decode(changed.pop("self"))
        if isinstance(changed, dict) and (result is None or self.shows_changes):
            for name, form in changed.items():
                if name in given:
                    renew(given[name], self.decode(form))
        return result

    def encode(self, value: Any) -> Any:
        return encode(value, _stands_for)

    def decode(self, form: Any) -> Any:
        return decode(form, self._refer)

    def _refer(self, form: dict[str, Any]) -> Any:
        if form["!"] == "ListNode":
            return structures.list_node(decode(form["v"]))
        if form["!"] == "TreeNode":
            return structures.tree_node(decode(form["v"]))
        if form["!"] == "ndarray":
            return structures.array(decode(form["v"]), str(form["dtype"]))
        if form["!"] == "namedtuple":
            return _named_tuple(str(form["name"]), tuple(map(str, form["fields"])))(*map(self.decode, form["v"]))
        number, kinds = int(form["v"]), _kinds(form.get("kinds"))
        if form.get("awaits"):
            return self._awaited(number)
        state = [(str(name), self.decode(one)) for name, one in form.get("state") or []]
        form_of_state = form.get("state") if self.shows_states else None
        shown = self.seen.describe(number, [name for _, name in kinds], form.get("member"), state, form_of_state)
        base = IteratorStandIn if form.get("iterates") else StandIn
        kind = type(kinds[0][1], (base,), {}) if kinds else base
        return kind(self, number, bool(form.get("callable")), kinds, shown)

    async def _awaited(self, number: int) -> Any:
        return self.ask({"do": "await", "target": number})


@lru_cache(maxsize=256)
def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name if name.isidentifier() else "Tuple", fields, rename=True)


def _kinds(given: Any) -> list[tuple[str, str]]:
    pairs = [pair for pair in given or [] if isinstance(pair, list) and len(pair) == 2][:32]
    return [(str(module)[:200], str(name)[:200].replace("\0", "")) for module, name in pairs]


def renew(old: Any, new: Any) -> None:
    """Gives a container the content of another one, in place, and the containers in it as far as both have them."""
    if isinstance(old, list) and isinstance(new, list):
        old[:] = [_renewed(one, other) for one, other in zip(old, new, strict=False)] + new[len(old) :]
    elif isinstance(old, dict) and isinstance(new, dict):
        items = {key: _renewed(old[key], value) if key in old else value for key, value in new.items()}
        old.clear()
        old.update(items)
    elif isinstance(old, set) and isinstance(new, (set, frozenset)):
        old.clear()
        old.update(new)
    elif isinstance(old, (bytearray, collections.deque)) and isinstance(new, (bytes, collections.deque)):
        old.clear()
        old.extend(new)
    elif type(old) is type(new) and isinstance(old, (structures.ListNode, structures.TreeNode)):
        old.__dict__.update(new.__dict__)
    elif type(old).__name__ == "ndarray" and getattr(new, "shape", None) == old.shape:
        old[...] = new


def _renewed(old: Any, new: Any) -> Any:
    if isinstance(old, (list, dict, set, bytearray, collections.deque)) and isinstance(new, type(old)):
        renew(old, new)
        return old
    return new


def _stands_for(value: Any) -> dict[str, Any]:
    if isinstance(value, StandIn):
        target = object.__getattribute__(value, "_target")
        return {"!": "object" if isinstance(target, int) else "name", "v": target}
    if isinstance(value, structures.ListNode):
        return {"!": "ListNode", "v": encode(structures.list_values(value))}
    if isinstance(value, structures.TreeNode):
        return {"!": "TreeNode", "v": encode(structures.tree_values(value))}
    if type(value).__name__ == "ndarray":
        return {"!": "ndarray", "v": encode(value.tolist()), "dtype": str(value.dtype)}
    if hasattr(value, "__next__") and hasattr(value, "__iter__"):
        return {"!": "iterator", "v": [encode(item, _stands_for) for item in value]}
    return function_form(value, lambda inner: encode(inner, _stands_for))


def _binary(name: str, swapped: bool = False) -> Callable[..., Any]:
    def operate(self: StandIn, other: Any) -> Any:
        if not _is_made_by_the_test(self) or (isinstance(other, StandIn) and not _is_made_by_the_test(other)):
            return NotImplemented
        found = self._ask("operate", name=name, operands=[self._link.encode(other)], swapped=swapped)
        return _made_by_the_test(found)

    return operate


def _unary(name: str) -> Callable[..., Any]:
    def operate(self: StandIn) -> Any:
        if not _is_made_by_the_test(self):
            raise TypeError("an object of the tested code has no arithmetic of its own")
        return _made_by_the_test(self._ask("operate", name=name, operands=[], swapped=False))

    return operate


def _made_by_the_test(value: Any) -> Any:
    if isinstance(value, StandIn):
        object.__setattr__(value, "_made_by_test", True)
    return value


def _is_made_by_the_test(value: Any) -> bool:
    return isinstance(value, StandIn) and bool(object.__getattribute__(value, "_made_by_test"))


class StandIn:
    """A name or an object of the tested code."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        link: Link,
        target: int | str,
        is_callable: bool = True,
        kinds: list[tuple[str, str]] | None = None,
        shown: Shown | None = None,
    ) -> None:
        for name, value in (("_link", link), ("_target", target), ("_is_callable", is_callable),
                            ("_of", kinds or []), ("_shown", shown), ("_made_by_test", False)):  # fmt: skip
            object.__setattr__(self, name, value)

    def _ask(self, action: str, **fields: Any) -> Any:
        return self._link.ask({"do": action, "target": self._target, **fields})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._is_callable:
            raise TypeError("the tested code's object is not callable")
        result = self._link.call(self._target, args, kwargs)
        if isinstance(self._target, str) and self._target[:1].isupper() and isinstance(result, StandIn):
            self._link.seen.make(result._target, self._target, args, kwargs)
            return _made_by_the_test(result)
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _READABLE:
            raise AttributeError(name)
        found = self._ask("get", name=name)
        if isinstance(found, StandIn) and isinstance(self._target, str) and isinstance(found._target, int):
            self._link.seen.name(found._target, self._target, name)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", name=name, value=self._link.encode(value))

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key=self._link.encode(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set_item", key=self._link.encode(key), value=self._link.encode(value))

    def __delitem__(self, key: Any) -> None:
        self._ask("delete_item", key=self._link.encode(key))

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._ask("list")))

    def __contains__(self, item: Any) -> bool:
        if _is_made_by_the_test(self):
            return self._ask("operate", name="contains", operands=[self._link.encode(item)], swapped=False) is True
        return any(item is one or item == one for one in self)

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __bool__(self) -> bool:
        if _is_made_by_the_test(self):
            return self._ask("operate", name="truth", operands=[], swapped=False) is True
        return True

    def __enter__(self) -> Any:
        return self._ask("get", name="__enter__")()

    def __exit__(self, *_: object) -> None:
        self._ask("get", name="__exit__")(None, None, None)

    def __eq__(self, other: object) -> bool:
        """Two objects, where one is what the test made of values that the other one showed before; see `sameness`."""
        return isinstance(other, StandIn) and True in self._answers(other) and self._says_equal(other)

    def __ne__(self, other: object) -> bool:
        if not isinstance(other, StandIn) or False not in self._answers(other):
            raise TypeError("an object of the tested code cannot be compared")
        return not self._says_equal(other)

    def _answers(self, other: StandIn) -> tuple[bool | None, bool | None]:
        seen = self._link.seen
        return (
            seen.answers(self._target, self._shown, other._target),
            seen.answers(other._target, other._shown, self._target),
        )

    def _says_equal(self, other: StandIn) -> bool:
        return self._ask("operate", name="eq", operands=[self._link.encode(other)], swapped=False) is True

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of an installed module, where the object is of one, so that `isinstance` knows it."""
        for module, name in object.__getattribute__(self, "_of")[:1]:
            home = sys.modules.get(module) if module not in ("builtins", "__main__", "checks") else None
            kind = vars(home).get(name) if home is not None else None
            if isinstance(kind, type) and not issubclass(kind, _DATA):
                return kind
        return type(self)

    def __instancecheck__(self, instance: Any) -> bool:
        own = str(self._target).rpartition(".")[2]
        return isinstance(instance, StandIn) and any(
            name == own for _, name in object.__getattribute__(instance, "_of")
        )

    __int__, __float__ = _unary("int"), _unary("float")
    __neg__, __pos__, __abs__, __invert__ = _unary("neg"), _unary("pos"), _unary("abs"), _unary("invert")
    __lt__, __le__, __gt__, __ge__ = _binary("lt"), _binary("le"), _binary("gt"), _binary("ge")
    __add__, __radd__ = _binary("add"), _binary("add", swapped=True)
    __sub__, __rsub__ = _binary("sub"), _binary("sub", swapped=True)
    __mul__, __rmul__ = _binary("mul"), _binary("mul", swapped=True)
    __truediv__, __rtruediv__ = _binary("truediv"), _binary("truediv", swapped=True)
    __floordiv__, __mod__, __pow__, __matmul__ = map(_binary, ("floordiv", "mod", "pow", "matmul"))
    __and__, __or__, __xor__ = map(_binary, ("and_", "or_", "xor"))


class IteratorStandIn(StandIn):
    """A generator or another iterator, whose items come when they are asked for, a few at a time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        object.__setattr__(self, "_waiting", collections.deque())
        object.__setattr__(self, "_fetched", 0)
        object.__setattr__(self, "_ended", False)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._waiting and not self._ended:
            count = 1 if self._fetched < 8 else min(self._fetched, _LARGEST_BATCH)
            reply = self._link.reply({"do": "next", "target": self._target, "count": count})
            items = self._link.decode(reply["value"])
            self._waiting.extend(items)
            object.__setattr__(self, "_fetched", self._fetched + len(items))
            object.__setattr__(self, "_ended", reply.get("exhausted") is not False)
        if not self._waiting:
            raise StopIteration
        return self._waiting.popleft()

    def __bool__(self) -> bool:
        return True
