"""What a method of test-time scaling is, the traces of one problem as they end, and what the problem came to.

A `Method` is its parameters, and functions of the traces that have ended, which a `Ballot` holds: how many to ask for
first, how many more when these have ended, when to stop all that runs, and what the vote is. It keeps nothing between
the calls and does not know the engine: `run.py` runs it on one, `replay.py` on recorded traces."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from h1r.common.bounds import out_of_bounds
from h1r.config import ScalingSection
from h1r.engine.protocol import SamplingParams
from h1r.records import Trace
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract
from h1r.scaling.confidence import Confidence, summarise
from h1r.scaling.voting import Vote, vote

State = Literal["voted", "below_threshold", "no_answer", "stopped", "cancelled", "error"]
StopReason = Literal["budget", "consensus", "warmup consensus", "first ended", "cancelled"]
Needs = Literal["confidences", "logprobs", "token_ids"]

STATES: tuple[State, ...] = ("voted", "below_threshold", "no_answer", "stopped", "cancelled", "error")
"""What became of a trace's tokens: voted; complete but below the threshold; complete without an answer; stopped early
by its confidence, or in a loop; in flight when consensus was reached or the run was ended from
outside; failed in the engine."""


@dataclass(slots=True)
class Solution:
    """What one problem came to. `traces` are in order of `sample_index`; `states` belong to them one by one.

    `threshold`: s in nats, None when none was needed (majority) or no warm-up trace has tokens. `tokens`: generated
    tokens by state; their sum is everything that was spent.
    `stop_reason`: "cancelled" where traces were cut from outside, by a server that ends, so that the vote is of those
    that had ended.
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
        """The first trace that voted for the answer in its most frequent form; None without one."""
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


@dataclass(frozen=True, slots=True)
class Entry:
    """A trace that has ended. `confidence` is None of one without tokens or without an end of its own; `state` is None
    until the warm-up is over if the trace may vote. `likelihood`: the geometric mean of the probabilities that the
    model gave to its tokens, None where it is not known or the trace has no end of its own."""

    trace: Trace
    answer: str | None
    confidence: Confidence | None
    state: State | None
    likelihood: float | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """How a budget of traces of one problem becomes one answer. This one is majority voting: all run side by side to
    their ends, each has one vote. A subclass says what is different, registers its name, and names its paper.

    budget: traces per problem. sampling: how each is generated. Further fields are the method's options, numbers that
    `scaling.options` may give; they have defaults, and their bounds (`common/bounds.py`) are checked here and told to
    clients of a server. Raises `ValueError` for values that cannot work.
    """

    needs: ClassVar[frozenset[Needs]] = frozenset()
    """What it asks of traces beside their answers and lengths."""
    early: ClassVar[StopReason] = "consensus"
    """What ended a problem that asked for no more, its budget not being spent."""
    settling: ClassVar[StopReason] = "consensus"
    """What ended one that was settled while traces ran."""

    budget: int = field(metadata={"minimum": 1})
    sampling: SamplingParams = field(default_factory=SamplingParams, kw_only=True)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """`ValueError` for a field out of its bounds."""
        for name, bounds in out_of_bounds(self).items():
            raise ValueError(f"{name} = {getattr(self, name)!r} is out of range; give a number of {bounds}")

    @classmethod
    def from_section(cls, section: ScalingSection, budget: int, **options: Any) -> Self:
        """The recipe's [scaling] table at one of its budgets."""
        return cls(budget=budget, sampling=sampling_of(section), **options)

    @property
    def warmup(self) -> int:
        """Of the first traces, how many end before any may vote; 0: each counts as it ends."""
        return 0

    @property
    def tau(self) -> float | None:
        """How sure the vote must be of its leader for the problem to end early; None: it is not asked."""
        return None

    @property
    def voter(self) -> str:
        """What the votes weigh by: one of the voters, or a word for it."""
        return "majority"

    def requested(self, ballot: Ballot) -> SamplingParams:
        """How further traces are asked for."""
        return self.sampling

    def first(self) -> int:
        """Traces to ask for at the beginning, together."""
        return self.warmup or self.budget

    def more(self, ballot: Ballot) -> int:
        """Further traces to ask for, together: asked when all of those so far have ended, and 0 ends the problem."""
        return 0

    def settled(self, ballot: Ballot, last: Entry) -> bool:
        """Whether nothing more is to be spent: asked at each trace that ended, `last`, but for those of a warm-up."""
        return False

    def threshold(self, ballot: Ballot) -> float | None:
        """What the warm-up says, nats: asked once it has ended."""
        return None

    def admits(self, ballot: Ballot, entry: Entry, warmup: bool) -> bool:
        """Whether a trace with an answer votes. warmup: it is one of the warm-up's."""
        return True

    def vote(self, ballot: Ballot, chosen: Sequence[int]) -> Vote:
        """The vote of these traces, given in order of sample index; `Vote.index` is the sample index of one of them."""
        return ballot.vote_of([(index, 1.0) for index in chosen])

    def weight(self, entry: Entry) -> float | None:
        """What a trace that votes adds to its answer, for a display; None where that depends on the others."""
        return 1.0

    def certainty(self, outcome: Vote) -> float:
        """How sure a vote is of its leader: what is compared with `tau`."""
        return outcome.share


