"""Code that an answer contains, run against the tests of its problem.

    reward = 1 if every test passes, else 0

`problem.metadata` holds, beside the `tests` in any form that `problem_tests.parse_tests` knows, and all optional:

    language               what the code must be in; else the fence says it, or the code shows it, or it is Python
    limits                 any of `time_s`, `total_s`, `wall_s`, `answer_s` (see `sandbox.limits`), `memory_bytes`
    max_tests, tests_seed  run a random sample of so many tests; every answer to a problem gets the same
    every_test             run all tests, also behind the first that fails; parts then has `pass_rate` and `test:N`
    partial_credit         the same, and the reward is the share of tests that passed; off by default

A verdict's parts are `tests_passed`, `tests_total`, and `isolation:LEVEL` = 1, so that the mean over many verdicts
shows how they were made. A test that used nothing of the tested program counts for no share. It bounds itself, wherever
it is called: tested code runs in `h1r.sandbox`, never here.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import threading
import time
from concurrent.futures import Future

from h1r.common.progress import note
from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.sandbox.fusion import URL_VARIABLE
from h1r.sandbox.limits import Limits
from h1r.sandbox.pool import SandboxPool
from h1r.sandbox.session import SandboxError, StarvedError
from h1r.verify.code.execute import judge
from h1r.verify.code.extract import Wanted, extract_code, language_of, standard_of
from h1r.verify.code.outcome import Failure, Result
from h1r.verify.code.problem_tests import CheckTests, StdinTests, Tests, TestsError, parse_tests, sampled
from h1r.verify.threads import DaemonThreads

WORKERS_VARIABLE = "H1R_SANDBOX_WORKERS"
REMOTE_WORKERS = 16
"""Answers under way at once by default, where the work is done elsewhere."""
MAX_CODE_CHARS = 400_000
MAX_EXTRACTED_CHARS = 20_000
MAX_LISTED_TESTS = 100
MAX_PARTIAL = 0.999
"""The most for an answer that failed a test, however many it passed."""
_LIMIT_NAMES = ("time_s", "total_s", "wall_s", "answer_s", "memory_bytes")


def grade(problem: Problem, answer: str) -> Verdict:
    """The verdict on one answer, in a sandbox that all callers of this process share.

    Never raises on `answer` and takes no longer than its limits allow. `UserError` when tested code cannot be confined
    here and the user has not said that it need not be.
    """
    return grade_in(_shared().pool, problem, answer)


def submit(problem: Problem, answer: str) -> Future[Verdict]:
    """`grade` in a thread of its own; answers wait for a free sandbox in order."""
    shared = _shared()
    return shared.threads.submit(grade_in, shared.pool, problem, answer)


def warm() -> None:
    """Chooses the isolation level and starts a sandbox."""
    with _shared().pool.lease() as slot, slot.program("", "python", Limits()) as program:
        program.run(b"", Limits())


def grade_in(pool: SandboxPool, problem: Problem, answer: str) -> Verdict:
    """The verdict on one answer, in a sandbox of that pool."""
    parts = {f"isolation:{pool.level.name.lower()}": 1.0}
    extracted: str | None = None
    try:
        tests = _tests(problem)
        language = _language(problem, tests)
        solution = extract_code(answer, language, wanted(tests))
        if solution is None:
            why = f"no {language or ''} code in the answer".replace("  ", " ")
            return Verdict(0.0, parts, error=why, reason="not_extracted")
        extracted = solution.code[:MAX_EXTRACTED_CHARS]
        if len(solution.code) > MAX_CODE_CHARS:
            why = f"more than {MAX_CODE_CHARS} characters of code"
            return Verdict(0.0, parts, extracted, error=why, reason="not_readable")
        given = problem.metadata.get("limits") or {}
        limits = Limits(**{name: given[name] for name in _LIMIT_NAMES if name in given})
        used = language or solution.language or "python"
        standard = standard_of(str(problem.metadata.get("language") or "")) or solution.standard
        if used == "cpp" and standard:
            used = f"cpp{standard}"
        if isinstance(tests, StdinTests) and not pool.runs(used):
            return Verdict(0.0, parts, extracted, error=f"{used} cannot be run here", reason="not_readable")
        partial = problem.metadata.get("partial_credit") is True
        every = partial or problem.metadata.get("every_test") is True
        result = _judge(pool, solution.code, used, tests, limits, stop=not every)
    except (TestsError, ValueError, TypeError) as error:
        return Verdict(0.0, parts, extracted, error=f"the tests cannot be used: {error}", reason="unscored")
    except StarvedError as error:
        return Verdict(0.0, parts, extracted, error=f"no verdict: {error}", reason="unscored")
    except SandboxError as error:
        return Verdict(0.0, parts, extracted, error=f"the sandbox failed: {error}", reason="unscored")
    except UserError:
        raise
    except Exception as error:  # a defect here, or tests like no others: it costs this verdict, and not the run
        why = f"no verdict ({type(error).__name__}: {error})"[:300]
        return Verdict(0.0, parts, extracted, error=why, reason="unscored")
    parts |= {"tests_passed": float(result.passed), "tests_total": float(result.total)}
    if every:
        parts |= {"pass_rate": result.pass_rate, **_each(result)}
    if result.correct:
        return Verdict(1.0, parts, extracted)
    failure = result.failures[0] if result.failures else Failure(0, "not every test was run", "unscored")
    why = f"test {failure.number + 1} of {result.total}: {failure.why}"
    share = result.pass_rate if partial and failure.reason != "unscored" else 0.0
    return Verdict(min(share, MAX_PARTIAL), parts, extracted, error=why, reason=failure.reason)


def _each(result: Result) -> dict[str, float]:
    """1 for each test that passed and 0 for each that did not, by number from 1, of the first MAX_LISTED_TESTS."""
    failed = {failure.number for failure in result.failures}
    return {f"test:{number + 1}": float(number not in failed) for number in range(min(result.total, MAX_LISTED_TESTS))}


def _tests(problem: Problem) -> Tests:
    """The problem's tests, or the `max_tests` of them that a draw seeded by problem and `tests_seed` gives."""
    metadata = problem.metadata
    tests = parse_tests(metadata.get("tests"), metadata)
    if metadata.get("max_tests") is None:
        return tests
    return sampled(tests, int(metadata["max_tests"]), f"{metadata.get('tests_seed', 0)}:{problem.id}")


