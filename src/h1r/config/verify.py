"""Where rewards are computed, for RL, evaluation and curation alike."""

from __future__ import annotations

from typing import Literal

from h1r.config.base import Count, Fraction, Positive, PositiveFloat, Section


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
    judge_on: Literal["never", "unread", "wrong"] = "never"
    """What a rule (`math`, `math_lenient`, `exact`, `choice`) gives nothing goes to the judge, too: where it found no
    answer that it can read, or also where it calls the answer wrong. A judge can be talked over. Our choice."""


class ControlsSection(Section):
    """Negative controls: answers that solve nothing (0, nan, another item's answer, a stub), graded before a problem is
    used. Curation, the RL pool and the benchmarks of `h1r eval` refuse problems that pay one."""

    enabled: bool = True
    """Whether controls are graded at all."""
    per_item: Count = 2
    """Controls of an item, drawn by its id; 0: all. One that earns anywhere is asked of the whole family. Items with
    tests, instructions or options of their own get all, and so do those of a small set. Our choice."""
    generated: Count = 32
    """Problems of a generated family whose references and controls are graded, drawn by their ids; 0: all. Where one of
    them fails, all problems of the family are graded. Those of files always are. Our choice."""
    share: Fraction = 0.1
    """A family with a scorer of its own is refused when a control earns for more of its items. Our choice."""
    constant_share: Fraction = 0.8
    """A family is refused when one answer is right for more of its items. Our choice."""
    min_items: Positive = 20
    """Smaller families are judged item by item only. Our choice."""
    judge: bool = False
    """Ask controls of problems that a language model judges, too."""
    in_eval: Literal["refuse", "report", "stop"] = "refuse"
    """Problems of a benchmark that fail: left out and counted as unusable, named and asked all the same, or an end."""
