"""Functions that are called, and whose results are compared."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from typing import Any

from h1r.sandbox.limits import Limits
from h1r.sandbox.slots import Slot
from h1r.sandbox.values import Digest, dump_frame, encode
from h1r.verify.code.compare import FLOAT_ATOL, as_json, is_floats, same_value
from h1r.verify.code.kinds import CallTests, Tests
from h1r.verify.code.outcome import WRONG, Failure, Fault, Result, before, value_of
from h1r.verify.code.sources import SOLUTION_CLASS, parts

MAX_REFERENCES = 512
WINDOW = 64
"""Calls that are under way at once: enough to hide the way to the sandbox, few enough to bound what waits."""
DIGEST_LIMIT_S = 60.0
"""For the digest of a result that is too large to be sent; the call that gave the result has ended by then."""


def judge_calls(slot: Slot, code: str, tests: CallTests, limits: Limits, stop: bool) -> Result:
    expected = tests.expected or []
    readings = [_Reading(tests, expected)] + ([_Reading(tests, tests.other)] if tests.other is not None else [])
    may_be_large = [isinstance(value, Digest) for value in expected]
    loaded = parts(tests.setup, code, tests.entry) + ([tests.driver] if tests.driver else [])
    calls = _calls(slot, loaded, tests, limits, may_be_large)
    with contextlib.closing(calls):
        for number, (value, fault) in enumerate(calls):
            for reading in readings:
                reading.take(number, value, fault)
            if stop and all(reading.failures for reading in readings):
                break
    best = max(readings, key=lambda reading: (not reading.failures, reading.passed))
    return Result(best.passed, len(tests.arguments), best.failures)


class _Reading:
    """The tests under one reading of what is expected."""

    def __init__(self, tests: CallTests, expected: list[Any]) -> None:
        self.passed = 0
        self.failures: list[Failure] = []
        self._tests = tests
        self._expected = expected
        self._atol = tests.atol

    def take(self, number: int, value: Any, fault: Fault | None) -> None:
        expected = self._expected[number]
        if fault is None:
            if self._atol == 0 and is_floats(expected):
                self._atol = FLOAT_ATOL  # from here on, as EvalPlus has it
            if not self._is_right(_result(self._tests, value, expected), number):
                fault = WRONG
        if fault is None:
            self.passed += 1
        else:
            self.failures.append(Failure(number, *fault))

    def _is_right(self, value: Any, number: int) -> bool:
        tests = self._tests
        return same_value(value, self._expected[number], self._atol, tests.rule, tests.arguments[number],
                          tests.tolerance, FLOAT_ATOL)  # fmt: skip


def _result(tests: CallTests, value: Any, expected: Any) -> Any:
    """What the driver brought, which is the argument that was changed where nothing was returned and something is
    expected."""
    if tests.driver and isinstance(value, tuple) and len(value) in (1, 2):
        value = value[1] if len(value) == 2 and tests.in_place and expected is not None else value[0]
    return as_json(value) if tests.from_json else value


def _calls(
    slot: Slot, loaded: list[str], tests: CallTests, limits: Limits, may_be_large: Sequence[bool]
) -> Generator[tuple[Any, Fault | None], None, None]:
    """(value, None) or (None, fault) for each call, in order. After one that ended its process, a new one goes on.

    Where a result may be larger than `output_bytes` it comes as a `Digest`, whose making has a time limit of its own.
    """
    target = f"Solution().{tests.entry}" if SOLUTION_CLASS.search(loaded[-1]) else tests.entry
    if tests.driver:
        target = "drive"
    job = {"kind": "calls", "code": loaded, "prelude": tests.prelude}
    total, number = len(tests.arguments), 0
    while number < total:
        with slot.calls(job, limits) as session:
            message, ending = session.receive()
            _, fault = value_of(message, ending)
            if fault is not None:
                yield from [(None, before("call", fault))] * (total - number)
                return
            sent, alive = number, True
            while alive and number < total:
                while sent < min(total, number + WINDOW):
                    args = [encode(value) for value in tests.arguments[sent]]
                    beyond = {"digest_beyond": limits.output_bytes} if may_be_large[sent] else {}
                    session.send({"do": "call", "target": target, "args": args, **beyond})
                    sent += 1
                message, ending = session.receive()
                if may_be_large[number] and message == {"large": True}:
                    message, ending = session.receive(DIGEST_LIMIT_S)
                alive = message is not None
                yield value_of(message, ending, may_be_large[number])
                number += 1


def with_expected(slot: Slot, tests: Tests, limits: Limits) -> Tests:
    """The tests with the results of their reference; what that takes is not the answer's time."""
    if not isinstance(tests, CallTests) or tests.expected is not None:
        return tests
    return dataclasses.replace(tests, expected=_reference_results(slot, tests, limits))


def _reference_results(slot: Slot, tests: CallTests, limits: Limits) -> list[Any]:
    """What the problem's own solution returns, from a sandbox like any other; kept for the next answers."""
    if tests.reference is None:
        raise ValueError("the tests have neither expected results nor a reference")
    identity = dump_frame({"tests": [tests.reference, tests.rule, tests.entry, encode(tests.arguments)]})
    key = hashlib.sha256(identity).digest()
    with _references_lock:
        if (found := _references.get(key)) is not None:
            _references.move_to_end(key)
            return found
    patient = dataclasses.replace(
        limits, time_s=limits.time_s * 10, total_s=limits.total_s * 10, wall_s=None, answer_s=None
    )
    may_be_large = [tests.rule == "equal" and tests.atol == 0] * len(tests.arguments)
    results = []
    calls = _calls(slot, [tests.reference], tests, patient, may_be_large)
    with slot.answer(patient), contextlib.closing(calls):
        for number, (value, fault) in enumerate(calls):
            if fault is not None:
                raise ValueError(f"the reference fails on call {number}: {fault.why}")
            results.append(value is not None if tests.rule == "not_none" else value)
    with _references_lock:
        _references[key] = results
        if len(_references) > MAX_REFERENCES:
            _references.popitem(last=False)
    return results


_references: OrderedDict[bytes, list[Any]] = OrderedDict()
_references_lock = threading.Lock()
