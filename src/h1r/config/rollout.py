"""How problems become graded traces: failures of the engine."""

from __future__ import annotations

from h1r.config.base import Fraction, Section


class RolloutSection(Section):
    """Generation for RL and its pool, evaluation, test-time scaling, `generate`, `solve` and the teacher of curation.
    May change within a run."""

    max_failed_share: Fraction = 0.1
    """A stage stops when the engine failed at more than this share of the traces that one call asked for. A trace that
    failed was tried again once, with its own seed. Those that stay failed are counted as errors, never as wrong
    answers. Our choice."""
