"""Online DeepConf (arXiv 2508.15260, Algorithm 2; the Falcon-H1R paper, section 5.1), many problems through one engine.

Per problem, with budget B, N warm-up traces, lowest group confidence C_t of trace t and threshold s:

    1. N traces run to their end.              s = a percentile of their C_t (`stopping_threshold`)
    2. B - N traces run; the engine itself ends a trace whose last full window has a mean confidence below s.
    3. V(a) = sum of the weights of the voting traces that answer a;   beta = max_a V(a) / sum_a V(a)
    4. With tau, nothing more is spent once beta >= tau: checked after the warm-up and after each later trace. Our
       `consensus="lead"` asks this of the probability that the leader is ahead instead (`lead_probability`): a clear
       plurality ends a problem, and 6 votes of 8 do not.

Which traces vote: those that ended by themselves, hold an answer and have C_t >= s. So a warm-up trace below s does not
vote, and neither does a trace that was too short to be stopped but lies below s; both are the reference
implementation's rule. `warmup_votes="all"` lets every warm-up trace vote. When no trace of a problem qualifies at the
end, all its answered traces vote instead (`Solution.fallback`): the reference gives no answer there.

Trace j of a problem is drawn from `seed + j`, warm-up first. A majority baseline with the same seeds is therefore
paired with the run: every trace of the run is a prefix of the baseline's trace j. All generated tokens are counted,
those of stopped and cancelled traces included.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

from h1r.engine.protocol import Engine, Prompt, Running, SamplingParams
from h1r.records import Trace
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract, certainly_equivalent, extract_answer
from h1r.scaling.ballot import STATES, Ballot, Solution, State, StopReason
from h1r.scaling.parameters import DeepConf

__all__ = [
    "STATES",
    "DeepConfRun",
    "Solution",
    "State",
    "StopReason",
    "majority_baseline",
    "majority_params",
    "problem_seed",
    "solve_many",
]

OnTrace = Callable[[Trace], None]


def problem_seed(seed: int, problem_id: str) -> int:
    """The base seed of one problem's traces, 48 bits: a function of the run's seed and the problem alone.

    Problems draw from streams that do not overlap (trace j adds j), a problem's traces do not depend on which others
    are in the file, and runs with seeds 0 and 1 share nothing, which `seed + j` alone would make overlap.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}/{problem_id}".encode(), digest_size=6).digest(), "big")


