"""The tested side of a function test: answers calls, and keeps the objects that are no data.

    {"do": "call", "target", "args", "kwargs"}    -> {"value"}, or {"raised", "text", "kinds", "args", "attributes"}
    {"do": "get" | "set" | "item" | "set_item" | "delete_item" | "len" | "str" | "repr" | "list" | "next" | "operate"}

A target is a number of a kept object, or a dotted name. With `objects`, what is no data stays here, and a reference
goes out; a call then also says which of its arguments it `changed`, and what it `printed`.

This side is given arguments and gives results, and knows no expected value. Nothing of it is trusted by the parent.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import inspect
import io
import itertools
import json
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

from h1r.sandbox import structures
from h1r.sandbox.digest import digest, is_beyond
from h1r.sandbox.functions import given_function
from h1r.sandbox.values import decode, encode

MAX_PRINTED_CHARS = 1 << 20
MAX_KINDS = 32
MAX_STATE_DEPTH, MAX_STATE_CHARS = 3, 1 << 16
_SELF = "self"
"""Among what a call changed: the object whose method it was."""
OPERATORS = frozenset((
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift", "rshift", "neg",
    "pos", "abs", "invert", "eq", "lt", "le", "gt", "ge", "contains", "truth", "int", "float", "hash",
))  # fmt: skip
_NOT_OF_OPERATOR: dict[str, Callable[..., Any]] = {"int": int, "float": float, "hash": hash}
_MUTABLE = (list, dict, set, bytearray, collections.deque)
_ACTIONS: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "str": str,
    "repr": repr,
    "list": list,
    "await": lambda coroutine: __import__("asyncio").run(coroutine),
}


def reply(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The reply of an action, or what it raised."""
    try:
        return action()
    except BaseException as error:
        return raised(error)


def raised(error: BaseException) -> dict[str, Any]:
    """An exception: its class by name, and the classes that this one derives from, as (module, name)."""
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    found: dict[str, Any] = {"raised": type(error).__name__, "text": text, "kinds": kinds_of(type(error))}
    with contextlib.suppress(Exception):
        own = {name: value for name, value in vars(error).items() if not name.startswith("__")}
        found |= {"args": encode(list(error.args)), "attributes": encode(own)}
    return found


def kinds_of(kind: type) -> list[list[str]]:
    return [[str(one.__module__), one.__name__] for one in type.mro(kind)[:MAX_KINDS] if one is not object]