class Ballot:
    """Collects the traces of one problem. `collect` takes warm-up traces until `close_warmup`, `add` those after it."""

    def __init__(self, params: Method, extract: Extract, groups: AnswerGroups) -> None:
        self.params = params
        self.groups = groups
        self.threshold: float | None = None
        self.stop_reason: StopReason = "budget"
        self.tokens = 0
        """Of all traces that have ended."""
        self.entries: dict[int, Entry] = {}
        """By `sample_index`, in the order in which the traces ended."""
        self._extract = extract

    def collect(self, trace: Trace) -> None:
        """Takes in a warm-up trace."""
        self._enter(trace, None)

    def close_warmup(self) -> None:
        """Sets the threshold from the warm-up traces, where the method has one, and admits them."""
        self.threshold = self.params.threshold(self)
        for index, entry in self.entries.items():
            if entry.state is None:
                self.entries[index] = self._admitted(entry, True)

    def add(self, trace: Trace) -> bool:
        """Takes in a trace that ended after the warm-up; returns whether it votes."""
        entry = self._enter(trace, None)
        if entry.state is None:
            entry = self.entries[trace.sample_index] = self._admitted(entry, False)
        return entry.state == "voted"

    def add_late(self, trace: Trace) -> None:
        """Counts a trace that was in flight at the consensus, or ended in the same step after it: it cannot vote."""
        ended: dict[str, State] = {"confidence": "stopped", "repetition": "stopped", "error": "error"}
        self._enter(trace, ended.get(trace.finish_reason, "cancelled"))

    def standing(self) -> Vote:
        """The vote as it stands now, of undecided warm-up traces too."""
        return self.vote(("voted", None))

    def vote(self, states: tuple[State | None, ...] = ("voted",)) -> Vote:
        """The vote of the traces in `states`, in order of sample index; `Vote.index` counts among all traces."""
        order = sorted(self.entries)
        outcome = self.params.vote(self, [i for i in order if self.entries[i].state in states])
        return outcome if outcome.index is None else dataclasses.replace(outcome, index=order.index(outcome.index))

    def vote_of(self, weighed: Sequence[tuple[int, float]]) -> Vote:
        """The vote of traces (sample index, weight), the earlier answer winning a tie. `Vote.index`: a sample index."""
        answers = [self.entries[index].answer for index, _ in weighed]
        outcome = vote(answers, [weight for _, weight in weighed], self.groups)
        return outcome if outcome.index is None else dataclasses.replace(outcome, index=weighed[outcome.index][0])

    def agreed(self) -> bool:
        """Whether the vote is as sure of its leader as tau asks."""
        return self.params.tau is not None and self.certainty(self.vote()) >= self.params.tau

    def certainty(self, outcome: Vote) -> float:
        """What is compared with tau."""
        return self.params.certainty(outcome)

    def solution(self, prompt_index: int) -> Solution:
        outcome = self.vote()
        fallback = outcome.answer is None
        if fallback:
            outcome = self.vote(("voted", "below_threshold"))
        entries: Sequence[Entry] = [self.entries[i] for i in sorted(self.entries)]
        cut = self.stop_reason == "budget" and any(entry.state == "cancelled" for entry in entries)
        return Solution(
            prompt_index=prompt_index, vote=outcome, traces=[entry.trace for entry in entries],
            states=[entry.state or "voted" for entry in entries], threshold=self.threshold,
            stop_reason="cancelled" if cut else self.stop_reason, budget=self.params.budget,
            fallback=fallback and outcome.answer is not None,
        )  # fmt: skip

    def _enter(self, trace: Trace, state: State | None) -> Entry:
        """Reads the trace. Of a state that is not given, what the trace alone decides is filled in."""
        confidence = answer = likelihood = None
        if state is None:
            if trace.finish_reason == "error":
                state = "error"
            elif trace.finish_reason in ("confidence", "repetition"):
                state = "stopped"
            elif trace.finish_reason == "cancelled":
                state = "cancelled"
            else:
                answer = self._extract(trace.text) if trace.text else None
                state = "no_answer" if answer is None else None
                if trace.confidences:
                    confidence = summarise(trace.confidences, self.params.sampling.confidence_window)
                if "logprobs" in self.params.needs and trace.logprobs:
                    mean = math.fsum(trace.logprobs) / len(trace.logprobs)
                    likelihood = math.exp(mean) if math.isfinite(mean) else None
        entry = self.entries[trace.sample_index] = Entry(trace, answer, confidence, state, likelihood)
        self.tokens += trace.num_tokens
        return entry

    def _admitted(self, entry: Entry, warmup: bool) -> Entry:
        votes = self.params.admits(self, entry, warmup)
        return dataclasses.replace(entry, state="voted" if votes else "below_threshold")


def sampling_of(section: ScalingSection) -> SamplingParams:
    """The decoding part of the recipe's [scaling] table."""
    return SamplingParams(
        temperature=section.temperature, top_p=section.top_p, max_tokens=section.max_tokens,
        confidence_window=section.window, confidence_top_k=section.top_k,
    )  # fmt: skip
