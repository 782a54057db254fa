"""Where rewards are computed, for RL, evaluation and curation alike."""

from __future__ import annotations

from typing import Literal

from h1r.config.base import Count, PositiveFloat, Section


class VerifySection(Section):
    """The reward service (section 4.3: Ray and asyncio). What a problem's verifier does, its metadata says."""

    backend: Literal["processes", "ray"] = "processes"
    """`processes` of this machine, or actors on a `ray` cluster, which needs the extra `ray`."""
    workers: Count = 0
    """Worker processes, on Ray one per actor; 0: one per core of this machine, at most 8. Our choice."""
    time_limit_s: PositiveFloat = 5.0
    """Seconds for one answer. Our choice."""
    ray_address: str | None = None
    """Of the cluster; unset: the one of RAY_ADDRESS, else one is started on this machine."""
