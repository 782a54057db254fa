"""DeepConf, or another method, on one question of a request: `ScalingRun` in a thread.

Its progress and its outcome go to the event loop.

It is the run of `h1r solve`, on the same prompt, with the same seeds (`problem_seed` of the request's seed and the
question), the same reading and comparing of answers, and the same policy for traces that fail.

Which trace is shown. select "votes": of the traces that voted for the winning answer in its most frequent form, the one
of the highest confidence (that of the voter, the lowest group confidence for a majority), the earlier of equals.
select "tests": the same of those whose program passes the request's tests; where none does, of those that pass most.
select "confidence", and where no trace holds an answer or passes a test: of the traces that ended by themselves, those
with more than their thinking first, the one of the highest confidence; of those at the token limit where none did.
`Outcome.selected_by` says which.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from h1r.config.rollout import RolloutSection
from h1r.engine.protocol import Engine
from h1r.records import Problem, Trace
from h1r.rollout.pipeline import RolloutPipeline, VerifyMany
from h1r.rollout.prompts import ProblemPrompt
from h1r.scaling.answers import extract_for, groups_for
from h1r.scaling.ballot import Ballot, Entry, Solution
from h1r.scaling.parameters import DeepConf
from h1r.scaling.run import ScalingRun, problem_seed
from h1r.scaling.voting import VOTERS
from h1r.serve.engine_thread import EngineThread
from h1r.serve.options import Plan
from h1r.serve.progress_events import ProgressEvents
from h1r.serve.reply_text import parts_of
from h1r.serve.session import Session
from h1r.serve.spans import RequestSpan
from h1r.serve.testing import TestRuns

PERIOD_S = 0.2
"""Seconds between two progress events, at least."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of DeepConf. seed: of the request. rollout: the policy for failed traces. stopping: who ends a
    doubtful trace: the "engine", the server by closing its "stream", or nobody, so that "consensus" alone saves."""

    problem: Problem
    prompt: ProblemPrompt
    plan: Plan
    seed: int
    rollout: RolloutSection
    verify_many: VerifyMany
    tokenizer: Any
    stopping: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `shown` is the trace whose text is the reply; None where no trace has any text."""

    solution: Solution
    ballot: Ballot
    shown: Trace | None
    selected_by: str
    seconds: float
    last_event: dict[str, Any]
    tests: TestRuns | None = None
    """What programs passed, where the request carries tests."""


class Solving:
    """Begins at once. `async for` gives progress events, and the `Outcome` last; an error of the run is raised."""

    def __init__(self, owner: EngineThread, question: Question, events: bool, span: RequestSpan | None = None) -> None:
        self._question, self._events = question, events
        self._session = Session(owner, span)
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[dict[str, Any] | Outcome | BaseException] = asyncio.Queue()
        self._last = 0.0
        self._over = self._waits = False
        threading.Thread(target=self._run, name="h1r-deepconf", daemon=True).start()

    async def __aiter__(self) -> AsyncIterator[dict[str, Any] | Outcome]:
        try:
            while not self._over:
                found = await self._queue.get()
                self._over, self._waits = not isinstance(found, dict), False
                if isinstance(found, BaseException):
                    raise found
                yield found
        finally:
            if not self._over:
                self.give_up()

    def give_up(self) -> None:
        """Nobody waits any more."""
        self._session.end(give_up=True)

    def finish(self) -> None:
        """Ends what runs, and votes on what there is."""
        self._session.end(give_up=False)

    def _run(self) -> None:
        try:
            self._tell(solve(self._session, self._question, self._progress))
        except BaseException as error:
            self._tell(error)

    def _progress(self, events: ProgressEvents) -> None:
        """Tells of it, unless what was told before waits for a client that reads slowly: the next one says more."""
        now = time.monotonic()
        if self._events and now - self._last >= PERIOD_S and not self._waits:
            self._last, self._waits = now, True
            self._tell(events.event())

    def _tell(self, what: dict[str, Any] | Outcome | BaseException) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, what)
        except RuntimeError:  # the loop has been closed, and nobody listens
            return


def solve(engine: Engine, question: Question, look: Callable[[ProgressEvents], None]) -> Outcome:
    """The run, in the thread that calls; `look` is called at every trace that ends, and in between."""
    begun = time.monotonic()
    problem, plan = question.problem, question.plan
    pipeline = RolloutPipeline(engine, question.tokenizer, question.verify_many, section=question.rollout)
    tests = TestRuns(problem) if plan.tests else None
    run = ScalingRun(
        pipeline.engine, [question.prompt], plan.params, seeds=[problem_seed(question.seed, problem.id)],
        extract=tests or extract_for(problem), groups=[groups_for(problem, question.verify_many)],
        on_trace=lambda _: look(events),
    )  # fmt: skip
    events = ProgressEvents(run, plan.method, plan.curves)
    engine.watch(lambda: look(events))
    (solution,) = run.solve()
    if tests is not None:
        tests.raise_if_none_ran()
    ballot = run.ballots[0]
    entry, by = shown(ballot, solution, plan, tests)
    trace = None if entry is None else entry.trace
    return Outcome(solution, ballot, trace, by, time.monotonic() - begun, events.event(), tests)


def shown(ballot: Ballot, solution: Solution, plan: Plan, tests: TestRuns | None = None) -> tuple[Entry | None, str]:
    """The trace that the reply shows, and what selected it; see the module."""
    entries = [ballot.entries[index] for index in sorted(ballot.entries)]
    if plan.select == "votes" and solution.answer is not None:
        states = ("voted", "below_threshold") if solution.fallback else ("voted",)
        found = [e for e in entries if e.state in states and e.answer == solution.answer]
        return _surest(found, plan), "votes"
    if tests is not None and (most := max((tests.passed(e.trace.text) for e in entries), default=0.0)):
        return _surest([e for e in entries if tests.passed(e.trace.text) == most], plan), "tests"
    complete = [e for e in entries if e.trace.finish_reason == "stop" and e.state != "cancelled"]
    complete = [e for e in complete if parts_of(e.trace.text)[1].strip()] or complete  # thinking alone is no reply
    complete = complete or [e for e in entries if e.confidence is not None] or [e for e in entries if e.trace.text]
    return _surest(complete, plan), "confidence"


def _surest(entries: list[Entry], plan: Plan) -> Entry | None:
    statistic = (VOTERS[plan.params.voter][0] if isinstance(plan.params, DeepConf) else None) or "lowest"

    def confidence(entry: Entry) -> float:
        return -1.0 if entry.confidence is None else float(getattr(entry.confidence, statistic))

    return max(entries, key=confidence, default=None)  # the first of equals
