"""Runs a solution against its tests and compares, here in the parent, what came back with what was expected.

A test passes only if the code ended in the way a passing run ends: a program with exit status 0, a call with a value,
an assertion's test code with its own report under this run's nonce. Everything else is a failure with a reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import math
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from h1r.records import Reason
from h1r.sandbox.limits import Limits
from h1r.sandbox.pool import Runnable, Slot
from h1r.sandbox.session import Ending, SandboxError
from h1r.sandbox.values import MAX_ITERATED, Digest, checked_set, decode, dump_frame, encode
from h1r.verify.code.problem_tests import CallTests, CheckTests, Rule, StdinTests, Tests, size

RTOL = 1e-7
FLOAT_ATOL = 1e-6
MAX_REFERENCES = 512
WINDOW = 64
"""Calls that are under way at once: enough to hide the way to the sandbox, few enough to bound what waits."""
DIGEST_LIMIT_S = 60.0
"""For the digest of a result that is too large to be sent; the call that gave the result has ended by then."""

_HEAD = re.compile(r":[ \t]*(?:#.*)?$")


class Fault(NamedTuple):
    """Why a test did not pass: in words, and by the reason of the verdict that follows from it."""

    why: str
    reason: Reason


class Failure(NamedTuple):
    """A test that did not pass, by its number from 0."""

    number: int
    why: str
    reason: Reason


WRONG = Fault("wrong answer", "wrong")
_FAULTS: dict[Ending, Fault] = {
    "time": Fault("time limit exceeded", "time"),
    "output": Fault("output limit exceeded", "crash"),
    "failed": Fault("the process ended before its result", "crash"),
    "finished": WRONG,
}


@dataclass(frozen=True, slots=True)
class Result:
    """How many tests passed, of how many. Of the `failures` there is one, unless all tests were run."""

    passed: int
    total: int
    failures: list[Failure]

    @property
    def correct(self) -> bool:
        return self.passed == self.total > 0 and not self.failures


def judge(
    slot: Slot, code: str, language: str, tests: Tests, limits: Limits | None = None, stop: bool = True
) -> Result:
    """The result of one solution. `stop` ends at the first failure. `SandboxError` when the sandbox itself fails.

    `language` is one of `sandbox.programs.RUNNABLE`; function tests are for Python only, else `ValueError`.
    """
    try:
        return _judge(slot, code, language, tests, limits or Limits(), stop)
    except RecursionError:  # a frame that could just be read, and not be written or printed any more
        return Result(0, size(tests), [Failure(0, "a result that is nested too deep", "not_readable")])


def _judge(slot: Slot, code: str, language: str, tests: Tests, limits: Limits, stop: bool) -> Result:
    if isinstance(tests, StdinTests):
        with slot.program(code, language, limits) as program:
            if program.error:
                return Result(0, len(tests.cases), [Failure(0, program.error, _FAULTS[program.ending].reason)])
            return _judge_programs(program, tests, limits, stop)
    if language != "python":
        raise ValueError(f"function tests are for Python; the solution is in {language}")
    if isinstance(tests, CallTests):
        return _judge_calls(slot, code, tests, limits, stop)
    return _judge_checks(slot, code, tests, limits, stop)


def _judge_programs(program: Runnable, tests: StdinTests, limits: Limits, stop: bool) -> Result:
    passed, failures = 0, []
    end = time.monotonic() + limits.total_s
    for number, (given, expected) in enumerate(tests.cases):
        if time.monotonic() > end:
            failures.append(Failure(number, f"the tests together exceed {limits.total_s:g} s", "time"))
            break
        outcome = program.run(given.encode("utf-8", "surrogatepass"), limits)
        if outcome.ending == "failed":
            raise SandboxError("a run was lost")
        if outcome.ending != "finished":
            fault: Fault | None = _FAULTS[outcome.ending]
        elif outcome.status != 0:
            fault = Fault(f"exit status {outcome.status}: {_last_line(outcome.stderr)}", "crash")
        else:
            same = same_output(outcome.stdout.decode(errors="replace"), expected, tests.tolerance)
            fault = None if same else WRONG
        if fault is None:
            passed += 1
        else:
            failures.append(Failure(number, *fault))
            if stop:
                break
    return Result(passed, len(tests.cases), failures)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,6})?", re.ASCII)


def same_output(actual: str, expected: str, tolerance: float | None = None) -> bool:
    """LiveCodeBench's rule: line by line, without surrounding white space, numbers by value where the text differs."""
    ours, theirs = (text.strip().split("\n") for text in (actual, expected))
    return len(ours) == len(theirs) and all(
        one.strip() == other.strip() or _same_numbers(one.split(), other.split(), tolerance)
        for one, other in zip(ours, theirs, strict=True)
    )


