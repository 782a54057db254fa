"""Arguments and results of a function.

    [{"input": "[1, 2]\\n3", "output": "[4]", "testtype": "functional"}] with `func_name`     LiveCodeBench
    [{"input": "4", "output": "12", "testtype": "functional", "metadata": {"func_name": "f"}}]   DeepCoder
    [{"fn_name": "f", "input": [4], "output": 12, "type": "function_call"}]                      SYNTHETIC-1
    {"fn_name": "f", "inputs": [[1, 2]], "outputs": [[3]]}                                       APPS

Texts hold a JSON value a line, or `name = value` as LeetCode's examples do. Where every result is a list of one, as
APPS wraps them, the item is expected, or else the list: one reading for the whole problem.
"""

from __future__ import annotations

import ast
import json
from typing import Any

from h1r.common.syntax import expression, literal
from h1r.verify.code.forms.given import Given
from h1r.verify.code.forms.leetcode import design_driver, driver, is_design
from h1r.verify.code.kinds import CallTests, TestsError


def call_tests(tests: list[tuple[Any, Any]], given: Given) -> CallTests:
    texts = all(isinstance(one, str) for one, _ in tests)
    arguments = [_from_text(one) if texts else _listed(one) for one, _ in tests]
    expected = [_value(value) if texts and isinstance(value, str) else value for _, value in tests]
    if is_design(arguments, expected, given.entry):
        return CallTests("drive", arguments, expected, setup=given.prompt, prelude=True, from_json=True,
                         tolerance=given.tolerance, driver=design_driver())  # fmt: skip
    other = None
    if not texts and all(isinstance(value, list) and len(value) == 1 for value in expected):
        other, expected = expected, [value[0] for value in expected]
    if given.ignore_case:
        raise TestsError("`compare` without regard to case is for the outputs of programs")
    made, in_place = driver(given)
    return CallTests(given.required_entry(), arguments, expected, prelude=True, from_json=True, other=other,
                     tolerance=given.tolerance, driver=made, in_place=in_place,
                     rule="unordered" if given.layout == "unordered_lines" else "equal")  # fmt: skip


def _listed(value: Any) -> list[Any]:
    """The arguments of a call; those that have names are one mapping, which `drive` tells from an argument."""
    if isinstance(value, dict):
        return [{"h1r_named": value}]
    return list(value) if isinstance(value, list) else [value]


def _from_text(text: str) -> list[Any]:
    try:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError:
        pass
    try:
        call = expression(f"call({_python(text)})")
        if isinstance(call, ast.Call) and call.keywords and not call.args:
            return [{"h1r_named": {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}}]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    raise TestsError(f"arguments that are no JSON: {text[:60]!r}")


def _python(text: str) -> str:
    """JSON's words in a text outside of quotes as Python's."""
    parts = text.replace("\n", " ").split('"')
    for index in range(0, len(parts), 2):
        for word, ours in (("true", "True"), ("false", "False"), ("null", "None")):
            parts[index] = parts[index].replace(word, ours)
    return '"'.join(parts)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return literal(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise TestsError(f"a result that is no JSON: {text[:60]!r}") from None