class DeepConfRun:
    """Online DeepConf on all prompts together, in one stream of the engine. The warm-ups begin it; the rest of a
    problem joins as soon as its own warm-up has ended, behind what waits already, and no problem waits for another's.

    `seeds` holds one base seed per prompt (`problem_seed`); `groups` one `AnswerGroups` per prompt (default: the first
    tier of mathematical equivalence); `extract` one function, or one per prompt. `on_trace` sees each trace as it ends,
    with `prompt_index` and `sample_index` counted over the whole run. A display that is called while `solve` runs
    (from `on_trace`, or `engine.watch`) may read `ballots`, `running`, `warming_up` and `finished`.
    """

    def __init__(
        self,
        engine: Engine,
        prompts: Sequence[Prompt],
        params: DeepConf,
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
        self._warming_up = set(range(len(prompts)))
        self._requests: list[tuple[int, int]] = []
        """Of each prompt of the stream, its problem, and the number of its first trace in that."""

    def solve(self) -> list[Solution]:
        """Runs to the end; solutions are in the order of the prompts."""
        warm = dataclasses.replace(self.params.sampling, n=self.params.warmup, confidence_threshold=None)
        self._requests = [(index, 0) for index in range(len(self.prompts))]
        for trace in self.engine.stream(self.prompts, [dataclasses.replace(warm, seed=seed) for seed in self.seeds]):
            local = trace.prompt_index
            ballot, first = self._renumber(trace)
            if first == 0:
                ballot.collect(trace)
                self._tell(trace)
                if len(ballot.entries) == self.params.warmup:
                    self._go_on(trace.prompt_index)
            elif ballot.stop_reason == "consensus":
                ballot.add_late(trace)
                self._tell(trace)
            else:
                reached = ballot.add(trace) and ballot.agreed()
                self._tell(trace)
                if reached:
                    ballot.stop_reason = "consensus"
                    for cancelled in self.engine.cancel(local):
                        self._renumber(cancelled)
                        ballot.add_late(cancelled)
                        self._tell(cancelled)
        return [ballot.solution(index) for index, ballot in enumerate(self.ballots)]

    def warming_up(self, index: int) -> bool:
        """Whether a warm-up trace of a problem has not ended yet."""
        return index in self._warming_up

    def finished(self, index: int) -> bool:
        """Whether nothing more will be generated for a problem."""
        ballot = self.ballots[index]
        done = ballot.stop_reason != "budget" or len(ballot.entries) == self.params.budget
        return done and not self.warming_up(index)

    def running(self) -> list[Running]:
        """The traces that are being decoded now, as `Engine.progress` has them, counted over the whole run."""
        found = []
        for one in self.engine.progress():
            index, first = self._requests[one.prompt_index]
            found.append(dataclasses.replace(one, prompt_index=index, sample_index=one.sample_index + first))
        return found

    def _go_on(self, index: int) -> None:
        """The warm-up of a problem has ended: its other traces are asked for, with the threshold that it gave."""
        params, ballot = self.params, self.ballots[index]
        self._warming_up.remove(index)
        ballot.close_warmup()
        if params.budget == params.warmup:
            return
        if ballot.agreed():
            ballot.stop_reason = "warmup consensus"
            return
        request = dataclasses.replace(
            params.sampling, n=params.budget - params.warmup, seed=self.seeds[index] + params.warmup,
            confidence_threshold=ballot.limit,
        )  # fmt: skip
        self._requests.append((index, params.warmup))
        self.engine.add(self.prompts[index], request)

    def _renumber(self, trace: Trace) -> tuple[Ballot, int]:
        """Counts a trace over the whole run; its ballot, and the number of the first trace of its request."""
        trace.prompt_index, first = self._requests[trace.prompt_index]
        trace.sample_index += first
        return self.ballots[trace.prompt_index], first

    def _tell(self, trace: Trace) -> None:
        if self.on_trace is not None:
            self.on_trace(trace)


def solve_many(
    engine: Engine,
    prompts: Sequence[Prompt],
    params: DeepConf,
    *,
    seeds: Sequence[int],
    extract: Extract | Sequence[Extract] = extract_answer,
    groups: Sequence[AnswerGroups] | None = None,
    on_trace: OnTrace | None = None,
) -> list[Solution]:
    """Online DeepConf on many prompts: `DeepConfRun` for a caller that waits for the end."""
    return DeepConfRun(engine, prompts, params, seeds=seeds, extract=extract, groups=groups, on_trace=on_trace).solve()


def majority_params(budget: int, sampling: SamplingParams) -> DeepConf:
    """Majority voting as a case of DeepConf: a warm-up that takes the whole budget, and every trace votes."""
    return DeepConf(budget=budget, warmup=budget, keep_top=1.0, voter="majority", warmup_votes="all", sampling=sampling)


def majority_baseline(
    engine: Engine,
    prompts: Sequence[Prompt],
    budget: int,
    sampling: SamplingParams,
    *,
    seeds: Sequence[int],
    extract: Extract | Sequence[Extract] = extract_answer,
    groups: Sequence[AnswerGroups] | None = None,
    on_trace: OnTrace | None = None,
) -> list[Solution]:
    """Self-consistency: `budget` complete traces per prompt, one vote each. Paired with `solve_many` by the seeds."""
    params = majority_params(budget, sampling)
    return solve_many(engine, prompts, params, seeds=seeds, extract=extract, groups=groups, on_trace=on_trace)
