"""The tests of a problem, in the forms that data sets have, as one of three kinds.

    StdinTests   a program reads an input and writes an output                (LiveCodeBench, Codeforces, CodeContests)
    CallTests    a function is called, its result compared with the expected  (EvalPlus, LiveCodeBench, APPS)
    CheckTests   test code asserts something about functions or classes       (HumanEval, MBPP, LeetCode, AceCode)

`parse_tests` tells the form by its keys and refuses what it cannot read; docs/sandbox.md shows each form.
"""

from __future__ import annotations

import ast
import base64
import builtins
import dataclasses
import io
import json
import pickle
import random
import re
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from h1r.sandbox import structures
from h1r.sandbox.inside import prelude

Rule = Literal["equal", "set", "not_none", "root"]
MAX_UNPACKED_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class StdinTests:
    """(stdin, expected stdout) of each test. `tolerance` is absolute or relative; None compares decimals exactly."""

    cases: list[tuple[str, str]]
    tolerance: float | None = None


@dataclass(frozen=True, slots=True)
class CallTests:
    """Arguments of each call, and what is expected: given, or from a `reference` that is run like tested code.

    `entry` is a function's name; a solution with a class `Solution` has it as a method. `setup` is what the prompt
    defines: helpers that a solution may leave out, and the head of the function that a solution may go on. `atol` is
    an absolute tolerance (numpy's `allclose` with its `rtol` of 1e-7), which float results have at 1e-6 whatever it
    is. `rule`: "equal"; "set", order and repetition do not count; "not_none", only whether there is a result; "root",
    the result is a zero of the polynomial with the coefficients that were the argument.
    """

    entry: str
    arguments: list[list[Any]]
    expected: list[Any] | None = None
    reference: str | None = None
    setup: str = ""
    prelude: bool = False
    tuples_are_lists: bool = False
    atol: float = 0.0
    rule: Rule = "equal"


@dataclass(frozen=True, slots=True)
class CheckTests:
    """Test code, each an independent piece, and the names in it that the tested code defines.

    `prelude`: the solution finds common modules imported, and `ListNode` and `TreeNode`, as LeetCode has it.
    """

    tests: list[str]
    names: list[str]
    setup: str = ""
    entry: str | None = None
    prelude: bool = False


Tests = StdinTests | CallTests | CheckTests


class TestsError(ValueError):
    """Tests that cannot be read: the problem's fault, in one phrase."""

    __test__ = False


@dataclass(slots=True)
class _Form:
    """What `parse_tests` was given, beside the tests: names and texts that some forms keep elsewhere in the problem."""

    entry: str | None
    prompt: str
    tolerance: float | None
    extra: dict[str, Any] = field(default_factory=dict)


def parse_tests(tests: Any, metadata: dict[str, Any] | None = None) -> Tests:
    """The tests of a problem. `metadata` may hold `entry_point` or `func_name`, `prompt`, `tolerance`.

    `TestsError` for what is in no known form, or empty.
    """
    extra = metadata or {}
    if not tests and isinstance(tests, list | dict | str | None):
        raise TestsError("no tests")
    if isinstance(tests, str):
        tests = _from_text(tests)
    own = tests if isinstance(tests, dict) else {}
    known = {**extra, **own}
    entry = known.get("entry_point") or known.get("fn_name") or known.get("func_name")
    form = _Form(entry, str(known.get("prompt") or ""), known.get("tolerance"), known)
    try:
        found = _parse(tests, form)
    except (KeyError, TypeError, AttributeError, ValueError, SyntaxError, RecursionError) as error:
        raise TestsError(f"tests in no known form ({type(error).__name__}: {error})") from None
    if not size(found):
        raise TestsError("no tests")
    if isinstance(found, CallTests) and found.expected is not None and len(found.expected) != size(found):
        raise TestsError(f"{size(found)} calls but {len(found.expected)} expected results")
    return found


def sampled(tests: Tests, count: int, seed: str) -> Tests:
    """At most `count` of the tests, in their order, by a draw that only `seed` decides; `ValueError` below 1."""
    if count < 1:
        raise ValueError("`max_tests` must be at least 1")
    total = size(tests)
    if total <= count:
        return tests
    kept = sorted(random.Random(seed).sample(range(total), count))
    if isinstance(tests, StdinTests):
        return dataclasses.replace(tests, cases=[tests.cases[index] for index in kept])
    if isinstance(tests, CheckTests):
        return dataclasses.replace(tests, tests=[tests.tests[index] for index in kept])
    expected = None if tests.expected is None else [tests.expected[index] for index in kept]
    return dataclasses.replace(tests, arguments=[tests.arguments[index] for index in kept], expected=expected)


def size(tests: Tests) -> int:
    """How many tests there are."""
    if isinstance(tests, StdinTests):
        return len(tests.cases)
    return len(tests.arguments) if isinstance(tests, CallTests) else len(tests.tests)


