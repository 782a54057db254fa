"""Test code with assertions, run apart from the code it tests.

The test code runs here, in a sandbox of its own, and the tested names are stand-ins: calling one asks the parent to
have the call made in the other sandbox, and brings back plain data. So an assertion compares data with data, in an
interpreter that the tested code never entered, and the expected values never leave it.

A result that is no data (an instance of a tested class) is a stand-in as well: its methods can be called, its
attributes and items read, but it has no equality, order, truth or arithmetic of its own, since those would be the
tested code's word. Every report carries the nonce that only the parent and this process know.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

from h1r.sandbox import structures
from h1r.sandbox.inside import CHANNEL, prelude
from h1r.sandbox.values import FrameReader, OneShot, decode, dump_frame, encode, read_frame, write_all


class TestedCodeEndedError(Exception):
    """The tested code's process is gone; no later call can succeed."""


class _Link:
    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader

    def ask(self, message: dict[str, Any]) -> Any:
        write_all(CHANNEL, dump_frame({**message, "objects": True}))
        reply = read_frame(CHANNEL, self._reader)
        if reply is None or "ended" in reply:
            raise TestedCodeEndedError
        if "value" in reply:
            return self.decode(reply["value"])
        kind = getattr(builtins, str(reply.get("raised")), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            raise _exception(kind, str(reply.get("text")))
        raise RuntimeError(f"the tested code raised {reply.get('raised')}: {reply.get('text')}")

    def encode(self, value: Any) -> Any:
        return encode(value, _stands_for)

    def decode(self, form: Any) -> Any:
        return decode(form, self._refer)

    def _refer(self, form: dict[str, Any]) -> Any:
        if form["!"] == "ListNode":
            return structures.list_node(decode(form["v"]))
        if form["!"] == "TreeNode":
            return structures.tree_node(decode(form["v"]))
        return StandIn(self, int(form["v"]), bool(form.get("callable")))


def _exception(kind: type[Exception], text: str) -> Exception:
    try:
        return kind(text)
    except TypeError:  # a UnicodeDecodeError has no such constructor
        return RuntimeError(f"{kind.__name__}: {text}")


def _stands_for(value: Any) -> dict[str, Any]:
    if isinstance(value, StandIn):
        target = object.__getattribute__(value, "_target")
        if isinstance(target, int):
            return {"!": "object", "v": target}
    elif isinstance(value, structures.ListNode):
        return {"!": "ListNode", "v": encode(structures.list_values(value))}
    elif isinstance(value, structures.TreeNode):
        return {"!": "TreeNode", "v": encode(structures.tree_values(value))}
    raise ValueError(f"a {type(value).__name__} cannot be given to code in another process")


class StandIn:
    """A name or an object of the tested code."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, link: _Link, target: int | str, is_callable: bool = True) -> None:
        self._link = link
        self._target = target
        self._is_callable = is_callable

    def _ask(self, action: str, **fields: Any) -> Any:
        return self._link.ask({"do": action, "target": self._target, **fields})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._is_callable:
            raise TypeError("the tested code's object is not callable")
        encoded = {name: self._link.encode(value) for name, value in kwargs.items()}
        return self._ask("call", args=[self._link.encode(value) for value in args], kwargs=encoded)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", name=name)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key=self._link.encode(key))

    def __len__(self) -> int:
        return int(self._ask("len"))

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._ask("list")))

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        raise TypeError("an object of the tested code cannot be compared")


def run_checks(job: dict[str, Any], reader: FrameReader) -> None:
    """Runs `setup`, then each of `tests` in turn, and reports `{"test", "passed", "error", "nonce"}` for each.

    `names` are the tested names that the test code uses. They are put in place after `setup`, which may hold stubs of
    them, and again before each test, since test code may define them too.
    """
    link = _Link(reader)
    scope: dict[str, Any] = {**prelude(), **structures.NAMES, "__name__": "checks", "__builtins__": builtins}
    error: str | None = None
    try:
        exec(compile(job["setup"], "setup.py", "exec", dont_inherit=True), scope)
    except BaseException as failure:
        error = f"setup: {type(failure).__name__}: {failure}"
    tested = {name: StandIn(link, name) for name in job["names"]}
    for index, test in enumerate(job["tests"]):
        scope |= tested
        why = error
        if why is None:
            try:
                exec(compile(test, "test.py", "exec", dont_inherit=True), scope)
            except BaseException as failure:
                why = f"{type(failure).__name__}: {failure}"[:500]
        report = {"test": index, "passed": why is None, "error": why, "nonce": job["nonce"]}
        write_all(CHANNEL, dump_frame(report))
        if why is not None and job["stop"]:
            return


__all__ = ["OneShot", "StandIn", "run_checks"]
