"""Programs that read an input and write an output."""

from __future__ import annotations

from h1r.sandbox.limits import Limits
from h1r.sandbox.pool import Runnable
from h1r.sandbox.session import SandboxError
from h1r.verify.code.compare import same_output
from h1r.verify.code.kinds import StdinTests
from h1r.verify.code.outcome import FAULTS, WRONG, Failure, Fault, Result


def judge_programs(program: Runnable, tests: StdinTests, limits: Limits, stop: bool) -> Result:
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
            output = outcome.stdout.decode(errors="replace")
            accepted = expected if isinstance(expected, tuple) else (expected,)
            same = (same_output(output, one, tests.tolerance, tests.layout, tests.ignore_case) for one in accepted)
            fault = None if any(same) else WRONG
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
