"""The tests of a problem, whatever form they came in, as one of three kinds.

StdinTests   a program reads an input and writes an output                (LiveCodeBench, Codeforces, CodeContests)
CallTests    a function is called, its result compared with the expected  (EvalPlus, LiveCodeBench, APPS, LeetCode)
CheckTests   test code asserts something about functions or classes       (HumanEval, MBPP, KodCode, BigCodeBench)
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from typing import Any, Literal

Rule = Literal["equal", "set", "unordered", "not_none", "root"]
Layout = Literal["lines", "tokens", "unordered_lines"]
Protocol = Literal["testlib", "score", "function", "interactive"]


@dataclass(frozen=True, slots=True)
class Referee:
    """A program of the problem's own that decides about an output, or that a solution talks with.

        testlib      called with the files of input, output and answer; exit status 0 accepts
        score        called with the files of input, answer and output; prints a number, of which 1 or more accepts
        function     Python with a function `check`, called with output, or input and output, or these and the answer
        interactive  talks with the solution over its standard streams; called as testlib is, exit status 0 accepts

    `files` are what its source includes, by name.
    """

    source: str
    language: str
    protocol: Protocol
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StdinTests:
    """(stdin, expected stdout) of each test; several accepted ones are a tuple.

    `layout`: outputs agree line by line, token by token, or as lines in any order. `tolerance` is absolute or
    relative; None compares decimals exactly. A `referee` decides in place of all that.
    """

    cases: list[tuple[str, str | tuple[str, ...]]]
    tolerance: float | None = None
    layout: Layout = "lines"
    ignore_case: bool = False
    referee: Referee | None = None


@dataclass(frozen=True, slots=True)
class CallTests:
    """Arguments of each call, and what is expected: given, or from a `reference` that is run like tested code.

    `entry` is a function's name; a solution with a class `Solution` has it as a method. `setup` is what the prompt
    defines: helpers that a solution may leave out, and the head of the function that a solution may go on. `atol` is
    an absolute tolerance (numpy's `allclose` with its `rtol` of 1e-7), which floats have at 1e-6 whatever it is;
    `tolerance` is one that is absolute or relative, and the problem's own. `rule`: "equal"; "set", order and
    repetition do not count; "unordered", order does not; "not_none", only whether there is a result; "root", the
    result is a zero of the polynomial with the coefficients that were the argument.

    `from_json`: what is expected came as JSON, which knows no tuples and no keys but texts. `other` is a second
    reading of what is expected, for the whole problem. `driver` is Python run behind the solution, whose function
    `drive` makes the call (`forms.drivers`). `in_place`: an argument that the call changed may be its result.
    """

    entry: str
    arguments: list[list[Any]]
    expected: list[Any] | None = None
    reference: str | None = None
    setup: str = ""
    prelude: bool = False
    from_json: bool = False
    atol: float = 0.0
    tolerance: float | None = None
    rule: Rule = "equal"
    other: list[Any] | None = None
    driver: str = ""
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class CheckTests:
    """Test code, each an independent piece, and the names in it that the tested code defines.

    `prelude`: the solution finds common modules imported, and `ListNode` and `TreeNode`, as LeetCode has it. `modules`:
    the names by which test code imports the tested code.
    """

    tests: list[str]
    names: list[str]
    setup: str = ""
    entry: str | None = None
    prelude: bool = False
    modules: list[str] = field(default_factory=list)


Tests = StdinTests | CallTests | CheckTests


class TestsError(ValueError):
    """Tests that cannot be read: the problem's fault, in one phrase."""

    __test__ = False


def size(tests: Tests) -> int:
    """How many tests there are."""
    if isinstance(tests, StdinTests):
        return len(tests.cases)
    return len(tests.arguments) if isinstance(tests, CallTests) else len(tests.tests)


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
    expected, other = (
        None if column is None else [column[index] for index in kept] for column in (tests.expected, tests.other)
    )
    arguments = [tests.arguments[index] for index in kept]
    return dataclasses.replace(tests, arguments=arguments, expected=expected, other=other)
