"""Pairs and columns of an input and an output, for programs and for functions.

    [{"input": "3\\n", "output": "6\\n"}]                      LiveCodeBench, Codeforces (`official_tests`)
    {"inputs": ["3\\n"], "outputs": ["6\\n"]}                  TACO, APPS; `input` and `output` are CodeContests
    {"public_tests": {...}, "private_tests": {...}}            CodeContests: all that are there, together
    {"language": "python", "test_cases": [...]}                open-r1, SYNTHETIC-1; {"input_output": "..."} APPS

An output that is a list holds lines where the input does too, and else the outputs that are all right.
"""

from __future__ import annotations

from typing import Any

from h1r.verify.code.forms.functions import call_tests
from h1r.verify.code.forms.given import Given
from h1r.verify.code.forms.referees import referee
from h1r.verify.code.kinds import StdinTests, Tests, TestsError

GROUPS = ("public_tests", "private_tests", "generated_tests")
COLUMNS = (("inputs", "outputs"), ("input", "output"))
FUNCTIONAL = frozenset(("functional", "function_call", "function", "call_based", "call"))
PROGRAM = frozenset(("stdin", "stdin_stdout", "standard_input", "stdio", "input_output"))


def columns(tests: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The pairs that a mapping of columns or of groups of them holds; None when it holds neither."""
    groups = [tests[name] for name in GROUPS if tests.get(name)]
    if groups:
        return [pair for group in groups for pair in (group if isinstance(group, list) else columns(group) or [])]
    for first, second in COLUMNS:
        if first in tests and second in tests:
            given, expected = tests[first], tests[second]
            if not isinstance(given, list) or not isinstance(expected, list):
                return [{"input": given, "output": expected}]
            if len(given) != len(expected):
                raise TestsError(f"{len(given)} inputs but {len(expected)} outputs")
            return [{"input": one, "output": other} for one, other in zip(given, expected, strict=True)]
    return None


def pairs(tests: list[dict[str, Any]], given: Given) -> Tests:
    """Tests of a program, or of a function where they or the problem say so."""
    kinds = {str(test.get("testtype") or test.get("type") or "").lower() for test in tests} - {""}
    if unknown := kinds - FUNCTIONAL - PROGRAM:
        raise TestsError(f"tests of type {min(unknown)!r}")
    names = {name for test in tests if (name := _function_of(test))}
    if len(names) > 1 or (kinds & FUNCTIONAL and kinds & PROGRAM):
        raise TestsError("tests of several functions, or of a function and a program")
    given.entry = given.entry or next(iter(names), None)
    if kinds & FUNCTIONAL or (not kinds and (names or given.known.get("fn_name"))):
        return call_tests([(test["input"], test["output"]) for test in tests], given)
    if not kinds and given.entry and not all(isinstance(test["input"], str) for test in tests):
        return call_tests([(test["input"], test["output"]) for test in tests], given)
    cases = [(_text(test["input"]), _accepted(test["input"], test["output"])) for test in tests]
    return StdinTests(cases, given.tolerance, given.layout, given.ignore_case, referee(given))


def _function_of(test: dict[str, Any]) -> str | None:
    inner = test.get("metadata")
    places = [test, inner if isinstance(inner, dict) else {}]
    return next((str(place[key]) for place in places for key in ("fn_name", "func_name") if place.get(key)), None)


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _accepted(given: Any, expected: Any) -> str | tuple[str, ...]:
    """The expected output, or those that are."""
    if not isinstance(expected, list) or isinstance(given, list):
        return _text(expected)
    if not expected:
        raise TestsError("a test that accepts no output")
    accepted = tuple(map(_text, expected))
    return accepted[0] if len(accepted) == 1 else accepted
