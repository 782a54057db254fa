"""Test code.

    ["assert f(1) == 2"], {"assert": [...]}, {"test_list": [...]}                          MBPP, AceCode
    {"test": "def check(candidate): ..."} with `entry_point` and `prompt`                  HumanEval
    {"functional": "def check(candidate): ...\\ncheck(Solution().f)"}                       LeetCode

A `check` that nothing calls is called with the tested function, a main guard is run, and what is only defined goes to
`collected`. Test code that uses no name of the tested code is refused.
"""

from __future__ import annotations

import ast
import builtins
from functools import lru_cache
from typing import Any

from h1r.common.syntax import parse
from h1r.sandbox import structures
from h1r.sandbox.prelude import prelude
from h1r.verify.code.forms.collected import collected, without_guard
from h1r.verify.code.forms.given import Given
from h1r.verify.code.forms.shared_state import shared_state
from h1r.verify.code.kinds import CheckTests, TestsError
from h1r.verify.code.sources import complete

MODULES = frozenset(("solution", "solutions", "main", "answer", "submission", "your_module", "module", "code_solution"))
"""Names by which test code imports what it tests."""
_ALIASES = {"np": "import numpy as np", "pd": "import pandas as pd", "plt": "import matplotlib.pyplot as plt",
            "os": "import os", "unittest": "import unittest", "pytest": "import pytest",
            "mock": "from unittest import mock", "patch": "from unittest.mock import patch"}  # fmt: skip


def assertions(tests: list[str], given: Given, is_leetcode: bool = False) -> CheckTests:
    """Pieces of test code, in their order; one that holds functions or cases that nothing calls is as many pieces."""
    pieces = [piece for test in tests for piece in _pieces(test, given)]
    trees = [parse(piece) for piece in pieces]
    shown = given.entry is not None or bool(given.known.get("test_imports"))
    setup = "\n".join([given.prompt if shown else "", *map(str, given.known.get("test_imports") or [])])
    if not setup.strip():
        setup = ""
    names, modules = _tested(trees, given.entry, setup)
    used = _loaded(trees)
    imports = [line for name, line in _ALIASES.items() if name in used and name not in _bound(trees)]
    pieces = ["\n".join([*imports, piece]) if imports and "from __future__" not in piece else piece for piece in pieces]
    entry = given.entry
    return CheckTests(pieces, names, setup=setup, entry=entry, prelude=is_leetcode, modules=modules)


def _pieces(test: str, given: Given) -> list[str]:
    """A piece of test code such that all it holds runs."""
    if not isinstance(test, str):
        raise TestsError("test code that is no text")
    tree = parse(test)
    if why := shared_state(tree):
        raise TestsError(f"tests that need {why}, but that runs in another process")
    if found := collected(test, tree):
        return found
    test = without_guard(test, tree, run=True)
    tree = parse(test)
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    check = defined.get("check")
    if check is not None and not any(isinstance(node, ast.Name) and node.id == "check" for node in ast.walk(tree)):
        needed = len(check.args.args) - len(check.args.defaults)
        if needed and not given.entry:
            raise TestsError("a `check` that nothing calls, without the function's name (`entry_point`)")
        return [f"{test}\n\ncheck({given.entry if needed else ''})\n"]
    if tree.body and all(isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom))
                         for node in tree.body if not _is_text(node)) and (
            defined or any(isinstance(node, ast.ClassDef) for node in tree.body)):  # fmt: skip
        names = sorted(name for name in defined if name != "check")[:3]
        raise TestsError(f"tests that are defined and never called ({', '.join(names) or 'a class'})")
    return [test]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@lru_cache(maxsize=1)
def _known_names() -> frozenset[str]:
    return frozenset(dir(builtins)) | frozenset(prelude()) | frozenset(structures.NAMES) | {"__name__", "__file__"}


def _loaded(trees: list[ast.Module]) -> set[str]:
    return {node.id for tree in trees for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}  # fmt: skip


def _bound(trees: list[ast.Module]) -> set[str]:
    """The names that code defines itself, those that it imports from the tested code aside."""
    bound = {"run_collected"}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                bound.add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                bound.add(node.name)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, ast.Import):
                names = [alias for alias in node.names if alias.name not in MODULES]
                bound |= {(alias.asname or alias.name).partition(".")[0] for alias in names}
            elif isinstance(node, ast.ImportFrom) and node.module not in MODULES:
                bound |= {alias.asname or alias.name for alias in node.names}
            elif isinstance(node, ast.ExceptHandler) and node.name:
                bound.add(node.name)
    return bound


def _imported(trees: list[ast.Module]) -> tuple[set[str], set[str]]:
    """(names, modules) that test code imports from the tested code, the names as it calls them."""
    names: set[str] = set()
    modules: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES and not node.level:
            modules.add(node.module or "")
            names |= {alias.asname or alias.name for alias in node.names if alias.name != "*"}
        elif isinstance(node, ast.Import):
            found = {alias.name: alias.asname or alias.name for alias in node.names if alias.name in MODULES}
            modules |= found.keys()
            names |= set(found.values())
    return names, modules


def _tested(trees: list[ast.Module], entry: str | None, setup: str) -> tuple[list[str], list[str]]:
    """The tested names that are no imports, and the modules that stand for the tested code.

    Decided from the tests alone: if the tested code had a say, it could define `abs` or `isinstance` for its own tests.
    When every name is known (a solution called `gcd`), it is the one that all tests call first.
    """
    imported, modules = _imported(trees)
    loaded, bound = _loaded(trees), _bound(trees)
    names = loaded - bound - imported - _known_names() - _ALIASES.keys() - _defined(setup)
    first = entry.partition(".")[0].removesuffix("()") if entry else None
    if first is not None:
        names |= {first} - imported
    if not names and not imported:
        calls = {_first_call(tree) for tree in trees}
        (one,) = calls if len(calls) == 1 else ("",)
        names = {one} if one and not hasattr(builtins, one) and one not in bound else set()
    acts = any(isinstance(node, (ast.Call, ast.Assert)) for tree in trees for node in ast.walk(tree))
    if not acts or not (names | imported) & loaded:
        raise TestsError("tests that call nothing of the tested program")
    return sorted(names), sorted(modules)


def _defined(setup: str) -> set[str]:
    try:
        tree = parse(complete(setup))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found = _bound([ast.Module([node], []) for node in tree.body if not isinstance(node, ast.FunctionDef)])
    return found | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def _first_call(tree: ast.Module) -> str:
    calls = [(node.lineno, node.col_offset, node.func.id) for node in ast.walk(tree)
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]  # fmt: skip
    return min(calls)[2] if calls else ""


def test_text(tests: dict[str, Any]) -> list[str]:
    """The pieces of test code of a mapping with a key of theirs."""
    for key in ("functional", "test", "tests", "test_code", "unit_tests", "assert", "test_list", "test_cases"):
        if tests.get(key):
            found = tests[key]
            return [found] if isinstance(found, str) else list(found)
    raise TestsError("no tests")
