"""Verdicts on hostile output: every answer is graded where it can be killed, and costs only its own verdict.

    verdict.parts = {"correct": 0 or 1, "format": 0 or 1, ...}      verdict.reward = parts["correct"]

An answer over its time limit, and one whose process dies, get reward 0, an error and the reason. Each is graded by a
process of its own (`worker`), so that no answer pays for what another one did.
"""

from __future__ import annotations

import atexit
import dataclasses
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.response.extract import split_response
from h1r.response.format import check_format
from h1r.verify.registry import Verifier, require, resolve
from h1r.verify.workers.dispatch import Dispatcher
from h1r.verify.workers.handles import Job
from h1r.verify.workers.isolation import WorkerIsolation

MAX_TEXT_CHARS = 4_000_000
MAX_ANSWER_CHARS = 1_000_000
"""Longer responses, and longer answers after the thinking, are refused unread."""


class VerifierPool:
    """Grades answers in `workers` child processes, started when first needed. Usable from any thread, at once.

    `time_limit_s` is the processor time of one answer, or what it slept (`clock`), and `memory_limit_bytes` its address
    space. Without
    `format_checks` the verdicts say nothing of the response's format; reading it whole takes most of the time. Use it
    as a context manager, or call `close`; children also end when this process does, however it ends.
    """

    def __init__(
        self,
        workers: int = 1,
        time_limit_s: float = 5.0,
        memory_limit_bytes: int = 2 << 30,
        format_checks: bool = True,
    ) -> None:
        if workers < 1 or time_limit_s <= 0:
            raise ValueError("VerifierPool needs workers >= 1 and time_limit_s > 0")
        self._arguments = (workers, time_limit_s, memory_limit_bytes)
        self._format_checks = format_checks
        self._dispatcher: Dispatcher | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; answers that wait get no verdict but an exception. The pool may be used again."""
        with self._lock:
            dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None and os.getpid() == self._pid:
            dispatcher.close()

    def worker_pids(self) -> list[int]:
        """The process ids of the workers there are now; a spare beyond `workers` may be among them."""
        return self._dispatcher.pids() if self._dispatcher else []

    @property
    def isolation(self) -> WorkerIsolation | None:
        """What confines the workers, or the weakest of them, beside their limits; None while no answer needed one."""
        return self._dispatcher.isolation if self._dispatcher else None

    def verify_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """One verdict per (problem, text), in order. Raises for the caller's mistakes only, never for a text.

        `UserError`: an unknown verifier, or one that cannot be imported. `ValueError`: lists of different length.
        """
        batch = self.submit_many(problems, texts)
        try:
            return batch.verdicts()
        except BaseException:
            batch.cancel()
            raise

    def submit_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> PendingVerdicts:
        """Starts what `verify_many` waits for; answers that need no worker are graded before it returns."""
        if len(problems) != len(texts):
            raise ValueError(f"{len(problems)} problems but {len(texts)} texts")
        verifiers = [require(problem.verifier) for problem in problems]
        futures: list[Future[Verdict]] = []
        jobs: list[Job] = []
        for problem, verifier, text in zip(problems, verifiers, texts, strict=True):
            answer = split_response(text).answer if len(text) <= MAX_TEXT_CHARS else text
            futures.append(Future())
            try:
                verdict = _decide_here(verifier, problem, answer)
            except UserError as error:
                futures[-1].set_exception(error)
                continue
            if verdict is not None:
                futures[-1].set_result(verdict)
                continue
            assert answer is not None
            if verifier.submit:
                futures[-1] = _submit(verifier, problem, answer)
            else:
                jobs.append(Job(verifier, problem, answer, futures[-1]))
        dispatcher = self._running() if jobs else None
        if dispatcher:
            dispatcher.submit(jobs)
        formats = [
            _format_parts(problem, text) if self._format_checks else {}
            for problem, text in zip(problems, texts, strict=True)
        ]
        return PendingVerdicts(futures, formats, jobs, dispatcher)

    def _running(self) -> Dispatcher:
        if os.getpid() != self._pid:
            raise RuntimeError("a VerifierPool does not work in a forked process; make one there")
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(*self._arguments)
            return self._dispatcher


class PendingVerdicts:
    """Answers that are being graded: a future per answer, in order, and what their format alone says."""

    def __init__(
        self,
        futures: list[Future[Verdict]],
        formats: list[dict[str, float]],
        jobs: list[Job],
        dispatcher: Dispatcher | None,
    ) -> None:
        self.futures = futures
        self._formats = formats
        self._jobs = jobs
        self._dispatcher = dispatcher

    def verdict(self, index: int) -> Verdict:
        """Waits for one verdict; `UserError` when its verifier cannot be loaded."""
        return _with_format(self.futures[index].result(), self._formats[index])

    def verdicts(self) -> list[Verdict]:
        """Waits for all verdicts."""
        return [self.verdict(index) for index in range(len(self.futures))]

    def cancel(self) -> None:
        """Gives up what has no verdict yet; what a verifier of its own bounds has begun ends by itself."""
        for future in self.futures:
            future.cancel()
        if self._dispatcher:
            self._dispatcher.cancel([job for job in self._jobs if not job.future.done()])


def verify(problem: Problem, text: str) -> Verdict:
    """The verdict on one response, by a pool of one worker that all callers of this process share.

    Never raises on `text` and never hangs; `UserError` for an unknown verifier.
    """
    return _shared_pool().verify_many([problem], [text])[0]


def reference_scores(problem: Problem, pool: VerifierPool | None = None) -> bool:
    """Whether the problem's own reference, stated as its verifier wants an answer stated, scores 1.0 under it.

    Of a problem whose kind has no reference (instructions to follow): whether it can be checked at all.
    """
    verifier, pool = require(problem.verifier), pool or _shared_pool()
    if verifier.answer_form is None:
        return verifier.usable_part in pool.verify_many([problem], ["An answer."])[0].parts
    return pool.verify_many([problem], [verifier.answer_form % problem.answer])[0].reward == 1.0


_shared: dict[int, VerifierPool] = {}
_shared_lock = threading.Lock()


def _shared_pool() -> VerifierPool:
    with _shared_lock:
        if os.getpid() not in _shared:
            _shared[os.getpid()] = VerifierPool()
            atexit.register(_shared[os.getpid()].close)
        return _shared[os.getpid()]


def decide(problem: Problem, text: str, format_checks: bool = True) -> Verdict | None:
    """The verdict when no worker is needed for it, else None; in linear time, so that any process may ask.

    `UserError` for what is wrong with the problem, as an option that its verifier does not know.
    """
    answer = split_response(text).answer if len(text) <= MAX_TEXT_CHARS else text
    verdict = _decide_here(require(problem.verifier), problem, answer)
    if verdict is None:
        return None
    return _with_format(verdict, _format_parts(problem, text) if format_checks else {})


def _decide_here(verifier: Verifier, problem: Problem, answer: str | None) -> Verdict | None:
    if answer is None:
        return Verdict(0.0, error="the thinking is not closed, so there is no answer", reason="not_extracted")
    if len(answer) > MAX_ANSWER_CHARS:
        return Verdict(
            0.0, error=f"the answer part is longer than {MAX_ANSWER_CHARS} characters", reason="not_readable"
        )
    if verifier.quick is None:
        return None
    try:
        verdict: Verdict | None = resolve(verifier.quick, verifier.file)(problem, answer)
    except UserError:
        raise
    except Exception as error:
        verdict = Verdict(0.0, error=f"{type(error).__name__}: {error}"[:300], reason="crash")
    if verdict is None and verifier.grade is None and verifier.submit is None:
        return Verdict(0.0, error=f"verifier `{verifier.name}` cannot read the answer", reason="not_readable")
    return verdict


def _submit(verifier: Verifier, problem: Problem, answer: str) -> Future[Verdict]:
    """The future of a verifier that bounds itself; it fails with `UserError` for the user's mistakes."""
    assert verifier.submit is not None
    try:
        future: Future[Verdict] = resolve(verifier.submit, verifier.file)(problem, answer)
    except (ImportError, UserError) as error:
        why = f"verifier `{verifier.name}` cannot be loaded ({error}); install what it needs"
        future = Future()
        future.set_exception(error if isinstance(error, UserError) else UserError(why))
    return future


def _format_parts(problem: Problem, text: str) -> dict[str, float]:
    if len(text) > MAX_TEXT_CHARS:
        return dict.fromkeys(check_format(""), 0.0)
    return check_format(text, problem.question)


def _with_format(verdict: Verdict, parts: dict[str, float]) -> Verdict:
    return dataclasses.replace(verdict, parts={"correct": verdict.reward, **parts, **verdict.parts})