class Server:
    """The tested names, and the objects that results referred to, by number."""

    def __init__(self, module: types.ModuleType, announce: Callable[[], None] = lambda: None) -> None:
        self.module = module
        self.announce = announce
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.shows_states = False
        self.described: list[int] = []

    def load(self, parts: list[str]) -> dict[str, Any]:
        for part in parts:
            exec(compile(part, "solution.py", "exec", dont_inherit=True), self.module.__dict__)
        return {"value": True}

    def do(self, message: dict[str, Any]) -> dict[str, Any]:
        """The reply to a message; raises what the tested code raises."""
        if message.get("objects"):
            with _captured() as printed:
                found = reply(lambda: self._do(message))
            return found | ({"printed": text} if (text := printed.getvalue()[:MAX_PRINTED_CHARS]) else {})
        return self._do(message)

    def _do(self, message: dict[str, Any]) -> dict[str, Any]:
        self.shows_states = bool(message.get("states"))
        keep = self._keep if message.get("objects") else None
        changed: dict[str, Any] = {}
        if message["do"] == "call":
            result, changed = self._call(message)
        elif message["do"] == "next":
            items = list(itertools.islice(self._target(message["target"]), int(message["count"])))
            return {"value": [encode(item, keep) for item in items], "exhausted": len(items) < int(message["count"])}
        else:
            result = self._access(message)
        if self.shows_states:
            owner = getattr(self._target(message["target"]), "__self__", None)
            if id(owner) in self.numbers:
                changed = {**changed, _SELF: self._keep(owner)}
        if "digest_beyond" in message and is_beyond(result, message["digest_beyond"]):
            self.announce()
            return {"value": {"!": "digest", "v": digest(result)}}
        return {"value": encode(result, keep)} | ({"changed": changed} if changed else {})

    def _call(self, message: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The result, and the new forms of arguments that the call changed in place, by position or name."""
        target = self._target(message["target"])
        given: dict[str, Any] = {str(index): form for index, form in enumerate(message["args"])}
        named = message.get("kwargs", {})
        values = {name: self._decode(form) for name, form in {**given, **named}.items()}
        result = target(*(values[name] for name in given), **{name: values[name] for name in named})
        changed = {}
        for name, form in {**given, **named}.items() if message.get("objects") else ():
            if isinstance(values[name], _MUTABLE) or type(values[name]).__name__ in ("ListNode", "TreeNode", "ndarray"):
                now = encode(values[name], self._keep)
                if now != form:
                    changed[name] = now
        return result, changed

    def _access(self, message: dict[str, Any]) -> Any:
        action, target = message["do"], self._target(message["target"])
        if action == "get":
            return getattr(target, message["name"])
        if action == "set":
            return setattr(target, message["name"], self._decode(message["value"]))
        if action == "item":
            return target[self._decode(message["key"])]
        if action == "set_item":
            return operator.setitem(target, self._decode(message["key"]), self._decode(message["value"]))
        if action == "delete_item":
            return operator.delitem(target, self._decode(message["key"]))
        if action == "kinds":
            return kinds_of(target) if isinstance(target, type) else []
        if action == "operate":
            return self._operate(message["name"], [target, *map(self._decode, message["operands"])], message["swapped"])
        return _ACTIONS[action](target)

    def _operate(self, name: str, operands: list[Any], swapped: bool) -> Any:
        if name not in OPERATORS:
            raise ValueError(f"no operator {name}")
        function = _NOT_OF_OPERATOR.get(name) or getattr(operator, name)
        return function(*(operands[::-1] if swapped else operands))

    def _target(self, target: Any) -> Any:
        """A number of a kept object, or a dotted name; `Solution().name` is a method of a fresh instance."""
        if isinstance(target, int):
            return self.kept[target]
        names = self.module.__dict__
        first, *rest = target.split(".")
        found = names[first[:-2]]() if first.endswith("()") else names[first]
        for name in rest:
            found = getattr(found, name)
        return found

    def _keep(self, value: Any) -> dict[str, Any]:
        kind = type(value).__name__
        if kind == "ListNode":
            return {"!": "ListNode", "v": encode(structures.list_values(value))}
        if kind == "TreeNode":
            return {"!": "TreeNode", "v": encode(structures.tree_values(value))}
        if isinstance(value, tuple):
            fields = [str(name) for name in type(value)._fields]  # type: ignore[attr-defined]
            items = [encode(item, self._keep) for item in tuple.__iter__(value)]
            return {"!": "namedtuple", "v": items, "name": kind, "fields": fields}
        if kind == "ndarray":
            return {"!": "ndarray", "v": encode(value.tolist()), "dtype": str(value.dtype)}
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.kept)
            self.kept.append(value)
        is_iterator = hasattr(value, "__next__") and hasattr(value, "__iter__")
        return {
            "!": "object",
            "v": number,
            "callable": callable(value),
            "kinds": kinds_of(type(value)),
            "iterates": is_iterator,
            "awaits": inspect.iscoroutine(value),
            **(self._state(value) if self.shows_states else {}),
        }

    def _state(self, value: Any) -> dict[str, Any]:
        """What an instance is made of, by name and in order, or which member of an enumeration it is."""
        if isinstance(value, enum.Enum):
            return {"member": value.name}
        if callable(value) or id(value) in self.described or len(self.described) > MAX_STATE_DEPTH:
            return {}
        self.described.append(id(value))
        try:
            slots = getattr(type(value), "__slots__", ())
            names = vars(value) if hasattr(value, "__dict__") else [name for name in slots if hasattr(value, name)]
            form = [[name, encode(getattr(value, name), self._keep)] for name in names]
            return {"state": form} if len(json.dumps(form)) <= MAX_STATE_CHARS else {}
        except Exception:
            return {}
        finally:
            self.described.pop()

    def _decode(self, form: Any) -> Any:
        return decode(form, self._refer)

    def _refer(self, form: dict[str, Any]) -> Any:
        if form["!"] == "object":
            return self.kept[form["v"]]
        if form["!"] == "name":
            return self._target(form["v"])
        if form["!"] == "ndarray":
            return structures.array(decode(form["v"]), form["dtype"])
        if form["!"] == "function":
            return given_function(form, self._decode)
        names = self.module.__dict__
        if form["!"] == "ListNode":
            return structures.list_node(decode(form["v"]), names.get("ListNode", structures.ListNode))
        return structures.tree_node(decode(form["v"]), names.get("TreeNode", structures.TreeNode))


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    """What is printed in the meantime."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        yield printed
