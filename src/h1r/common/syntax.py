"""`ast.parse` and `ast.literal_eval` for threads.

CPython 3.11 counts the depth of the tree that it makes in one place for all threads: where another thread parses in
between (a collection of garbage lets it), either call ends in `SystemError: AST constructor recursion depth mismatch`,
whatever its source is. Callers here take turns; who parses without asking here can still get in between, so that error
is tried again.
"""

from __future__ import annotations

import ast
import contextlib
import threading
from typing import Any, cast

_ONE_AT_A_TIME = threading.RLock()
TRIES = 20


def parse(source: str) -> ast.Module:
    """As `ast.parse`: `SyntaxError`, `ValueError`, `MemoryError` and `RecursionError` are of the source."""
    return cast(ast.Module, _parse(source, "exec"))


def expression(source: str) -> ast.expr:
    """The tree of one expression, with the errors of `parse`."""
    return cast(ast.Expression, _parse(source, "eval")).body


def literal(text: str) -> Any:
    """The value of a literal of Python, as `ast.literal_eval`, with its errors."""
    return ast.literal_eval(expression(text.lstrip(" \t")))


def _parse(source: str, mode: str) -> ast.AST:
    for _ in range(TRIES - 1):
        with contextlib.suppress(SystemError), _ONE_AT_A_TIME:
            return ast.parse(source, mode=mode)
    with _ONE_AT_A_TIME:
        return ast.parse(source, mode=mode)