def wanted(tests: Tests) -> Wanted:
    """What the tests need of the code of an answer."""
    if isinstance(tests, StdinTests):
        return Wanted(reads_input=True)
    if isinstance(tests, CheckTests):
        return Wanted(names=tuple(tests.names))
    if tests.entry == "drive":
        return Wanted(names=tuple({str(case[0][0]) for case in tests.arguments}))
    return Wanted(names=(tests.entry.rpartition(".")[2],))


def _language(problem: Problem, tests: Tests) -> str | None:
    """The language that the code must be in; None when the answer chooses."""
    asked = problem.metadata.get("language")
    if asked is None:
        return None if isinstance(tests, StdinTests) else "python"
    language = language_of(str(asked))
    if language is None:
        raise TestsError(f"the language `{asked}` is not known here")
    return language


def _judge(pool: SandboxPool, code: str, language: str, tests: Tests, limits: Limits, stop: bool) -> Result:
    """Once more in another sandbox when the first one fails, by no fault of the code's; both within `answer_s`."""
    start = time.monotonic()
    try:
        with pool.lease() as slot:
            start = time.monotonic()
            return judge(slot, code, language, tests, limits, stop)
    except StarvedError:  # the machine is as busy now
        raise
    except SandboxError:
        left_s = limits.answer_wall_s - (time.monotonic() - start)
        if left_s <= 0:
            raise
    with pool.lease() as slot:
        return judge(slot, code, language, tests, dataclasses.replace(limits, answer_s=left_s), stop)


class _Shared:
    """The sandboxes of this process, and a thread for each."""

    def __init__(self) -> None:
        url = os.environ.get(URL_VARIABLE) or None
        workers = _workers(REMOTE_WORKERS if url else os.cpu_count() or 1)
        self.pool = SandboxPool(workers, url=url)
        self.threads = DaemonThreads(workers, "h1r-code")
        self.pid = os.getpid()
        note(f"tested code runs with isolation by {self.pool.level.name.lower()}")

    def close(self) -> None:
        if os.getpid() == self.pid:
            self.threads.close()
            self.pool.close()


_lock = threading.Lock()
_instance: _Shared | None = None


def _shared() -> _Shared:
    global _instance
    with _lock:
        if _instance is None or _instance.pid != os.getpid():
            _instance = _Shared()
            atexit.register(_instance.close)
        return _instance


def _workers(default: int) -> int:
    text = os.environ.get(WORKERS_VARIABLE) or str(default)
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{WORKERS_VARIABLE}={text} is no number of sandboxes; give one from 1 up")
    return int(text)
