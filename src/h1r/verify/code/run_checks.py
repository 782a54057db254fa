"""Test code with assertions: the tests in one sandbox, the tested code in another, and the parent between them."""

from __future__ import annotations

import hmac
import secrets
from typing import Any

from h1r.sandbox.limits import Limits
from h1r.sandbox.pool import Slot
from h1r.verify.code.outcome import FAULTS, Failure, Fault, Result, before, value_of
from h1r.verify.code.problem_tests import CheckTests
from h1r.verify.code.sources import complete, parts


def judge_checks(slot: Slot, code: str, tests: CheckTests, limits: Limits, stop: bool) -> Result:
    """The tests in one sandbox, the tested code in another, and the parent between them."""
    loaded = parts(tests.setup, code, tests.entry)
    passed, failures, first = 0, [], 0
    while first < len(tests.tests):
        reports, fault = _check_from(slot, loaded, tests, first, limits, stop)
        passed += sum(report is None for report in reports)
        failures += [Failure(first + number, *report) for number, report in enumerate(reports) if report is not None]
        first += len(reports)
        if fault is not None and first < len(tests.tests):
            failures.append(Failure(first, *fault))
            first += 1
        if failures and stop:
            break
    return Result(passed, len(tests.tests), failures)


def _check_from(
    slot: Slot, loaded: list[str], tests: CheckTests, first: int, limits: Limits, stop: bool
) -> tuple[list[Fault | None], Fault | None]:
    """The report of each test from `first` on (None: passed), and why the next one has none, if so."""
    nonce = secrets.token_hex(16)
    asking = {"kind": "checks", "setup": complete(tests.setup), "tests": tests.tests[first:], "names": tests.names,
              "stop": stop, "nonce": nonce}  # fmt: skip
    reports: list[Fault | None] = []
    with (
        slot.calls({"kind": "calls", "code": loaded, "prelude": tests.prelude}, limits) as tested,
        slot.checks(asking, limits) as checker,
    ):
        message, ending = tested.receive()
        _, fault = value_of(message, ending)
        if fault is not None:
            return [before("test", fault)] * (len(tests.tests) - first), None
        while len(reports) < len(tests.tests) - first:
            message, ending = checker.receive()
            if message is None:
                return reports, Fault(f"the test code: {FAULTS[ending].why}", FAULTS[ending].reason)
            if "nonce" in message:
                genuine = hmac.compare_digest(str(message["nonce"]), nonce) and message.get("test") == len(reports)
                passes = genuine and message.get("passed") is True
                reports.append(None if passes else _reported(message))
                if not passes and stop:
                    break
                continue
            reply, ending = tested.ask(message)
            if reply is None:
                return reports, FAULTS[ending]
            kept = ("value",) if "value" in reply else ("raised", "text")
            checker.send({key: reply.get(key) for key in kept})
    return reports, None


def _reported(message: dict[str, Any]) -> Fault:
    """A test that fails: by its assertion, or by an error that the tested code raised in it."""
    error = str(message.get("error") or "no genuine report")[:500]
    return Fault(error, "wrong" if error.startswith("AssertionError") else "crash")
