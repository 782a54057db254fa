"""Outputs that a program of the problem's own decides about: checkers.

A checker runs where tested code never did, and is given the output as a file: nothing in it is more than text. What
counts is how the checker itself ends (`kinds.Referee`), never what it repeats. One that cannot be built or called makes
the tests unusable; one that ends badly on an output has not accepted it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator

from h1r.sandbox.limits import Limits
from h1r.sandbox.session import RunResult, SandboxError
from h1r.sandbox.slots import Slot
from h1r.verify.code.kinds import Referee, TestsError
from h1r.verify.code.outcome import WRONG, Fault, value_of

INPUT, OUTPUT, ANSWER = "input.txt", "output.txt", "answer.txt"
_SCORE = re.compile(r"\d{1,4}+(?:\.\d{0,9}+)?")
_MAX_SCORE_CHARS = 20
_MIN_TIME_S = 10.0
"""Honest checkers may be slower than the solutions that they check."""

_SCRATCH_BYTES = 256 << 20
"""Three files of a test, each as large as an output may be, or an input is."""

Check = Callable[[str, str, str], Fault | None]
"""(input, output, answer) -> why the output is not accepted."""


@contextlib.contextmanager
def checker(slot: Slot, referee: Referee, limits: Limits) -> Iterator[Check]:
    """The problem's checker, ready to be asked. `TestsError` when it cannot be built."""
    limits = dataclasses.replace(limits, time_s=max(limits.time_s, _MIN_TIME_S), scratch_bytes=_SCRATCH_BYTES)
    if referee.protocol == "function":
        yield lambda given, output, answer: _call(slot, referee, limits, given, output, answer)
        return
    with slot.referee(referee.source, referee.language, limits, referee.files) as program:
        if program.error:
            raise TestsError(f"the checker: {program.error}")
        score = referee.protocol == "score"
        names = (INPUT, ANSWER, OUTPUT) if score else (INPUT, OUTPUT, ANSWER)

        def check(given: str, output: str, answer: str) -> Fault | None:
            outcome = program.run(b"", limits, {INPUT: given, OUTPUT: output, ANSWER: answer}, names)
            if outcome.ending == "failed":
                raise SandboxError("a run of the checker was lost")
            return None if _accepts(outcome, score) else _rejected(outcome)

        yield check


def _accepts(outcome: RunResult, score: bool) -> bool:
    if outcome.ending != "finished" or outcome.status != 0:
        return False
    said = outcome.stdout.strip()
    found = _SCORE.fullmatch(said.decode("ascii", "replace")) if score and len(said) <= _MAX_SCORE_CHARS else None
    return not score or (found is not None and float(found[0]) >= 1.0)


def _rejected(outcome: RunResult) -> Fault:
    said = (outcome.stderr or outcome.stdout)[-1000:].decode(errors="replace").strip().splitlines()
    return Fault(f"{WRONG.why}, says the checker: {said[-1][:200]}" if said else WRONG.why, "wrong")


def _call(slot: Slot, referee: Referee, limits: Limits, given: str, output: str, answer: str) -> Fault | None:
    """A function `check` of one to three parameters, which accepts by returning True."""
    job = {"kind": "calls", "code": [referee.source, _CALL], "prelude": True}
    with slot.checks(job, limits) as session:
        message, ending = session.receive()
        _, fault = value_of(message, ending)
        if fault is not None:
            raise TestsError(f"the checker: {fault.why}")
        message, ending = session.ask({"do": "call", "target": "h1r_check", "args": [given, output, answer]})
        value, fault = value_of(message, ending)
    return None if fault is None and value is True else WRONG


_CALL = """
def h1r_check(given, output, answer):
    import inspect
    count = len(inspect.signature(check).parameters)
    found = check(*{1: (output,), 2: (given, output)}.get(count, (given, output, answer)))
    return found is True or (type(found) in (int, float) and found >= 1)
"""
