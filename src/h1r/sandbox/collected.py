"""Test functions and test cases, run one by one, where test code only defines them.

`run_collected("test_f")` runs a function of pytest's kind with its fixtures and each of its parameters,
`run_collected("TestX.test_f")` a method of a class of theirs or of a `unittest.TestCase`, with what is set up before
and torn down after it. It raises what fails.
"""

from __future__ import annotations

import asyncio
import inspect
import unittest
from collections.abc import Callable
from typing import Any

from h1r.sandbox import pytest_names


def run_collected(scope: dict[str, Any], name: str) -> None:
    first, _, rest = name.partition(".")
    found = scope[first]
    if not rest:
        _run_functions(scope, found, ())
    elif issubclass(found, unittest.TestCase):
        _run_case(scope, found, rest)
    else:
        instance = found()
        _call_if_there(found, "setup_class")
        _call_if_there(instance, "setup_method")
        try:
            _run_functions(scope, getattr(instance, rest), tuple(pytest_names.marks(found)))
        finally:
            _call_if_there(instance, "teardown_method")
            _call_if_there(found, "teardown_class")


def _call_if_there(owner: Any, name: str) -> None:
    function = getattr(owner, name, None)
    if function is not None:
        function(*[None] * len([one for one in inspect.signature(function).parameters.values()
                                if one.default is one.empty]))  # fmt: skip


def _run_case(scope: dict[str, Any], kind: type[unittest.TestCase], name: str) -> None:
    result = unittest.TestResult()
    if "setUpModule" in scope:
        scope["setUpModule"]()
    kind.setUpClass()
    try:
        kind(name).run(result)
    finally:
        kind.tearDownClass()
        kind.doClassCleanups()
    for _, text in [*result.failures, *result.errors]:
        last = text.strip().splitlines()[-1]
        raise AssertionError(last.removeprefix("AssertionError: ")) if result.failures else RuntimeError(last)
    if result.unexpectedSuccesses:
        raise AssertionError("a test that was expected to fail did not")
    if result.skipped or result.expectedFailures:
        raise pytest_names.SkippedError("a test that is skipped, or expected to fail")


def _run_functions(scope: dict[str, Any], function: Callable[..., Any], outer: tuple[Any, ...]) -> None:
    """The function with each set of its parameters."""
    for values in pytest_names.parameters([*outer, *pytest_names.marks(function)]):
        finals: list[Any] = []
        try:
            names = inspect.signature(function).parameters
            given = {name: _fixture(scope, name, values, finals) for name, one in names.items()
                     if name in values or one.default is one.empty}  # fmt: skip
            outcome = function(**given)
            if inspect.iscoroutine(outcome):
                asyncio.run(outcome)
        finally:
            for generator in reversed(finals):
                next(generator, None)


def _fixture(scope: dict[str, Any], name: str, values: dict[str, Any], finals: list[Any]) -> Any:
    """The value of a parameter: given, or made by the fixture of that name, with those that it asks for."""
    if name in values:
        return values[name]
    made = pytest_names.fixture_function(scope.get(name)) or pytest_names.BUILT_IN.get(name)
    if made is None:
        raise LookupError(f"no fixture {name}")
    outcome = made(**{inner: _fixture(scope, inner, values, finals) for inner in inspect.signature(made).parameters})
    if inspect.isgenerator(outcome):
        finals.append(outcome)
        return next(outcome)
    values[name] = outcome
    return outcome
