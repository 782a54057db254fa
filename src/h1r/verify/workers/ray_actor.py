"""What runs inside a Ray actor: the cheap tier, and a `VerifierPool` of that machine for the rest.

An actor keeps nothing between calls, so that losing one loses only the calls it was answering. Hostile answers run in
the pool's worker processes; in the actor itself run only `quick` functions, which end in linear time.
"""

from __future__ import annotations

import asyncio
import sys

from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.verify.registry import Verifier, register
from h1r.verify.workers.pool import VerifierPool, decide

Reply = Verdict | Exception
"""A verdict, or what the caller is to be told: a verifier that cannot be loaded."""
Wanted = tuple[Verifier, Problem, str]


class GradingActor:
    """The methods are coroutines of one event loop, so that any number of calls is under way at once."""

    def __init__(
        self, workers: int, time_limit_s: float, memory_limit_bytes: int, path: list[str], format_checks: bool = True
    ) -> None:
        sys.path += [entry for entry in path if entry not in sys.path]  # where the caller finds its own verifiers
        self._pool = VerifierPool(workers, time_limit_s, memory_limit_bytes, format_checks)
        self._format_checks = format_checks

    async def ready(self) -> bool:
        return True

    async def decide(self, wanted: list[Wanted]) -> list[Reply | None]:
        """The verdicts that need no worker; None for those that `grade` is to give."""
        for verifier in {verifier for verifier, _, _ in wanted}:
            register(verifier)
        return await asyncio.to_thread(
            lambda: [_decided(problem, text, self._format_checks) for _, problem, text in wanted]
        )

    async def grade(self, verifier: Verifier, problem: Problem, text: str) -> Reply:
        """The verdict, by a worker if need be. When the call is cancelled the answer is given up."""
        register(verifier)
        batch = await asyncio.to_thread(self._pool.submit_many, [problem], [text])
        try:
            await asyncio.wrap_future(batch.futures[0])
            return batch.verdict(0)
        except (UserError, RuntimeError) as error:
            return error
        except asyncio.CancelledError:
            batch.cancel()
            raise


def _decided(problem: Problem, text: str, format_checks: bool) -> Reply | None:
    try:
        return decide(problem, text, format_checks)
    except UserError as error:
        return error
