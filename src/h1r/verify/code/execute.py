"""Runs a solution against its tests and compares, here in the parent, what came back with what was expected.

A test passes only if the code ended in the way a passing run ends: a program with exit status 0, a call with a value,
an assertion's test code with its own report under this run's nonce. Everything else is a failure with a reason.
"""

from __future__ import annotations

import time

from h1r.sandbox.limits import ANSWER_STRETCH, Limits
from h1r.sandbox.meter import starved, why_starved
from h1r.sandbox.session import SandboxError, StarvedError
from h1r.sandbox.slots import Slot
from h1r.verify.code.kinds import CallTests, StdinTests, Tests, size
from h1r.verify.code.outcome import FAULTS, Failure, Result
from h1r.verify.code.run_calls import judge_calls, with_expected
from h1r.verify.code.run_checks import judge_checks
from h1r.verify.code.run_programs import judge_programs


def judge(
    slot: Slot, code: str, language: str, tests: Tests, limits: Limits | None = None, stop: bool = True
) -> Result:
    """The result of one solution. `stop` ends at the first failure. `SandboxError` when the sandbox itself fails,
    `StarvedError` when the machine was too busy to tell.

    `language` is one of `sandbox.programs.RUNNABLE`; function tests are for Python only, else `ValueError`.
    """
    limits = limits or Limits()
    tests = with_expected(slot, tests, limits)
    result = Result(0, size(tests), [])
    began = time.monotonic()
    with slot.answer(limits) as answer:
        try:
            result = _judge(slot, code, language, tests, limits, stop)
        except RecursionError:  # a frame that could just be read, and not be written or printed any more
            result = Result(0, size(tests), [Failure(0, "a result that is nested too deep", "not_readable")])
        except SandboxError:
            if not answer.is_over:
                raise
    # A run's own clock stops at the same limit, and may be first on a busy machine.
    wall_s = time.monotonic() - began
    if (answer.is_over or wall_s >= limits.answer_wall_s) and not result.correct:
        if starved(wall_s, answer.waited_s, limits.total_s, ANSWER_STRETCH):
            raise StarvedError(why_starved(wall_s, answer.waited_s))
        why = f"the whole answer exceeds {limits.answer_wall_s:g} s"
        return Result(result.passed, result.total, [Failure(min(result.passed, result.total - 1), why, "time")])
    return result


def _judge(slot: Slot, code: str, language: str, tests: Tests, limits: Limits, stop: bool) -> Result:
    if isinstance(tests, StdinTests):
        with slot.program(code, language, limits) as program:
            if program.error:
                return Result(0, len(tests.cases), [Failure(0, program.error, FAULTS[program.ending].reason)])
            return judge_programs(slot, program, tests, limits, stop)
    if language != "python":
        raise ValueError(f"function tests are for Python; the solution is in {language}")
    if isinstance(tests, CallTests):
        return judge_calls(slot, code, tests, limits, stop)
    return judge_checks(slot, code, tests, limits, stop)
