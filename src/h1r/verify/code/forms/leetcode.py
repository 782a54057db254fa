"""Raw LeetCode: lists of values that stand for linked lists and trees, and classes tested call by call.

A stub (`starter_code`) of the problem says what becomes a `ListNode` or a `TreeNode`, and whether the result is an
argument that is changed in place; without one, the solution's own annotations say the former. A class is tested by

    ["LRUCache", "put", "get"]
    [[2], [1, 1], [1]]                ->      [null, null, 1]

All this happens around the call, beside the tested code, and comes out as data like any result.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from h1r.common.syntax import parse
from h1r.verify.code.forms.given import Given
from h1r.verify.code.sources import complete

_CAPITAL = re.compile(r"\A[A-Z]\w*+", re.ASCII)
_NODE = re.compile(r"ListNode|TreeNode")


def driver(given: Given) -> tuple[str, bool]:
    """Python that defines `drive`, and whether a changed argument may be the result."""
    arguments, result, returns_nothing = _kinds(given.stub or given.prompt, given.entry or "")
    code = (
        "def drive(*arguments):\n"
        "    from h1r.sandbox import structures\n"
        f"    return structures.drive(globals(), {given.entry!r}, arguments, {arguments!r}, {result!r})\n"
    )
    return code, returns_nothing is not False


def design_driver() -> str:
    return (
        "def drive(names, arguments):\n"
        "    from h1r.sandbox import structures\n"
        "    return structures.drive_design(globals(), names, arguments)\n"
    )


def is_design(arguments: list[list[Any]], expected: list[Any], entry: str | None) -> bool:
    """Whether every test is a class's name with methods, and their arguments, in two lists of one length."""
    return all(
        len(case) == 2
        and isinstance(result, list)
        and all(isinstance(part, list) and len(part) == len(result) > 0 for part in case)
        and all(isinstance(name, str) for name in case[0])
        and all(isinstance(values, list) for values in case[1])
        and result[0] is None
        and _CAPITAL.fullmatch(case[0][0]) is not None
        and entry in (None, case[0][0])
        for case, result in zip(arguments, expected, strict=True)
    )


def _kinds(stub: str, entry: str) -> tuple[list[str] | None, str, bool | None]:
    """The node kind of each argument and of the result in a stub, "" for none, and whether it returns None."""
    try:
        tree = parse(complete(stub))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None, "", None
    name = entry.rpartition(".")[2]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            arguments = [one for one in node.args.args if one.arg != "self"]
            nothing = None if node.returns is None else isinstance(node.returns, ast.Constant)
            return [_kind(one.annotation) for one in arguments], _kind(node.returns), nothing
    return None, "", None


def _kind(annotation: ast.expr | None) -> str:
    text = ast.unparse(annotation) if annotation is not None else ""
    found = _NODE.search(text)
    return ("" if found is None else found[0]) + ("s" if found and "list[" in text.lower() else "")
