"""Online DeepConf (arXiv 2508.15260, Algorithm 2; the Falcon-H1R paper, section 5.1), many problems through one engine.

Per problem, with budget B, N warm-up traces, lowest group confidence C_t of trace t and threshold s:

    1. N traces run to their end.              s = percentile_{100 (1 - keep_top)} of their C_t
    2. B - N traces run; the engine itself ends a trace whose last full window has a mean confidence below s.
    3. V(a) = sum of the weights of the voting traces that answer a;   beta = max_a V(a) / sum_a V(a)
    4. With tau, nothing more is spent once beta >= tau: checked after the warm-up and after each later trace.

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
from dataclasses import dataclass, field
from typing import Any, Literal

from h1r.config import ScalingSection
from h1r.engine.protocol import Engine, Prompt, SamplingParams
from h1r.records import Trace
from h1r.scaling.answers import certainly_equivalent, extract_answer
from h1r.scaling.confidence import Confidence, stopping_limit, stopping_threshold, summarise
from h1r.scaling.voting import AnswerGroups, Vote, Voter, vote_by

Extract = Callable[[str], str | None]
State = Literal["voted", "below_threshold", "no_answer", "stopped", "cancelled", "error"]
StopReason = Literal["budget", "consensus", "warmup consensus"]
OnTrace = Callable[[Trace], None]

STATES: tuple[State, ...] = ("voted", "below_threshold", "no_answer", "stopped", "cancelled", "error")
"""What became of a trace's tokens: voted; complete but below the threshold; complete without an answer; stopped early
by its confidence; in flight when consensus was reached; failed in the engine."""


@dataclass(frozen=True, slots=True)
class DeepConf:
    """The parameters of one run. Raises `ValueError` for values that cannot work.

    budget: traces per problem, the `warmup` included. keep_top: see `stopping_threshold`. tau None: fixed budget, as in
    the Falcon-H1R paper. `sampling` gives temperature, top-p, max_tokens, and the confidence window and top-k.
    """

    budget: int
    warmup: int = 16
    keep_top: float = 0.10
    tau: float | None = None
    voter: Voter = "min_window"
    warmup_votes: Literal["above_threshold", "all"] = "above_threshold"
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        checks = {
            "warmup": self.warmup >= 1,
            "budget": self.budget >= self.warmup,
            "keep_top": 0 < self.keep_top <= 1,
            "tau": self.tau is None or 0 < self.tau <= 1,
        }
        for name, ok in checks.items():
            if not ok:
                raise ValueError(f"DeepConf.{name} = {getattr(self, name)!r} is out of range")

    @classmethod
    def from_section(cls, section: ScalingSection, budget: int) -> DeepConf:
        """The recipe's [scaling] table at one of its budgets."""
        return cls(
            budget=budget, warmup=section.warmup, keep_top=section.keep_top, tau=section.tau, voter=section.voter,
            warmup_votes=section.warmup_votes, sampling=sampling_of(section),
        )  # fmt: skip


def sampling_of(section: ScalingSection) -> SamplingParams:
    """The decoding part of the recipe's [scaling] table."""
    return SamplingParams(
        temperature=section.temperature, top_p=section.top_p, max_tokens=section.max_tokens,
        confidence_window=section.window, confidence_top_k=section.top_k,
    )  # fmt: skip


