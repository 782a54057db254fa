"""Test code with assertions: the tests in one sandbox, the tested code in another, and the parent between them."""

from __future__ import annotations

import hmac
import secrets
import time
from typing import Any, NamedTuple

from h1r.sandbox.limits import Limits
from h1r.sandbox.meter import starved, why_starved
from h1r.sandbox.session import StarvedError
from h1r.sandbox.slots import Slot, Talk
from h1r.verify.code.kinds import CheckTests
from h1r.verify.code.outcome import FAULTS, Failure, Fault, Result, before, value_of
from h1r.verify.code.sources import complete, parts

_FROM_TESTED = ("value", "changed", "printed", "exhausted", "raised", "text", "kinds", "args", "attributes")
"""What of a reply of the tested side goes on to the test code."""
UNUSED = Fault("the tests cannot be used: they call nothing of the tested program", "unscored")


CALLS_STRETCH = 2.0
"""A test of many calls, none of which exceeds the limit of a test, takes at most so many times that limit together."""


def judge_checks(slot: Slot, code: str, tests: CheckTests, limits: Limits, stop: bool) -> Result:
    """Test code none of which used the tested code has shown nothing, whatever it says."""
    loaded = parts(tests.setup, code, tests.entry)
    passed, idle, failures, first = 0, 0, list[Failure](), 0
    while first < len(tests.tests):
        reports, fault = _check_from(slot, loaded, tests, first, limits, stop)
        passed += sum(report.fault is None for report in reports)
        idle += sum(report.fault is None and not report.used for report in reports)
        failures += [Failure(first + at, *one.fault) for at, one in enumerate(reports) if one.fault is not None]
        first += len(reports)
        if fault is not None and first < len(tests.tests):
            failures.append(Failure(first, *fault))
            first += 1
        if failures and stop:
            break
    if idle == passed > 0 and not failures:
        return Result(0, len(tests.tests), [Failure(0, *UNUSED)])
    return Result(passed, len(tests.tests), failures, idle)


class _Report(NamedTuple):
    """What test code says of one test: why it failed, if so, and whether it used the tested code."""

    fault: Fault | None
    used: bool


def _check_from(
    slot: Slot, loaded: list[str], tests: CheckTests, first: int, limits: Limits, stop: bool
) -> tuple[list[_Report], Fault | None]:
    """The report of each test from `first` on, and why the next one has none, if so."""
    nonce = secrets.token_hex(16)
    asking = {"kind": "checks", "setup": complete(tests.setup), "tests": tests.tests[first:], "names": tests.names,
              "modules": tests.modules, "stop": stop, "nonce": nonce}  # fmt: skip
    reports: list[_Report] = []
    with (
        slot.calls({"kind": "calls", "code": loaded, "prelude": tests.prelude}, limits) as tested,
        slot.checks(asking, limits) as checker,
    ):
        message, ending = tested.receive()
        _, fault = value_of(message, ending)
        if fault is not None:
            return [_Report(before("test", fault), True)] * (len(tests.tests) - first), None
        test = _Since(tested, checker)
        while len(reports) < len(tests.tests) - first:
            if test.is_over(limits):
                return reports, FAULTS["time"]
            message, ending = checker.receive()
            if message is None:
                return reports, Fault(f"the test code: {FAULTS[ending].why}", FAULTS[ending].reason)
            if "nonce" in message:
                genuine = hmac.compare_digest(str(message["nonce"]), nonce) and message.get("test") == len(reports)
                passes = genuine and message.get("passed") is True
                reports.append(_Report(None if passes else _reported(message), message.get("used") is True))
                if not passes and stop:
                    break
                test = _Since(tested, checker)
                continue
            reply, ending = tested.ask(message)
            if reply is None:
                return reports, FAULTS[ending]
            checker.send({key: reply[key] for key in _FROM_TESTED if key in reply})
    return reports, None


class _Since:
    """What a test has taken since it began: on the wall, of both sides, and of this thread between them."""

    def __init__(self, tested: Talk, checker: Talk) -> None:
        self._sides = tested, checker
        self._began, self._spent_s, self._waited_s = time.monotonic(), self._spent(), self._waited()

    def is_over(self, limits: Limits) -> bool:
        """Whether it exceeds a limit; `StarvedError` where the machine had no processor for it."""
        if self._spent() - self._spent_s > limits.time_s * CALLS_STRETCH:
            return True
        if (wall_s := time.monotonic() - self._began) <= limits.test_wall_s:
            return False
        waited = self._waited() - self._waited_s
        if starved(wall_s, waited, limits.time_s * CALLS_STRETCH):
            raise StarvedError(why_starved(wall_s, waited))
        return True

    def _spent(self) -> float:
        return sum(side.spent_s for side in self._sides) + time.thread_time()

    def _waited(self) -> float:
        return sum(side.waited_s for side in self._sides)


def _reported(message: dict[str, Any]) -> Fault:
    """A test that fails: by its assertion, by an error that the tested code raised in it, or by one of its own."""
    error = str(message.get("error") or "no genuine report")[:500]
    if message.get("used") is False:
        return Fault(f"the tests cannot be used: {error}", "unscored")
    return Fault(error, "wrong" if error.startswith("AssertionError") else "crash")
