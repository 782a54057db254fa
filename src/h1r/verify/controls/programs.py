"""Programs that solve nothing, for problems with tests: a test set that one of them passes tests nothing.

    read and write   the empty program; one that prints its input; where all of three tests or more expect the same
                     output, one that prints it
    functions        the empty program; one that exits with status 0; in place of every name that the tests use: a stub
                     that returns None, one that returns its first argument, one that raises, and a class whose methods
                     return None; where all of three calls or more expect the same result, a stub that returns it

Programs that read and write are tested in Python whatever the language asked for: their tests see the output alone.
"""

from __future__ import annotations

import json
import re
from typing import Any

from h1r.records import Problem
from h1r.verify.code.problem_tests import CallTests, CheckTests, StdinTests, TestsError, parse_tests

SOLUTIONS = ("solution", "canonical_solution", "reference_solution", "reference_code", "code")
"""Keys of `metadata`, or of its tests, under which data sets keep a solution; the prompt may have its beginning."""
MIN_EQUAL = 3
"""Tests that expect the same before a constant counts as a control: one or two may well."""
_EMPTY = "pass\n"
_EXIT = "import os\nos._exit(0)\n"
_ECHO = "import sys\nsys.stdout.write(sys.stdin.read())\n"
_NAME = re.compile(r"[^\W\d]\w*+\Z")
_CLASS = """class {name}:
    def __init__(self, *args, **kwargs):
        pass
    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None
"""


def program_controls(problem: Problem) -> list[tuple[str, str, str]]:
    """(name, code, response) of each control; none for tests that cannot be read, which no answer passes."""
    try:
        tests = parse_tests(problem.metadata.get("tests"), problem.metadata)
    except TestsError:
        return []
    if isinstance(tests, StdinTests):
        found = [("an empty program", _EMPTY), ("a program that prints its input", _ECHO)]
        if _all_equal([expected for _, expected in tests.cases]):
            expected = tests.cases[0][1]
            constant = expected if isinstance(expected, str) else expected[0]
            found.append(("a program that prints one constant", f"print({constant!r})\n"))
    else:
        found = _stubs(tests)
    return [(name, code, f"```python\n{code}```") for name, code in found]


def program_reference(problem: Problem) -> str:
    """The response that gives the solution of the metadata, behind its prompt where it is a body alone; else empty."""
    metadata = problem.metadata
    tests = metadata.get("tests")
    places: list[dict[str, Any]] = [metadata, *([tests] if isinstance(tests, dict) else [])]
    language = str(metadata.get("language") or "python")
    for place in places:
        for key in SOLUTIONS:
            code = place.get(key)
            if isinstance(code, str) and code.strip():
                is_body = code.strip("\r\n")[0].isspace()
                prompt = str(metadata.get("prompt") or place.get("prompt") or "") if is_body else ""
                return f"```{language}\n{prompt}{code}\n```"
    return ""


def _stubs(tests: CallTests | CheckTests) -> list[tuple[str, str]]:
    names = [tests.entry] if isinstance(tests, CallTests) else tests.names
    names = [name for name in names if _NAME.match(name)]
    found = [
        ("an empty program", _EMPTY),
        ("a program that exits with status 0", _EXIT),
        ("a stub that returns None", _functions(names, "*args, **kwargs", "return None")),
        ("a stub that returns its argument", _functions(names, "*args, **kwargs", "return args[0] if args else None")),
        ("a stub that raises", _functions(names, "*args, **kwargs", "raise RuntimeError('no solution')")),
    ]
    if isinstance(tests, CheckTests):
        found.append(("a class whose methods return None", "".join(_CLASS.format(name=name) for name in names)))
    elif tests.expected is not None and _all_equal(tests.expected):
        code = _functions(names, "*args, **kwargs", f"return {tests.expected[0]!r}")
        found.append(("a stub that returns one constant", code))
    return found


def _functions(names: list[str], arguments: str, body: str) -> str:
    return "".join(f"def {name}({arguments}):\n    {body}\n" for name in names) or _EMPTY


def _all_equal(values: list[Any]) -> bool:
    return len(values) >= MIN_EQUAL and len({json.dumps(value, sort_keys=True, default=repr) for value in values}) == 1