def _same_numbers(ours: list[str], theirs: list[str], tolerance: float | None) -> bool:
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if one == other and tolerance is not None:
            continue
        if not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)):
            return False
        if tolerance is not None:
            if not math.isclose(float(one), float(other), rel_tol=tolerance, abs_tol=tolerance):
                return False
        elif Decimal(one) != Decimal(other):
            return False
    return True


def _judge_calls(slot: Slot, code: str, tests: CallTests, limits: Limits, stop: bool) -> Result:
    expected = tests.expected if tests.expected is not None else _reference_results(slot, tests, limits)
    atol, passed, failures = tests.atol, 0, []
    may_be_large = [isinstance(value, Digest) for value in expected]
    calls = _calls(slot, _parts(tests.setup, code, tests.entry), tests, limits, may_be_large)
    with contextlib.closing(calls):
        for number, (value, fault) in enumerate(calls):
            if fault is None:
                if atol == 0 and _is_floats(expected[number]):
                    atol = FLOAT_ATOL  # from here on, as EvalPlus has it
                if tests.tuples_are_lists and isinstance(value, tuple):
                    value = list(value)
                if not same_value(value, expected[number], atol, tests.rule, tests.arguments[number]):
                    fault = WRONG
            if fault is None:
                passed += 1
            else:
                failures.append(Failure(number, *fault))
                if stop:
                    break
    return Result(passed, len(tests.arguments), failures)


def _calls(
    slot: Slot, parts: list[str], tests: CallTests, limits: Limits, may_be_large: Sequence[bool]
) -> Generator[tuple[Any, Fault | None], None, None]:
    """(value, None) or (None, fault) for each call, in order. After one that ended its process, a new one goes on.

    Where a result may be larger than `output_bytes` it comes as a `Digest`, whose making has a time limit of its own.
    """
    target = f"Solution().{tests.entry}" if _SOLUTION_CLASS.search(parts[-1]) else tests.entry
    job = {"kind": "calls", "code": parts, "prelude": tests.prelude}
    end = time.monotonic() + limits.total_s
    total, number = len(tests.arguments), 0
    while number < total:
        with slot.calls(job, limits) as session:
            message, ending = session.receive()
            _, fault = _value(message, ending)
            if fault is None and time.monotonic() > end:
                fault = _FAULTS["time"]
            if fault is not None:
                yield from [(None, _before("call", fault))] * (total - number)
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
                yield _value(message, ending, may_be_large[number])
                number += 1


_SOLUTION_CLASS = re.compile(r"^class\s+Solution\b", re.MULTILINE)


def _before(what: str, fault: Fault) -> Fault:
    return Fault(f"before the first {what}: {fault.why}", fault.reason)


def _value(message: dict[str, Any] | None, ending: Ending, may_be_large: bool = False) -> tuple[Any, Fault | None]:
    """What a frame of the tested code says: (value, None), or (None, fault) for anything that is no value."""
    if message is None:
        return None, _FAULTS[ending]
    if "value" in message:
        form = message["value"]
        if may_be_large and isinstance(form, dict) and form.get("!") == "digest":
            return Digest(str(form.get("v"))[:64]), None
        try:
            return decode(form), None
        except ValueError as error:
            return None, Fault(f"a result that is {error}", "not_readable")
    raised, text = (value if isinstance(value, str) else "" for value in (message.get("raised"), message.get("text")))
    return None, Fault(f"{raised[:100]}: {text[:200]}", "crash")


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
    patient = dataclasses.replace(limits, time_s=limits.time_s * 10, total_s=limits.total_s * 10)
    may_be_large = [tests.rule == "equal" and tests.atol == 0] * len(tests.arguments)
    results = []
    for number, (value, fault) in enumerate(_calls(slot, [tests.reference], tests, patient, may_be_large)):
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


def same_value(actual: Any, expected: Any, atol: float, rule: Rule = "equal", arguments: Sequence[Any] = ()) -> bool:
    """Whether a result is right by a rule of `CallTests`; False, never an exception, for what cannot be compared."""
    try:
        if rule == "set":
            if isinstance(actual, range) and len(actual) > MAX_ITERATED:
                return False  # a range takes no room before somebody lists it
            return checked_set(list(actual)) == checked_set(list(expected))
        if rule == "not_none":
            return bool(actual == expected if isinstance(actual, bool) else expected == (actual is not None))
        if rule == "root":
            return abs(sum(c * math.pow(actual, power) for power, c in enumerate(arguments[0]))) <= atol
        return bool(actual == expected) or (atol > 0 and _close(actual, expected, atol))
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return False


