"""Many verdicts at once from an event loop: `await service.verify_many(problems, texts)`.

A backend turns (problems, texts) into futures. `VerifierPool` grades in processes of this machine, `RayBackend` in Ray
actors, on as many machines as the cluster has. Calls and verdicts are the same, and `open_backend` makes the one that a
recipe names.

Requests from different tasks share the workers and take turns. One hung or crashing answer delays the others by no
more than its own time limit, and not at all while another worker is free.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from h1r.records import Problem, Verdict
from h1r.verify.registry import require
from h1r.verify.workers.pool import VerifierPool

if TYPE_CHECKING:  # a recipe's classes take longer to make than the rest of a worker's start, and no worker has one
    from h1r.config.judge import JudgeSection
    from h1r.config.verify import VerifySection

MAX_DEFAULT_WORKERS = 8


class Pending(Protocol):
    """Answers that are being graded."""

    @property
    def futures(self) -> Sequence[Future[Verdict]]: ...

    def verdict(self, index: int) -> Verdict: ...

    def verdicts(self) -> list[Verdict]: ...

    def cancel(self) -> None: ...


class Backend(Protocol):
    """Where the grading happens. `VerifierPool` says what the methods promise."""

    def submit_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> Pending: ...

    def verify_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_backend(section: VerifySection, format_checks: bool = True) -> Backend:
    """The backend that a recipe asks for; `format_checks` as in `VerifierPool`, for callers that read those parts.

    `UserError`: Ray is not installed, its actors do not start, or `judge_on` asks for a judge and none is set.
    """
    if section.judge_on != "never":
        from h1r.verify.judge.second import SecondOpinion

        return SecondOpinion(
            open_backend(section.model_copy(update={"judge_on": "never"}), format_checks), section.judge_on
        )
    workers = section.workers or default_workers()
    if section.backend == "processes":
        return VerifierPool(workers, section.time_limit_s, format_checks=format_checks)
    from h1r.verify.workers.ray_backend import RayBackend

    return RayBackend(
        actors=workers, time_limit_s=section.time_limit_s, address=section.ray_address, format_checks=format_checks
    )


def default_workers() -> int:
    """Workers where a recipe asks for 0."""
    return min(os.cpu_count() or 1, MAX_DEFAULT_WORKERS)


def with_max_tests(problem: Problem, max_tests: int, seed: int, partial_credit: bool = False) -> Problem:
    """The problem, if its answers are programs with so many of its tests at most, unless it says itself how many.

    0: with all of them. `partial_credit`: with a reward for the share that passes, unless it says itself. The problem
    that is given does not change.
    """
    if not (max_tests or partial_credit) or require(problem.verifier).answer_kind != "program":
        return problem
    sample = {"max_tests": max_tests, "tests_seed": seed} if max_tests else {}
    share = {"partial_credit": True} if partial_credit else {}
    return dataclasses.replace(problem, metadata={**sample, **share, **problem.metadata})


def use_judge(section: JudgeSection) -> None:
    """See `judge.use`. What talks to servers is imported when somebody has one to ask."""
    from h1r.verify.judge import grade as judge

    judge.use(section)


def has_judge() -> bool:
    """Whether a server of a judge is set. `UserError` for settings that cannot be read."""
    from h1r.verify.judge import grade as judge

    return bool(judge.settings_of_environment().urls)


class RewardService:
    """Verdicts for coroutines. Makes a `VerifierPool` of `workers` processes unless a backend is given."""

    def __init__(self, backend: Backend | None = None, workers: int = 1, time_limit_s: float = 5.0) -> None:
        self._backend: Backend = backend or VerifierPool(workers, time_limit_s)

    async def verify(self, problem: Problem, text: str) -> Verdict:
        """One verdict; raises for the caller's mistakes only, as `VerifierPool.verify_many` does."""
        return (await self.verify_many([problem], [text]))[0]

    async def verify_many(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """One verdict per (problem, text), in order. Cancelling the task gives up what has no verdict yet.

        The cheap tier and the format checks run in a thread, so that the event loop goes on.
        """
        batch = await asyncio.to_thread(self._backend.submit_many, problems, texts)
        try:
            await asyncio.gather(*(asyncio.wrap_future(future) for future in batch.futures if not future.done()))
        except BaseException:
            batch.cancel()
            raise
        return batch.verdicts()

    async def close(self) -> None:
        """Ends the backend."""
        await asyncio.to_thread(self._backend.close)

    async def __aenter__(self) -> RewardService:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