def problem_seed(seed: int, problem_id: str) -> int:
    """The base seed of one problem's traces, 48 bits: a function of the run's seed and the problem alone.

    Problems draw from streams that do not overlap (trace j adds j), a problem's traces do not depend on which others
    are in the file, and runs with seeds 0 and 1 share nothing, which `seed + j` alone would make overlap.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}/{problem_id}".encode(), digest_size=6).digest(), "big")


@dataclass(slots=True)
class Solution:
    """What one problem came to. `traces` are in order of `sample_index`; `states` belong to them one by one.

    `threshold`: s in nats, None when none was needed (majority) or no warm-up trace has tokens. `tokens`: generated
    tokens by state; their sum is everything that was spent.
    """

    prompt_index: int
    vote: Vote
    traces: list[Trace]
    states: list[State]
    threshold: float | None
    stop_reason: StopReason
    budget: int
    fallback: bool = False

    @property
    def answer(self) -> str | None:
        return self.vote.answer

    @property
    def answer_trace(self) -> Trace | None:
        """The first trace that voted for the answer; None without one."""
        return None if self.vote.index is None else self.traces[self.vote.index]

    @property
    def tokens(self) -> dict[State, int]:
        spent = dict.fromkeys(STATES, 0)
        for trace, state in zip(self.traces, self.states, strict=True):
            spent[state] += trace.num_tokens
        return spent

    @property
    def tokens_total(self) -> int:
        return sum(trace.num_tokens for trace in self.traces)

    def to_dict(self) -> dict[str, Any]:
        """The outcome without its traces, ready for JSON."""
        return {
            "answer": self.answer, "share": self.vote.share, "totals": self.vote.totals, "threshold": self.threshold,
            "stop_reason": self.stop_reason, "fallback": self.fallback, "budget": self.budget,
            "traces": len(self.traces), "states": {state: self.states.count(state) for state in STATES},
            "tokens": self.tokens_total, "tokens_by_state": self.tokens,
        }  # fmt: skip


class _Ballot:
    """The traces of one problem as they end, and the vote over them."""

    def __init__(self, params: DeepConf, extract: Extract, groups: AnswerGroups) -> None:
        self.params = params
        self.threshold: float | None = None
        self.stop_reason: StopReason = "budget"
        self._extract = extract
        self._groups = groups
        self._traces: dict[int, Trace] = {}
        self._states: dict[int, State] = {}
        self._answers: dict[int, str] = {}
        self._confidences: dict[int, Confidence] = {}

    @property
    def limit(self) -> float | None:
        """What the engine is told to stop below."""
        return None if self.threshold is None else stopping_limit(self.threshold)

    def close_warmup(self, traces: Sequence[Trace]) -> None:
        """Sets the threshold from the warm-up traces, unless there is nothing to filter or stop, and admits them."""
        window = self.params.sampling.confidence_window
        usable = [trace for trace in traces if trace.finish_reason != "error" and trace.confidences]
        if usable and not (self.params.warmup_votes == "all" and self.params.budget == self.params.warmup):
            lowest = [summarise(trace.confidences, window).lowest for trace in usable]
            self.threshold = stopping_threshold(lowest, self.params.keep_top)
        for trace in traces:
            self.add(trace, exempt=self.params.warmup_votes == "all")

    def add(self, trace: Trace, exempt: bool = False) -> None:
        """Takes in a trace that ended. `exempt`: the threshold does not keep it from voting."""
        index = trace.sample_index
        self._traces[index] = trace
        self._states[index] = self._judge(trace, exempt)

    def add_late(self, trace: Trace) -> None:
        """Counts a trace that was in flight at the consensus, or ended in the same step after it: it cannot vote."""
        ended: dict[str, State] = {"confidence": "stopped", "error": "error"}
        self._traces[trace.sample_index] = trace
        self._states[trace.sample_index] = ended.get(trace.finish_reason, "cancelled")

    def _judge(self, trace: Trace, exempt: bool) -> State:
        if trace.finish_reason == "error":
            return "error"
        if trace.finish_reason == "confidence":
            return "stopped"
        answer = self._extract(trace.text) if trace.confidences else None
        if answer is None:
            return "no_answer"
        confidence = summarise(trace.confidences, self.params.sampling.confidence_window)
        self._answers[trace.sample_index] = answer
        self._confidences[trace.sample_index] = confidence
        below = self.limit is not None and confidence.lowest < self.limit
        return "below_threshold" if below and not exempt else "voted"

    def vote(self, states: tuple[State, ...] = ("voted",)) -> Vote:
        """The vote of the traces in `states`, in order of sample index; `Vote.index` counts among all traces."""
        order = sorted(self._traces)
        chosen = [i for i in order if self._states[i] in states]
        outcome = vote_by(
            self.params.voter,
            [self._answers[i] for i in chosen],
            [self._confidences[i] for i in chosen],
            self._groups,
        )
        if outcome.index is None:
            return outcome
        return dataclasses.replace(outcome, index=order.index(chosen[outcome.index]))

    def agreed(self) -> bool:
        """Whether the leading answer's share has reached tau."""
        return self.params.tau is not None and self.vote().share >= self.params.tau

    def solution(self, prompt_index: int) -> Solution:
        outcome = self.vote()
        fallback = outcome.answer is None
        if fallback:
            outcome = self.vote(("voted", "below_threshold"))
        order = sorted(self._traces)
        return Solution(
            prompt_index=prompt_index, vote=outcome, traces=[self._traces[i] for i in order],
            states=[self._states[i] for i in order], threshold=self.threshold, stop_reason=self.stop_reason,
            budget=self.params.budget, fallback=fallback and outcome.answer is not None,
        )  # fmt: skip