def _is_floats(expected: Any) -> bool:
    if isinstance(expected, (list, tuple)):
        return bool(expected) and all(isinstance(item, float) for item in expected)
    return isinstance(expected, float)


def _close(actual: Any, expected: Any, atol: float) -> bool:
    if isinstance(expected, (list, tuple)):
        same_shape = type(actual) is type(expected) and len(actual) == len(expected)
        return same_shape and all(_close(one, other, atol) for one, other in zip(actual, expected, strict=True))
    if isinstance(expected, dict):
        same_keys = isinstance(actual, dict) and actual.keys() == expected.keys()
        return same_keys and all(_close(actual[key], value, atol) for key, value in expected.items())
    if any(isinstance(value, bool) or not isinstance(value, (int, float, complex)) for value in (actual, expected)):
        return bool(actual == expected)
    if actual != actual and expected != expected:
        return True  # both not a number
    return actual == expected or abs(actual - expected) <= atol + RTOL * abs(expected)


def _judge_checks(slot: Slot, code: str, tests: CheckTests, limits: Limits, stop: bool) -> Result:
    """The tests in one sandbox, the tested code in another, and the parent between them."""
    parts = _parts(tests.setup, code, tests.entry)
    passed, failures, first = 0, [], 0
    while first < len(tests.tests):
        reports, fault = _check_from(slot, parts, tests, first, limits, stop)
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
    slot: Slot, parts: list[str], tests: CheckTests, first: int, limits: Limits, stop: bool
) -> tuple[list[Fault | None], Fault | None]:
    """The report of each test from `first` on (None: passed), and why the next one has none, if so."""
    nonce = secrets.token_hex(16)
    asking = {"kind": "checks", "setup": _complete(tests.setup), "tests": tests.tests[first:], "names": tests.names,
              "stop": stop, "nonce": nonce}  # fmt: skip
    reports: list[Fault | None] = []
    with (
        slot.calls({"kind": "calls", "code": parts, "prelude": tests.prelude}, limits) as tested,
        slot.checks(asking, limits) as checker,
    ):
        message, ending = tested.receive()
        _, fault = _value(message, ending)
        if fault is not None:
            return [_before("test", fault)] * (len(tests.tests) - first), None
        while len(reports) < len(tests.tests) - first:
            message, ending = checker.receive()
            if message is None:
                return reports, Fault(f"the test code: {_FAULTS[ending].why}", _FAULTS[ending].reason)
            if "nonce" in message:
                genuine = hmac.compare_digest(str(message["nonce"]), nonce) and message.get("test") == len(reports)
                passes = genuine and message.get("passed") is True
                reports.append(None if passes else _reported(message))
                if not passes and stop:
                    break
                continue
            reply, ending = tested.ask(message)
            if reply is None:
                return reports, _FAULTS[ending]
            kept = ("value",) if "value" in reply else ("raised", "text")
            checker.send({key: reply.get(key) for key in kept})
    return reports, None


def _reported(message: dict[str, Any]) -> Fault:
    """A test that fails: by its assertion, or by an error that the tested code raised in it."""
    error = str(message.get("error") or "no genuine report")[:500]
    return Fault(error, "wrong" if error.startswith("AssertionError") else "crash")


def _parts(setup: str, code: str, entry: str | None) -> list[str]:
    """What is run before the tests: the prompt's own code, then the solution, or both as one if it goes on there."""
    goes_on = entry is not None and bool(setup) and not defines(code, entry) and not _SOLUTION_CLASS.search(code)
    return [setup + code] if goes_on else [_complete(setup), code]


def _complete(setup: str) -> str:
    """A prompt that runs without the solution: one that stops at the head of a function gets a body for it."""
    text = setup.rstrip()
    last = text[text.rfind("\n") + 1 :]
    if not _HEAD.search(last):
        return setup
    return f"{text}\n{last[: len(last) - len(last.lstrip())]}    pass\n"


def defines(code: str, name: str) -> bool:
    """Whether a line of the code begins to define that name at the top level."""
    return (
        re.search(rf"^(?:(?:async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*[:=]", code, re.M)
        is not None
    )
