"""Code that an answer contains, run against the tests of its problem.

    reward = 1 if every test passes, else 0

`problem.metadata["tests"]` holds the tests in any form that `code_tests.parse_tests` knows; `metadata["language"]` the
language, if it is not the code fence's or Python; `metadata["limits"]` any of `time_s`, `total_s`, `memory_bytes`.

A verdict's parts are `tests_passed`, `tests_total`, and `isolation:LEVEL` = 1, so that the mean over many verdicts
shows how they were made. It bounds itself, wherever it is called: tested code runs in `h1r.verify.sandbox`, never
here.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import textwrap
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify.code_judge import Result, judge
from h1r.verify.code_tests import TestsError, parse_tests
from h1r.verify.sandbox.fusion import URL_VARIABLE
from h1r.verify.sandbox.limits import Isolation, Limits
from h1r.verify.sandbox.pool import SandboxPool
from h1r.verify.sandbox.programs import LANGUAGES
from h1r.verify.sandbox.runner import SandboxError

WORKERS_VARIABLE = "H1R_SANDBOX_WORKERS"
MAX_CODE_CHARS = 400_000
MAX_EXTRACTED_CHARS = 20_000
_LIMIT_NAMES = ("time_s", "total_s", "memory_bytes")
_log = logging.getLogger("h1r.verify.code")


@dataclass(frozen=True, slots=True)
class Solution:
    """`language` is what the fence said, as a value of `LANGUAGES`; None when it said nothing."""

    code: str
    language: str | None


_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})[ \t]*([^\s`{]*)[^\n]*")
_BEGINS_CODE = re.compile(
    r"(?:from[ \t]+[\w.]+[ \t]+import|import[ \t]+\w|(?:async[ \t]+)?def[ \t]+\w|class[ \t]+\w|@\w|#include|#!"
    r"|using[ \t]"
    r"|if[ \t]+__name__|[A-Za-z_][\w, \t\[\]]*=[^=]|print\(|(?:for|while|with)[ \t].*:|const[ \t]|let[ \t]|\"\"\"|''')"
)


def extract_code(answer: str, language: str | None = None) -> Solution | None:
    """The code of an answer: the last fenced block that says it is code, else the last one that says nothing.

    `language` (a value of `LANGUAGES`) leaves out blocks of another one. Without any fence the whole answer counts if
    it begins like code; so does what stands before a single closing fence, whose opening one was part of the prompt.
    None when there is no code, or the last block is not closed. Linear time.
    """
    blocks, dangling = _fenced_blocks(answer)
    if dangling is not None:
        before = answer[:dangling]
        return (
            Solution(before, None)
            if not blocks and _is_code(before) and answer[dangling:].lstrip()[:4].strip("`~") == ""
            else None
        )
    if not blocks:
        return Solution(answer, None) if _is_code(answer) else None
    named = [(LANGUAGES[tag], code) for tag, code in blocks if tag in LANGUAGES]
    if language is not None:
        named = [(tag, code) for tag, code in named if tag == language]
    if named:
        return Solution(named[-1][1], named[-1][0])
    plain = [code for tag, code in blocks if not tag]
    return Solution(plain[-1], None) if plain else None


def _fenced_blocks(text: str) -> tuple[list[tuple[str, str]], int | None]:
    """(lower-case tag, content) of the closed blocks, and where a block that is never closed begins."""
    blocks: list[tuple[str, str]] = []
    fence, tag, begin, content = "", "", 0, 0
    position = 0
    for line in text.splitlines(keepends=True):
        match = _FENCE.match(line)
        if match and not fence:
            fence, tag, begin, content = match[1], match[2].lower(), position, position + len(line)
        elif match and match[1].startswith(fence) and not match[2]:
            blocks.append((tag, textwrap.dedent(text[content:position])))
            fence = ""
        position += len(line)
    return blocks, begin if fence else None


def _is_code(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "")
    return _BEGINS_CODE.match(first.lstrip()) is not None


def grade(problem: Problem, answer: str) -> Verdict:
    """The verdict on one answer, in a sandbox that all callers of this process share.

    Never raises on `answer` and takes no longer than its limits allow. `UserError` when tested code cannot be confined
    here and the user has not said that it need not be.
    """
    return grade_in(_shared().pool, problem, answer)


def grade_many(problems: Sequence[Problem], answers: Sequence[str]) -> list[Verdict]:
    """`grade` of each pair, in order, as many at once as there are sandboxes."""
    return [future.result() for future in [submit(*pair) for pair in zip(problems, answers, strict=True)]]


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
    metadata = problem.metadata
    wanted = metadata.get("language")
    language = LANGUAGES.get(str(wanted).lower()) if wanted else None
    if wanted and language is None:
        return Verdict(0.0, parts, error=f"the language `{wanted}` is not known here")
    solution = extract_code(answer, language)
    if solution is None or len(solution.code) > MAX_CODE_CHARS:
        return Verdict(0.0, parts, error="no code in the answer" if solution is None else "too much code")
    extracted = solution.code[:MAX_EXTRACTED_CHARS]
    try:
        tests = parse_tests(metadata.get("tests"), metadata)
        given = metadata.get("limits") or {}
        limits = Limits(**{name: given[name] for name in _LIMIT_NAMES if name in given})
        result = _judge(pool, solution.code, language or solution.language or "python", tests, limits)
    except (TestsError, ValueError, TypeError) as error:
        return Verdict(0.0, parts, extracted, error=f"the problem's tests cannot be used: {error}")
    except SandboxError as error:
        return Verdict(0.0, parts, extracted, error=f"the sandbox failed: {error}")
    parts |= {"tests_passed": float(result.passed), "tests_total": float(result.total)}
    why = None
    if not result.correct:
        number, reason = result.failures[0] if result.failures else (0, "not every test was run")
        why = f"test {number + 1} of {result.total}: {reason}"
    return Verdict(float(result.correct), parts, extracted, why)


def _judge(pool: SandboxPool, code: str, language: str, tests: object, limits: Limits) -> Result:
    """Once more in another sandbox when the first one fails, which is no fault of the code's."""
    try:
        with pool.lease() as slot:
            return judge(slot, code, language, tests, limits)  # type: ignore[arg-type]
    except SandboxError:
        with pool.lease() as slot:
            return judge(slot, code, language, tests, limits)  # type: ignore[arg-type]


class _Shared:
    """The sandboxes of this process, and a thread for each."""

    def __init__(self) -> None:
        workers = _workers()
        self.pool = SandboxPool(workers, url=os.environ.get(URL_VARIABLE) or None)
        self.threads = ThreadPoolExecutor(workers, thread_name_prefix="h1r-code")
        self.pid = os.getpid()
        level = self.pool.level
        weak = level == Isolation.RLIMITS
        _log.log(logging.WARNING if weak else logging.INFO, "tested code runs with isolation by %s", level.name.lower())

    def close(self) -> None:
        if os.getpid() == self.pid:
            self.threads.shutdown(wait=False, cancel_futures=True)
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


def _workers() -> int:
    text = os.environ.get(WORKERS_VARIABLE) or str(os.cpu_count() or 1)
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{WORKERS_VARIABLE}={text} is no number of sandboxes; give one from 1 up")
    return int(text)