def solve_many(
    engine: Engine,
    prompts: Sequence[Prompt],
    params: DeepConf,
    *,
    seeds: Sequence[int],
    extract: Extract = extract_answer,
    groups: Sequence[AnswerGroups] | None = None,
    on_trace: OnTrace | None = None,
) -> list[Solution]:
    """Online DeepConf on all prompts together: one `engine.stream` for every warm-up, one for everything after it.

    `seeds` holds one base seed per prompt (`problem_seed`); `groups` one `AnswerGroups` per prompt (default: equality
    that is certain, `certainly_equivalent`). `on_trace` sees each trace as it ends, with `prompt_index` and
    `sample_index` counted over the whole run. Solutions are in the order of the prompts.
    """
    groups = groups if groups is not None else [AnswerGroups(certainly_equivalent) for _ in prompts]
    ballots = [_Ballot(params, extract, of) for of in groups]
    warm = dataclasses.replace(params.sampling, n=params.warmup, confidence_threshold=None)
    warmups: list[list[Trace]] = [[] for _ in prompts]
    for trace in engine.stream(prompts, [dataclasses.replace(warm, seed=seed) for seed in seeds]):
        warmups[trace.prompt_index].append(trace)
        if on_trace is not None:
            on_trace(trace)

    going: list[int] = []
    for index, (ballot, traces) in enumerate(zip(ballots, warmups, strict=True)):
        ballot.close_warmup(traces)
        if params.budget == params.warmup:
            continue
        if ballot.agreed():
            ballot.stop_reason = "warmup consensus"
        else:
            going.append(index)
    if going:
        _run_online(engine, prompts, params, seeds, ballots, going, on_trace)
    return [ballot.solution(index) for index, ballot in enumerate(ballots)]


def _run_online(
    engine: Engine,
    prompts: Sequence[Prompt],
    params: DeepConf,
    seeds: Sequence[int],
    ballots: Sequence[_Ballot],
    going: Sequence[int],
    on_trace: OnTrace | None,
) -> None:
    def request(index: int) -> SamplingParams:
        return dataclasses.replace(
            params.sampling,
            n=params.budget - params.warmup,
            seed=seeds[index] + params.warmup,
            confidence_threshold=ballots[index].limit,
        )

    def renumber(trace: Trace) -> _Ballot:
        trace.prompt_index = going[trace.prompt_index]
        trace.sample_index += params.warmup
        if on_trace is not None:
            on_trace(trace)
        return ballots[trace.prompt_index]

    for trace in engine.stream([prompts[i] for i in going], [request(i) for i in going]):
        local = trace.prompt_index
        ballot = renumber(trace)
        if ballot.stop_reason == "consensus":
            ballot.add_late(trace)
            continue
        ballot.add(trace)
        if ballot.agreed():
            ballot.stop_reason = "consensus"
            for cancelled in engine.cancel(local):
                renumber(cancelled).add_late(cancelled)


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
    extract: Extract = extract_answer,
    groups: Sequence[AnswerGroups] | None = None,
    on_trace: OnTrace | None = None,
) -> list[Solution]:
    """Self-consistency: `budget` complete traces per prompt, one vote each. Paired with `solve_many` by the seeds."""
    params = majority_params(budget, sampling)
    return solve_many(engine, prompts, params, seeds=seeds, extract=extract, groups=groups, on_trace=on_trace)
