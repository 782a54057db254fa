"""The traces of one problem as they end, which of them vote, and what the problem came to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from h1r.records import Trace
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract
from h1r.scaling.confidence import Confidence, stopping_limit, stopping_threshold, summarise
from h1r.scaling.voting import VOTERS, Vote, lead_probability, vote_by

if TYPE_CHECKING:
    from h1r.scaling.parameters import DeepConf

State = Literal["voted", "below_threshold", "no_answer", "stopped", "cancelled", "error"]
StopReason = Literal["budget", "consensus", "warmup consensus"]

STATES: tuple[State, ...] = ("voted", "below_threshold", "no_answer", "stopped", "cancelled", "error")
"""What became of a trace's tokens: voted; complete but below the threshold; complete without an answer; stopped early
by its confidence; in flight when consensus was reached; failed in the engine."""


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
    until the warm-up is over if the trace may vote."""

    trace: Trace
    answer: str | None
    confidence: Confidence | None
    state: State | None


class Ballot:
    """Collects the traces of one problem. `collect` takes warm-up traces until `close_warmup`, `add` those after it."""

    def __init__(self, params: DeepConf, extract: Extract, groups: AnswerGroups) -> None:
        self.params = params
        self.threshold: float | None = None
        self.stop_reason: StopReason = "budget"
        self.tokens = 0
        """Of all traces that have ended."""
        self.entries: dict[int, Entry] = {}
        """By `sample_index`, in the order in which the traces ended."""
        self._extract = extract
        self._groups = groups

    @property
    def limit(self) -> float | None:
        """What the engine is told to stop below."""
        if self.threshold is None or not self.params.stop_doubtful:
            return None
        return stopping_limit(self.threshold)

    def collect(self, trace: Trace) -> None:
        """Takes in a warm-up trace."""
        self._enter(trace, None)

    def close_warmup(self) -> None:
        """Sets the threshold from the warm-up traces, unless there is nothing to filter or stop, and admits them."""
        everyone = self.params.warmup_votes == "all"
        usable = [entry.confidence.lowest for entry in self.entries.values() if entry.confidence is not None]
        if usable and not (everyone and self.params.budget == self.params.warmup):
            self.threshold = stopping_threshold(usable, self.params.keep_top, self.params.reading)
        for index, entry in self.entries.items():
            if entry.state is None:
                below = not everyone and self._is_below(entry)
                self.entries[index] = dataclasses.replace(entry, state="below_threshold" if below else "voted")

    def add(self, trace: Trace) -> bool:
        """Takes in a trace that ended after the warm-up; returns whether it votes."""
        entry = self._enter(trace, None)
        if entry.state is None:
            state: State = "below_threshold" if self._is_below(entry) else "voted"
            entry = self.entries[trace.sample_index] = dataclasses.replace(entry, state=state)
        return entry.state == "voted"

    def add_late(self, trace: Trace) -> None:
        """Counts a trace that was in flight at the consensus, or ended in the same step after it: it cannot vote."""
        ended: dict[str, State] = {"confidence": "stopped", "error": "error"}
        self._enter(trace, ended.get(trace.finish_reason, "cancelled"))

    def standing(self) -> Vote:
        """The vote as it stands now, of undecided warm-up traces too."""
        return self.vote(("voted", None))

    def vote(self, states: tuple[State | None, ...] = ("voted",)) -> Vote:
        """The vote of the traces in `states`, in order of sample index; `Vote.index` counts among all traces."""
        order = sorted(self.entries)
        chosen = [i for i in order if self.entries[i].state in states]
        if VOTERS[self.params.voter][0] is not None:  # a trace without confidences has no weight
            chosen = [i for i in chosen if self.entries[i].confidence is not None]
        answers = [self.entries[i].answer for i in chosen]
        confidences = [confidence for i in chosen if (confidence := self.entries[i].confidence) is not None]
        outcome = vote_by(self.params.voter, answers, confidences, self._groups)
        if outcome.index is None:
            return outcome
        return dataclasses.replace(outcome, index=order.index(chosen[outcome.index]))

    def agreed(self) -> bool:
        """Whether the vote is as sure of its leader as tau asks, by the measure of `params.consensus`."""
        return self.params.tau is not None and self.certainty(self.vote()) >= self.params.tau

    def certainty(self, outcome: Vote) -> float:
        """What is compared with tau: the leader's share, or the probability of its lead."""
        return outcome.share if self.params.consensus == "share" else lead_probability(outcome)

    def solution(self, prompt_index: int) -> Solution:
        outcome = self.vote()
        fallback = outcome.answer is None
        if fallback:
            outcome = self.vote(("voted", "below_threshold"))
        entries: Sequence[Entry] = [self.entries[i] for i in sorted(self.entries)]
        return Solution(
            prompt_index=prompt_index, vote=outcome, traces=[entry.trace for entry in entries],
            states=[entry.state or "voted" for entry in entries], threshold=self.threshold,
            stop_reason=self.stop_reason, budget=self.params.budget,
            fallback=fallback and outcome.answer is not None,
        )  # fmt: skip

    def _enter(self, trace: Trace, state: State | None) -> Entry:
        """Reads the trace. Of a state that is not given, what the trace alone decides is filled in."""
        confidence = answer = None
        if state is None:
            if trace.finish_reason == "error":
                state = "error"
            elif trace.finish_reason == "confidence":
                state = "stopped"
            else:
                answer = self._extract(trace.text) if trace.confidences or trace.num_tokens else None
                state = "no_answer" if answer is None else None
                if trace.confidences:
                    confidence = summarise(trace.confidences, self.params.sampling.confidence_window)
        entry = self.entries[trace.sample_index] = Entry(trace, answer, confidence, state)
        self.tokens += trace.num_tokens
        return entry

    def _is_below(self, entry: Entry) -> bool:
        return self.limit is not None and entry.confidence is not None and entry.confidence.lowest < self.limit
