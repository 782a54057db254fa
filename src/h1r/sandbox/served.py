"""The tested side of a function test: answers calls, and keeps the objects that are no data.

It is given arguments and gives results, and knows no expected value. Nothing of it is trusted by the parent.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from h1r.sandbox import structures
from h1r.sandbox.digest import digest, is_beyond
from h1r.sandbox.values import decode, encode


def reply(action: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": action()}
    except BaseException as error:
        return _raised(error)


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:500]
    except BaseException:
        text = ""
    return {"raised": type(error).__name__, "text": text}


_ACTIONS: dict[str, Callable[[Any], Any]] = {"len": len, "str": str, "repr": repr, "list": list}


class Server:
    """The tested names, and the objects that results referred to, by number."""

    def __init__(self, module: types.ModuleType, announce: Callable[[], None] = lambda: None) -> None:
        self.module = module
        self.announce = announce
        self.kept: list[Any] = []

    def load(self, parts: list[str]) -> bool:
        for part in parts:
            exec(compile(part, "solution.py", "exec", dont_inherit=True), self.module.__dict__)
        return True

    def do(self, message: dict[str, Any]) -> Any:
        target = self._target(message["target"])
        action = message["do"]
        if action == "get":
            result = getattr(target, message["name"])
        elif action == "item":
            result = target[self._decode(message["key"])]
        elif action in _ACTIONS:
            result = _ACTIONS[action](target)
        else:
            args = [self._decode(item) for item in message["args"]]
            result = target(*args, **{name: self._decode(item) for name, item in message.get("kwargs", {}).items()})
        if "digest_beyond" in message and is_beyond(result, message["digest_beyond"]):
            self.announce()
            return {"!": "digest", "v": digest(result)}
        return encode(result, self._keep if message.get("objects") else None)

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
        self.kept.append(value)
        return {"!": "object", "v": len(self.kept) - 1, "callable": callable(value)}

    def _decode(self, form: Any) -> Any:
        return decode(form, self._refer)

    def _refer(self, form: dict[str, Any]) -> Any:
        if form["!"] == "object":
            return self.kept[form["v"]]
        names = self.module.__dict__
        if form["!"] == "ListNode":
            return structures.list_node(decode(form["v"]), names.get("ListNode", structures.ListNode))
        return structures.tree_node(decode(form["v"]), names.get("TreeNode", structures.TreeNode))
