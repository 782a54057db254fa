"""Other ways to turn a budget of traces into one answer, each a small class, priced on the complete traces of a vote.

    adaptive_consistency   traces one after the other, until the leader is surely ahead            arXiv 2305.11860
    short_1, short_3       all at once, and the first 1 or 3 that end are all that count           arXiv 2505.17813
    best_of_n              the answer of the trace that was surest of its tokens                   arXiv 2502.18581
    borda                  a vote in which a trace weighs by its rank in that                      arXiv 2502.18581
    no_loops               a trace ends where it repeats itself; the others vote                    our choice

Sureness is the mean of a trace's token confidences, in nats. The paper's self-certainty takes every word of the
vocabulary where a token confidence takes the likeliest `top_k`, which is what engines return.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from h1r.records import Trace
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import Extract
from h1r.scaling.ballot import Solution, State
from h1r.scaling.replay import cut
from h1r.scaling.voting import Vote, lead_probability, vote


@dataclass(frozen=True, slots=True)
class Recorded:
    """The complete traces of one problem, in order of sample index, what they answer, and which answers are the same.
    A trace that failed has no answer."""

    traces: Sequence[Trace]
    answers: Sequence[str | None]
    groups: AnswerGroups

    @classmethod
    def read(cls, traces: Sequence[Trace], extract: Extract, groups: AnswerGroups) -> Recorded:
        usable = [trace.finish_reason != "error" and bool(trace.confidences) for trace in traces]
        answers = [extract(trace.text) if fine else None for trace, fine in zip(traces, usable, strict=True)]
        return cls(traces, answers, groups)

    def __len__(self) -> int:
        return len(self.traces)

    def sureness(self) -> list[float]:
        """Mean token confidence of each trace, nats; 0 of one without tokens."""
        return [float(np.mean(trace.confidences)) if trace.confidences else 0.0 for trace in self.traces]

    def vote(self, order: Sequence[int], weights: Sequence[float] | None = None) -> Vote:
        """The vote of the traces in `order`, the earlier answer winning a tie. `index` counts among all traces."""
        found = vote([self.answers[i] for i in order], [1.0] * len(order) if weights is None else weights, self.groups)
        return found if found.index is None else dataclasses.replace(found, index=order[found.index])


@dataclass(frozen=True, slots=True)
class Spent:
    """A vote, how many tokens of each trace were generated until it was known, and which traces it asked."""

    vote: Vote
    tokens: list[int]
    asked: Sequence[int]


class Method(Protocol):
    def solve(self, recorded: Recorded) -> Spent: ...


@dataclass(frozen=True, slots=True)
class AdaptiveConsistency:
    """Draws one trace after the other, so nothing is in flight at the end, and stops when the leading answer is the
    likelier of the first two with a probability of `certainty` (the paper's Beta criterion and its 0.95)."""

    certainty: float = 0.95

    def solve(self, recorded: Recorded) -> Spent:
        found, drawn = Vote(), 0
        while drawn < len(recorded) and lead_probability(found) < self.certainty:
            drawn += 1
            found = recorded.vote(range(drawn))
        tokens = [trace.num_tokens if i < drawn else 0 for i, trace in enumerate(recorded.traces)]
        return Spent(found, tokens, range(drawn))


@dataclass(frozen=True, slots=True)
class Shortest:
    """short-m@k: k traces side by side, ended together when the first m are done. These vote; a tie goes to the
    shorter. The length is that of the whole trace, which the paper counts to the end of its thinking."""

    m: int

    def solve(self, recorded: Recorded) -> Spent:
        lengths = [trace.num_tokens for trace in recorded.traces]
        first = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))[: self.m]
        end = lengths[first[-1]]
        return Spent(recorded.vote(first), [min(length, end) for length in lengths], first)


@dataclass(frozen=True, slots=True)
class BestOfN:
    """The answer of the surest trace that has one. Every trace runs to its end."""

    def solve(self, recorded: Recorded) -> Spent:
        sureness = recorded.sureness()
        answered = [i for i, answer in enumerate(recorded.answers) if answer is not None]
        surest = sorted(answered, key=lambda i: (-sureness[i], i))[:1]
        return Spent(recorded.vote(surest), [trace.num_tokens for trace in recorded.traces], answered)


@dataclass(frozen=True, slots=True)
class Borda:
    """Of N answered traces the surest has N^power votes, the next (N - 1)^power, and so on. `power` 0 is majority and
    a large one best of N; 1 is our choice."""

    power: float = 1.0

    def solve(self, recorded: Recorded) -> Spent:
        sureness = recorded.sureness()
        answered = [i for i, answer in enumerate(recorded.answers) if answer is not None]
        order = sorted(answered, key=lambda i: (-sureness[i], i))
        weights = [float(len(order) - rank) ** self.power for rank in range(len(order))]
        return Spent(recorded.vote(order, weights), [trace.num_tokens for trace in recorded.traces], answered)


@dataclass(frozen=True, slots=True)
class NoLoops:
    """Majority of the traces that do not run into a loop. One that does ends at the first token at which its last
    `repeats` copies of up to `period` tokens are the same, and are `shortest` tokens or more together (our choice, in
    the manner of `response.repetition`, which reads whole texts)."""

    repeats: int = 4
    period: int = 128
    shortest: int = 64

    def solve(self, recorded: Recorded) -> Spent:
        ends = [loop_end(trace.token_ids, self.repeats, self.period, self.shortest) for trace in recorded.traces]
        tokens = [t.num_tokens if end is None else end for t, end in zip(recorded.traces, ends, strict=True)]
        whole = [index for index, end in enumerate(ends) if end is None]
        return Spent(recorded.vote(whole), tokens, whole)


def loop_end(token_ids: Sequence[int], repeats: int, period: int, shortest: int) -> int | None:
    """How many tokens there are when the last ones are `repeats` or more copies of at most `period` tokens, `shortest`
    tokens in all; None if they never are."""
    ids = np.asarray(token_ids)
    first: int | None = None
    for size in range(1, min(period, len(ids) // repeats) + 1):
        needed = max((repeats - 1) * size, shortest - size)
        same = np.concatenate(([0], np.cumsum(ids[size:] == ids[:-size])))
        hits = np.flatnonzero(same[needed:] - same[:-needed] == needed)
        if hits.size:
            end = size + needed + int(hits[0])
            first = end if first is None else min(first, end)
    return first


METHODS: dict[str, Method] = {
    "adaptive_consistency": AdaptiveConsistency(),
    "short_1": Shortest(1),
    "short_3": Shortest(3),
    "best_of_n": BestOfN(),
    "borda": Borda(),
    "no_loops": NoLoops(),
}


def solved(method: Method, recorded: Recorded, prompt_index: int) -> Solution:
    """The solution, with each trace as far as it was generated: "voted" if the vote asked it and it has an answer,
    "no_answer" where it has none, "cancelled" if it had not ended, or ended in the step in which the vote was known."""
    spent = method.solve(recorded)
    traces: list[Trace] = []
    states: list[State] = []
    for index, (trace, tokens) in enumerate(zip(recorded.traces, spent.tokens, strict=True)):
        whole = tokens == trace.num_tokens
        traces.append(trace if whole else cut(trace, tokens, "cancelled"))
        if whole and trace.finish_reason == "error":
            states.append("error")
        elif whole and recorded.answers[index] is None:
            states.append("no_answer")
        else:
            states.append("voted" if index in spent.asked else "cancelled")
    return Solution(
        prompt_index=prompt_index, vote=spent.vote, traces=traces, states=states, threshold=None, stop_reason="budget",
        budget=len(recorded),
    )  # fmt: skip
