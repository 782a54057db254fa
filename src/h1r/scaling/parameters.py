"""The parameters of DeepConf, and how a recipe gives them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from h1r.config import ScalingSection
from h1r.engine.protocol import SamplingParams
from h1r.scaling.confidence import Reading
from h1r.scaling.voting import Voter

Consensus = Literal["share", "lead"]


@dataclass(frozen=True, slots=True)
class DeepConf:
    """The parameters of one run. Raises `ValueError` for values that cannot work.

    budget: traces per problem, the `warmup` included. keep_top, reading: see `stopping_threshold`. tau None: fixed
    budget, as in the Falcon-H1R paper; consensus: what has to reach tau. stop_doubtful False: traces run to their end,
    whatever their confidence, and all that end later vote: what is saved then is consensus alone. `sampling` gives
    temperature, top-p, max_tokens, and the confidence window and top-k.
    """

    budget: int
    warmup: int = 16
    keep_top: float = 0.10
    reading: Reading = "keep_top"
    tau: float | None = None
    consensus: Consensus = "share"
    stop_doubtful: bool = True
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
            budget=budget, warmup=section.warmup, keep_top=section.keep_top, reading=section.reading,
            tau=section.tau, consensus=section.consensus, voter=section.voter, warmup_votes=section.warmup_votes,
            sampling=sampling_of(section),
        )  # fmt: skip


def sampling_of(section: ScalingSection) -> SamplingParams:
    """The decoding part of the recipe's [scaling] table."""
    return SamplingParams(
        temperature=section.temperature, top_p=section.top_p, max_tokens=section.max_tokens,
        confidence_window=section.window, confidence_top_k=section.top_k,
    )  # fmt: skip
