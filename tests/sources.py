"""The sources of the package as trees, read once however many tests look at them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All statements at any depth, without the many expressions in them."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for name in _BLOCKS:
            waiting += getattr(node, name, ())


@cache
def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """What a file imports anywhere in it, TYPE_CHECKING blocks and functions included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in statements(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
