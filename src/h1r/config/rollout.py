"""How problems become graded traces: failures of the engine, and conversations with an environment."""

from __future__ import annotations

from typing import Any

from h1r.config.base import Fraction, NonNegative, Positive, PositiveFloat, Section


class RolloutSection(Section):
    """Generation for RL and its pool, evaluation, test-time scaling, `generate`, `solve` and the teacher of curation.
    May change within a run."""

    max_failed_share: Fraction = 0.1
    """A stage stops when the engine failed at more than this share of the traces that one call asked for. A trace that
    failed was tried again with its own seed. Those that stay failed are counted as errors, never as wrong answers. Our
    choice."""
    attempts: Positive = 2
    """How often a trace is tried in all. Our choice."""
    backoff_s: NonNegative = 0.5
    """Seconds before the second attempt, at most; they double with each further one, up to 30. Our choice."""


class EnvironmentSection(Section):
    """What the model talks to, in RL and its pool, evaluation, test-time scaling, `generate` and `solve`. The default
    is one turn: a question and its answer."""

    kind: str = "single_turn"
    """`single_turn`, `python_tool` (the model may run Python in the sandbox), or an environment of a plugin. A problem
    whose metadata has `environment` names its own."""
    options: dict[str, Any] = {}
    """Arguments for the environment of this `kind`, by name."""
    max_turns: Positive = 8
    """Turns of the model in one conversation. Our choice. The tokens of a conversation, replies included, are limited
    by the `max_tokens` of whoever asks."""
    time_limit_s: PositiveFloat = 120.0
    """Seconds that the environment's replies in one conversation may take together. Our choice."""
    workers: Positive = 4
    """Replies that are worked out at the same time. Our choice."""