def _parse(tests: Any, form: _Form) -> Tests:
    if isinstance(tests, list):
        if all(isinstance(test, str) for test in tests):
            return _checks(tests, form)
        pairs = [(test["input"], test["output"]) for test in tests]
        functional = any(test.get("testtype") == "functional" for test in tests)
        return _pairs(pairs, form, calls=functional)
    if "functional" in tests:
        return dataclasses.replace(_checks([tests["functional"]], form), prelude=True)
    if "assert" in tests or "test_list" in tests:
        return _checks(list(tests.get("assert") or tests["test_list"]), form)
    if "test" in tests:
        call = f"\n\ncheck({form.entry})\n"
        return CheckTests([str(tests["test"]) + call], [_required(form)], setup=form.prompt, entry=form.entry)
    if "inputs" in tests:
        pairs = list(zip(tests["inputs"], tests["outputs"], strict=True))
        return _pairs(pairs, form, calls=form.entry is not None)
    if "base_input" in tests:
        return _evalplus(tests, form)
    raise KeyError("none of `inputs`, `functional`, `assert`, `test`, `base_input`")


def _required(form: _Form) -> str:
    if not form.entry:
        raise KeyError("entry_point")
    return form.entry


def _pairs(pairs: list[tuple[Any, Any]], form: _Form, calls: bool) -> Tests:
    if not calls:
        return StdinTests([(_text(given), _text(expected)) for given, expected in pairs], form.tolerance)
    texts = all(isinstance(given, str) for given, _ in pairs)  # then LiveCodeBench: one JSON value a line
    arguments = [_json_lines(given) if texts else list(given) for given, _ in pairs]
    expected = [json.loads(value) if texts else value for _, value in pairs]
    if not texts and all(isinstance(value, list) and len(value) == 1 for value in expected):
        expected = [value[0] for value in expected]  # APPS wraps each result in a list
    return CallTests(_required(form), arguments, expected, prelude=True, tuples_are_lists=True)


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _evalplus(tests: dict[str, Any], form: _Form) -> CallTests:
    arguments = [list(case) for case in [*tests["base_input"], *(tests.get("plus_input") or [])]]
    reference = tests.get("canonical_solution") or tests.get("reference")
    return CallTests(
        _required(form),
        arguments,
        expected=tests.get("expected"),
        reference=form.prompt + str(reference) if reference else None,
        setup=form.prompt,
        atol=float(tests.get("atol") or 0.0),
        rule=tests.get("rule", "equal"),
    )


def _checks(tests: list[str], form: _Form) -> CheckTests:
    setup = "\n".join([form.prompt if form.entry else "", *map(str, form.extra.get("test_imports") or [])])
    names = [form.entry] if form.entry else tested_names(tests)
    return CheckTests(tests, names, setup=setup, entry=form.entry)


@lru_cache(maxsize=1)
def _known_names() -> frozenset[str]:
    return frozenset(dir(builtins)) | frozenset(prelude()) | frozenset(structures.NAMES)


def tested_names(tests: list[str]) -> list[str]:
    """The names that test code uses and nothing else defines.

    Decided from the tests alone: if the tested code had a say, it could define `abs` or `isinstance` for its own tests.
    When every name is known (a solution called `gcd`), it is the one that all tests call first.
    """
    trees = [ast.parse(test) for test in tests]
    bound: set[str] = set()
    used: set[str] = set()
    first_calls = []
    for tree in trees:
        calls = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                bound.add(node.name)
            elif isinstance(node, ast.arg):
                bound.add(node.arg)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                bound |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ExceptHandler) and node.name:
                bound.add(node.name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                calls.append((node.lineno, node.col_offset, node.func.id))
        first_calls.append(min(calls)[2] if calls else "")
    names = sorted(used - bound - _known_names())
    if not names and len(set(first_calls)) == 1 and first_calls[0] and not hasattr(builtins, first_calls[0]):
        names = first_calls[:1]
    if not names:
        raise ValueError("no name in the tests is the tested code's")
    return names


def _from_text(text: str) -> Any:
    """JSON, or LiveCodeBench's packed private tests: base64 of zlib of a pickled JSON string."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    if not re.fullmatch(r"[A-Za-z0-9+/=\s]+", text):
        return [text]
    try:
        unpacker = zlib.decompressobj()
        packed = unpacker.decompress(base64.b64decode(text), MAX_UNPACKED_BYTES)
        return json.loads(_NothingButText(io.BytesIO(packed)).load())
    except (ValueError, TypeError, zlib.error, pickle.UnpicklingError, EOFError) as error:
        raise TestsError(f"packed tests that cannot be read ({type(error).__name__})") from None


class _NothingButText(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} in packed tests")
