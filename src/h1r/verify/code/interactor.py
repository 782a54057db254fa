"""Interactive problems: a program of the problem's own talks with the solution, each in its sandbox.

Two pipes join them, and nothing else: what one writes the other reads, until both have ended or one is out of time. The
verdict is the interactor's exit status, once the solution has ended well too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor

from h1r.sandbox.limits import Limits
from h1r.sandbox.programs import Program
from h1r.sandbox.session import RunResult, SandboxError
from h1r.verify.code.outcome import FAULTS, WRONG, Fault
from h1r.verify.code.referee import ANSWER, INPUT, OUTPUT


def interact(solution: Program, interactor: Program, given: str, answer: str, limits: Limits) -> Fault | None:
    """Why the solution is not accepted; `SandboxError` when a run is lost."""
    patient = dataclasses.replace(limits, time_s=2 * limits.time_s)
    files = {INPUT: given, ANSWER: answer}
    with contextlib.ExitStack() as ends, contextlib.ExitStack() as runs:
        to_solution, to_interactor = os.pipe(), os.pipe()
        for descriptor in (*to_solution, *to_interactor):
            ends.callback(os.close, descriptor)
        joined = (to_solution[0], to_interactor[1]), (to_interactor[0], to_solution[1])
        one = runs.enter_context(solution.join(joined[0], limits, {}, ()))
        other = runs.enter_context(interactor.join(joined[1], patient, files, (INPUT, OUTPUT, ANSWER)))
        ends.close()  # from here on each sees the end of the other
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(one.communicate, b"")
            verdict = other.communicate(b"")
            outcome = waiting.result()
    return _fault(outcome, verdict)


def _fault(outcome: RunResult, verdict: RunResult) -> Fault | None:
    if "failed" in (outcome.ending, verdict.ending):
        raise SandboxError("a run was lost")
    if outcome.ending != "finished":
        return FAULTS[outcome.ending]
    if verdict.ending != "finished" or verdict.status != 0:
        said = verdict.stderr[-1000:].decode(errors="replace").strip().splitlines()
        return Fault(f"{WRONG.why}, says the interactor: {said[-1][:200]}" if said else WRONG.why, "wrong")
    return None if outcome.status == 0 else Fault(f"exit status {outcome.status}", "crash")
