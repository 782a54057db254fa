"""Python's own parser, asked by several threads at once."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import h1r
from h1r.common import syntax

HOME = Path(h1r.__file__).parent
ALONE = ("common/syntax.py", "sandbox/checks.py")
"""Who may ask it: the module that takes turns, and what runs beside tested code, alone in its process."""


def faults(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """What another thread does to CPython 3.11: the first calls end in an error that is not of their source."""
    real, left = ast.parse, [count]

    def parse(*given: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise SystemError("AST constructor recursion depth mismatch (before=39, after=31)")
        return real(*given, **more)

    monkeypatch.setattr(ast, "parse", parse)


def test_another_thread_that_parses_is_no_error_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    faults(monkeypatch, 3)
    assert isinstance(syntax.parse("x = 1").body[0], ast.Assign)
    faults(monkeypatch, 2)
    assert syntax.literal(" [1, {'a': -2}]") == [1, {"a": -2}]


def test_an_error_that_stays_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    faults(monkeypatch, 1000)
    with pytest.raises(SystemError, match="recursion depth"):
        syntax.expression("1")


@pytest.mark.parametrize("source", ["f(", "\0", "1 +"])
def test_an_error_of_the_source_is_told_at_once(source: str) -> None:
    with pytest.raises((SyntaxError, ValueError)):
        syntax.parse(source)


def test_nobody_parses_without_asking_there() -> None:
    asks = re.compile(r"\bast\.(parse|literal_eval)\((?!one\.value)|PyCF_ONLY_AST")
    found = {
        path.relative_to(HOME).as_posix()
        for path in HOME.rglob("*.py")
        if asks.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALONE)
