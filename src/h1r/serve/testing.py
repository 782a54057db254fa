"""Programs as answers: a request that carries tests has each trace's program run against them, in the sandbox.

    "deepconf": {"tests": ["assert f(2) == 4"]}                     pieces of Python that call what the answer defines
    "deepconf": {"tests": [{"input": "2\\n", "output": "4\\n"}]}      a program that reads standard input

A trace whose program passes all of them votes, and all such traces vote for the same, so that `tau` ends the run once
one has passed. Programs and tests run where neither reaches anything of the server (docs/internals/sandbox.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from h1r.common.prose import counted
from h1r.records import Problem
from h1r.response.extract import split_response
from h1r.rollout.pipeline import is_scored
from h1r.serve.errors import ApiError
from h1r.verify.code.grade import submit
from h1r.verify.code.problem_tests import TestsError, parse_tests

MOST_TESTS = 64
MOST_CHARACTERS = 32_768
"""Of all tests together, as JSON."""
LIMITS = {"time_s": 4.0, "total_s": 16.0, "memory_bytes": 512 << 20}
"""Of the program of one trace (`sandbox.limits`)."""
MOST_SECONDS = 300.0
"""Of all programs of a request, waiting for a sandbox included; the rest of them are not run."""


def checked_tests(given: Any) -> tuple[Any, ...]:
    """The tests of a request. `ApiError` for others than the two forms above, too many, or none that call a program."""
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_TESTS:
        raise _refusal(f"a list of 1 to {MOST_TESTS} tests")
    pieces = all(isinstance(one, str) and one.strip() for one in given)
    pairs = all(
        isinstance(one, dict) and one.keys() == {"input", "output"} and all(isinstance(x, str) for x in one.values())
        for one in given
    )
    if not (pieces or pairs):
        raise _refusal('all pieces of Python that call the answer, or all {"input": TEXT, "output": TEXT}')
    try:
        size = len(json.dumps(given, ensure_ascii=False).encode())
        if size > MOST_CHARACTERS:
            raise _refusal(f"no longer than {MOST_CHARACTERS} bytes of JSON together")
        parse_tests(given)
    except UnicodeEncodeError:
        raise _refusal("texts, without half of a surrogate pair") from None
    except TestsError as error:
        raise ApiError(400, f"deepconf.tests: {error}", "deepconf.tests") from None
    return tuple(given)


def _refusal(what: str) -> ApiError:
    return ApiError(400, f"deepconf.tests are {what}", "deepconf.tests")


def tested_problem(problem: Problem, tests: Sequence[Any]) -> Problem:
    """The problem with these tests. All of them run on each program, so that the best of failing ones is known."""
    metadata = {"tests": list(tests), "limits": LIMITS, "every_test": True}
    return Problem(problem.id, problem.question, "", "code", metadata=metadata)


class TestRuns:
    """`extract` of a run with tests: what the program of a response passes, remembered by its text."""

    __test__ = False  # no test case of pytest's

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._left_s = MOST_SECONDS
        self.total = len(problem.metadata["tests"])
        self._passed: dict[str, float] = {}
        self._right: set[str] = set()
        self._scored = False
        self._error: str | None = None

    def __call__(self, text: str) -> str | None:
        """The common answer of all programs that pass; None for the others."""
        answer = split_response(text).answer
        if answer is None or self._left_s <= 0:
            return None
        if text not in self._passed:
            self._run(text, answer)
        return f"passes {counted(self.total, 'test')}" if text in self._right else None

    def _run(self, text: str, answer: str) -> None:
        begun = time.monotonic()
        verdict = submit(self._problem, answer).result()
        self._left_s -= time.monotonic() - begun
        if is_scored(verdict):
            self._scored = True
        else:
            self._error = verdict.error
        self._passed[text] = verdict.parts.get("pass_rate", 0.0)
        if verdict.reward >= 1.0:
            self._right.add(text)

    def raise_if_none_ran(self) -> None:
        """`ApiError` where no program could be run against the tests, by no fault of its own."""
        if self._error is not None and not self._scored:
            raise ApiError(502, f"the tests could not be run: {self._error}", "deepconf.tests", "tests_failed")

    def passed(self, text: str) -> float:
        """The share of tests that the program of a response passes; 0 where it was not run."""
        return self._passed.get(text, 0.0)
