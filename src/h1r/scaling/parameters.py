"""The parameters of DeepConf, how a recipe gives them, and what the run asks of them (`ballot.Method`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from h1r.common.bounds import bounded
from h1r.common.prose import counted
from h1r.config import ScalingSection
from h1r.engine.protocol import SamplingParams
from h1r.errors import UserError
from h1r.scaling.ballot import Ballot, Entry, Method, Needs, StopReason, sampling_of
from h1r.scaling.confidence import Reading, stopping_limit, stopping_threshold
from h1r.scaling.voting import VOTERS, Vote, Voter, lead_probability, vote_by

__all__ = ["Consensus", "DeepConf", "sampling_of"]

Consensus = Literal["share", "lead"]


@dataclass(frozen=True, slots=True)
class DeepConf(Method):
    """The parameters of one run (arXiv 2508.15260). Raises `ValueError` for values that cannot work.

    budget: traces per problem, the `warmup` included. keep_top, reading: see `stopping_threshold`. tau None: fixed
    budget, as in the Falcon-H1R paper; consensus: what has to reach tau. stop_doubtful False: traces run to their end,
    whatever their confidence, and all that end later vote: what is saved then is consensus alone. `sampling` gives
    temperature, top-p, max_tokens, and the confidence window and top-k.
    """

    needs: ClassVar[frozenset[Needs]] = frozenset({"confidences"})
    early: ClassVar[StopReason] = "warmup consensus"

    warmup: int = bounded(16, minimum=1)
    keep_top: float = bounded(0.10, exclusiveMinimum=0, maximum=1)
    reading: Reading = "keep_top"
    tau: float | None = bounded(None, exclusiveMinimum=0, maximum=1)
    consensus: Consensus = "share"
    stop_doubtful: bool = True
    voter: Voter = "min_window"
    warmup_votes: Literal["above_threshold", "all"] = "above_threshold"
    sampling: SamplingParams = field(default_factory=SamplingParams, kw_only=True)

    def __post_init__(self) -> None:
        self.check()
        if self.warmup > self.budget:
            raise ValueError(
                f"warmup = {self.warmup} is more than the budget of {counted(self.budget, 'trace')}; give fewer, or a "
                "larger budget"
            )

    @classmethod
    def from_section(cls, section: ScalingSection, budget: int, **options: Any) -> Self:
        """The recipe's [scaling] table at one of its budgets. `UserError` for options, which DeepConf has none of."""
        if options:
            raise UserError('method "deepconf" has keys of its own, such as scaling.tau, and no options; empty them')
        return cls(
            budget=budget, warmup=section.warmup, keep_top=section.keep_top, reading=section.reading,
            tau=section.tau, consensus=section.consensus, voter=section.voter, warmup_votes=section.warmup_votes,
            sampling=sampling_of(section),
        )  # fmt: skip

    def limit(self, ballot: Ballot) -> float | None:
        """What the engine is told to stop below, nats."""
        return None if ballot.threshold is None or not self.stop_doubtful else stopping_limit(ballot.threshold)

    def requested(self, ballot: Ballot) -> SamplingParams:
        """With the threshold that the warm-up gave."""
        return dataclasses.replace(self.sampling, confidence_threshold=self.limit(ballot))

    def more(self, ballot: Ballot) -> int:
        """All the others, once the warm-up has ended without agreement."""
        return 0 if ballot.agreed() else self.budget - len(ballot.entries)

    def settled(self, ballot: Ballot, last: Entry) -> bool:
        """Consensus, which only a vote changes."""
        return last.state == "voted" and ballot.agreed()

    def threshold(self, ballot: Ballot) -> float | None:
        """None where there is nothing to filter or stop."""
        usable = [entry.confidence.lowest for entry in ballot.entries.values() if entry.confidence is not None]
        if not usable or (self.warmup_votes == "all" and self.budget == self.warmup):
            return None
        return stopping_threshold(usable, self.keep_top, self.reading)

    def admits(self, ballot: Ballot, entry: Entry, warmup: bool) -> bool:
        """Those whose lowest group confidence is not below the limit."""
        limit = self.limit(ballot)
        if limit is None or entry.confidence is None or (warmup and self.warmup_votes == "all"):
            return True
        return entry.confidence.lowest >= limit

    def vote(self, ballot: Ballot, chosen: Sequence[int]) -> Vote:
        """By the voter."""
        if VOTERS[self.voter][0] is not None:  # a trace without confidences has no weight
            chosen = [i for i in chosen if ballot.entries[i].confidence is not None]
        entries = [ballot.entries[i] for i in chosen]
        confidences = [entry.confidence for entry in entries if entry.confidence is not None]
        outcome = vote_by(self.voter, [entry.answer for entry in entries], confidences, ballot.groups)
        return outcome if outcome.index is None else dataclasses.replace(outcome, index=chosen[outcome.index])

    def weight(self, entry: Entry) -> float | None:
        """By the voter."""
        statistic = VOTERS[self.voter][0]
        if statistic is None or entry.confidence is None:
            return None if entry.confidence is None else 1.0
        return float(getattr(entry.confidence, statistic))

    def certainty(self, outcome: Vote) -> float:
        """The leader's share, or the probability of its lead."""
        return outcome.share if self.consensus == "share" else lead_probability(outcome)
