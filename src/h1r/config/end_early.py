"""RL rollouts that are ended before they are done."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from h1r.config.base import Count, NonNegative, Positive, Section


class EndEarlySection(Section):
    """Rollouts that end before they are done (docs/guide/rl-ending-early.md). All off unless set; in the paper each
    goes on to its end."""

    loop_repeats: Count = 0
    """A rollout ends with so many copies in a row of the same tokens, as in the method `no_loops`, and counts as one
    that was cut off at `max_tokens`. 0: none does; `no_loops` takes 4. Native engine."""
    loop_period: Annotated[int, Field(ge=1, le=4096)] = 128
    """Most tokens of a copy. Our choice."""
    loop_shortest: Positive = 64
    """Tokens of all copies, at least. Our choice."""
    confidence: NonNegative = 0.0
    """DeepConf's stop, in nats: a rollout ends once the mean confidence of its last `confidence_window` tokens is below
    this. It is censored: without reward and gradient, left out of its group, and counted. 0: none does."""
    confidence_window: Positive = 2048
    """Tokens of that mean; no rollout ends before it has as many."""

    @model_validator(mode="after")
    def _copies(self) -> EndEarlySection:
        if self.loop_repeats == 1:
            raise ValueError("loop_repeats = 1 ends every rollout; give 2 or more copies, or 0 for none")
        return self
