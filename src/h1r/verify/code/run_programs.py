"""Programs that read an input and write an output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from h1r.sandbox.limits import Limits
from h1r.sandbox.programs import Program
from h1r.sandbox.session import SandboxError
from h1r.sandbox.slots import Runnable, Slot
from h1r.verify.code.compare import same_output
from h1r.verify.code.interactor import interact
from h1r.verify.code.kinds import Referee, StdinTests, TestsError
from h1r.verify.code.outcome import FAULTS, WRONG, Failure, Fault, Result
from h1r.verify.code.referee import checker


def judge_programs(slot: Slot, program: Runnable, tests: StdinTests, limits: Limits, stop: bool) -> Result:
    if tests.referee is None:
        return _judge_by(partial(_compared, tests), program, tests, limits, stop)
    if tests.referee.protocol == "interactive":
        return _interactive(slot, program, tests, tests.referee, limits, stop)
    with checker(slot, tests.referee, limits) as check:
        return _judge_by(lambda given, output, answer: check(given, output, _one(answer)), program, tests, limits, stop)


def _interactive(
    slot: Slot, program: Runnable, tests: StdinTests, referee: Referee, limits: Limits, stop: bool
) -> Result:
    if not isinstance(program, Program):
        raise TestsError("an interactive problem needs sandboxes of this machine")
    passed, failures = 0, []
    with slot.referee(referee.source, referee.language, limits, referee.files) as interactor:
        if interactor.error:
            raise TestsError(f"the interactor: {interactor.error}")
        for number, (given, answer) in enumerate(tests.cases):
            fault = interact(program, interactor, given, _one(answer), limits)
            if fault is None:
                passed += 1
                continue
            failures.append(Failure(number, *fault))
            if stop:
                break
    return Result(passed, len(tests.cases), failures)


Expected = str | tuple[str, ...]


def _one(expected: Expected) -> str:
    return expected if isinstance(expected, str) else expected[0]


def _compared(tests: StdinTests, given: str, output: str, expected: Expected) -> Fault | None:
    accepted = expected if isinstance(expected, tuple) else (expected,)
    same = (same_output(output, one, tests.tolerance, tests.layout, tests.ignore_case) for one in accepted)
    return None if any(same) else WRONG


def _judge_by(
    decide: Callable[[str, str, Expected], Fault | None],
    program: Runnable,
    tests: StdinTests,
    limits: Limits,
    stop: bool,
) -> Result:
    passed, failures = 0, []
    for number, (given, expected) in enumerate(tests.cases):
        outcome = program.run(given.encode("utf-8", "surrogatepass"), limits)
        if outcome.ending == "failed":
            raise SandboxError("a run was lost")
        if outcome.ending != "finished":
            fault: Fault | None = FAULTS[outcome.ending]
        elif outcome.status != 0:
            fault = Fault(f"exit status {outcome.status}: {_last_line(outcome.stderr)}", "crash")
        else:
            fault = decide(given, outcome.stdout.decode(errors="replace"), expected)
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
