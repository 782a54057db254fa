"""A method of test-time scaling on many problems through one engine.

Each problem asks for its first traces (`Method.first`) at the beginning, all problems together, in one stream of the
engine. When all that a problem asked for have ended it asks for more (`Method.more`), behind what waits already, or is
over; a method may also end it in between (`Method.settled`), which cancels what still runs of it. No problem waits for
another's.

Trace j of a problem is drawn from `seed + j`, the first ones first. A majority baseline with the same seeds is
therefore paired with any run: every trace of the run is a prefix of the baseline's trace j. All generated tokens are
counted, those of stopped and cancelled traces included.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.records import Trace
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract, certainly_equivalent, extract_answer
from h1r.scaling.ballot import Ballot, Method, Solution

OnTrace = Callable[[Trace], None]


def problem_seed(seed: int, problem_id: str) -> int:
    """The base seed of one problem's traces, 48 bits: a function of the run's seed and the problem alone.

    Problems draw from streams that do not overlap (trace j adds j), a problem's traces do not depend on which others
    are in the file, and runs with seeds 0 and 1 share nothing, which `seed + j` alone would make overlap.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}/{problem_id}".encode(), digest_size=6).digest(), "big")


class ScalingRun:
    """A method on all prompts together. What a problem asks for later joins the stream behind what waits already.

    `seeds` holds one base seed per prompt (`problem_seed`); `groups` one `AnswerGroups` per prompt (default: the first
    tier of mathematical equivalence); `extract` one function, or one per prompt. `on_trace` sees each trace as it ends,
    with `prompt_index` and `sample_index` counted over the whole run. A display that is called while `solve` runs
    (from `on_trace`, or `engine.watch`) may read `ballots`, `running`, `warming_up` and `finished`.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        params: Method,
        *,
        seeds: Sequence[int],
        extract: Extract | Sequence[Extract] = extract_answer,
        groups: Sequence[AnswerGroups] | None = None,
        on_trace: OnTrace | None = None,
    ) -> None:
        each = [extract] * len(prompts) if callable(extract) else extract
        groups = groups if groups is not None else [AnswerGroups(certainly_equivalent) for _ in prompts]
        self.engine = engine
        self.prompts = prompts
        self.params = params
        self.seeds = seeds
        self.on_trace = on_trace
        self.ballots = [Ballot(params, one, of) for one, of in zip(each, groups, strict=True)]
        self._warming_up = set(range(len(prompts))) if params.warmup else set[int]()
        self._asked = [min(max(int(params.first()), 1), params.budget)] * len(prompts)
        """Of each problem, how many traces it has asked for."""
        self._over = set[int]()
        self._requests: list[tuple[int, int]] = []
        """Of each prompt of the stream, its problem, and the number of its first trace in that."""

    def solve(self) -> list[Solution]:
        """Runs to the end; solutions are in the order of the prompts."""
        self._requests = [(index, 0) for index in range(len(self.prompts))]
        requests = [self._request(index, 0, count) for index, count in enumerate(self._asked)]
        for trace in self.engine.stream(self.prompts, requests):
            local = trace.prompt_index
            ballot = self._renumber(trace)
            index = trace.prompt_index
            settled = False
            if index in self._warming_up:
                ballot.collect(trace)
            elif ballot.stop_reason != "budget":
                ballot.add_late(trace)
            else:
                ballot.add(trace)
                settled = self.params.settled(ballot, ballot.entries[trace.sample_index])
            self._tell(trace)
            if settled:
                ballot.stop_reason = self.params.settling
                self._over.add(index)
                for cancelled in self.engine.cancel(local):
                    self._renumber(cancelled)
                    ballot.add_late(cancelled)
                    self._tell(cancelled)
            elif index not in self._over and len(ballot.entries) == self._asked[index]:
                self._go_on(index)
        return [ballot.solution(index) for index, ballot in enumerate(self.ballots)]

    def warming_up(self, index: int) -> bool:
        """Whether a warm-up trace of a problem has not ended yet."""
        return index in self._warming_up

    def finished(self, index: int) -> bool:
        """Whether nothing more will be generated for a problem."""
        return index in self._over or (
            not self.warming_up(index) and len(self.ballots[index].entries) == self.params.budget
        )

    def running(self) -> list[Running]:
        """The traces that are being decoded now, as `Engine.progress` has them, counted over the whole run."""
        found = []
        for one in self.engine.progress():
            index, first = self._requests[one.prompt_index]
            found.append(dataclasses.replace(one, prompt_index=index, sample_index=one.sample_index + first))
        return found

    def _go_on(self, index: int) -> None:
        """All that a problem asked for have ended: its warm-up is over, and more is asked for, or nothing."""
        ballot, asked = self.ballots[index], self._asked[index]
        if index in self._warming_up:
            self._warming_up.remove(index)
            ballot.close_warmup()
        left = self.params.budget - asked
        count = min(int(self.params.more(ballot)), left) if left > 0 else 0
        if count <= 0:
            self._over.add(index)
            if asked < self.params.budget:
                ballot.stop_reason = self.params.early
            return
        self._asked[index] += count
        self._requests.append((index, asked))
        self.engine.add(self.prompts[index], self._request(index, asked, count))

    def _request(self, index: int, first: int, count: int) -> SamplingParams:
        return dataclasses.replace(self.params.requested(self.ballots[index]), n=count, seed=self.seeds[index] + first)

    def _renumber(self, trace: Trace) -> Ballot:
        """Counts a trace over the whole run; its ballot."""
        trace.prompt_index, first = self._requests[trace.prompt_index]
        trace.sample_index += first
        return self.ballots[trace.prompt_index]

    def _tell(self, trace: Trace) -> None:
        if self.on_trace is not None:
            self.on_trace(trace)


def solve_many(
    engine: Engine,
    prompts: Sequence[Prompt],
    params: Method,
    *,
    seeds: Sequence[int],
    extract: Extract | Sequence[Extract] = extract_answer,
    groups: Sequence[AnswerGroups] | None = None,
    on_trace: OnTrace | None = None,
) -> list[Solution]:
    """A method on many prompts: `ScalingRun` for a caller that waits for the end."""
    return ScalingRun(engine, prompts, params, seeds=seeds, extract=extract, groups=groups, on_trace=on_trace).solve()
