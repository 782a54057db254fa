"""Two evaluations of the same problems, told apart problem by problem: much finer than by two intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from h1r.common.html import points
from h1r.report.shapes import Interval, Shape
from h1r.scaling.intervals import paired_difference


class ProblemOutcome(Shape):
    """How many of a problem's scored answers were right."""

    problem_id: str
    correct: int
    samples: int


@dataclass(frozen=True)
class Difference:
    """The second evaluation's accuracy minus the first one's, on the problems that both have scores of: on how many it
    is better, worse, the same."""

    value: float
    interval: Interval
    better: int
    worse: int
    equal: int

    @property
    def problems(self) -> int:
        """How many both have scores of."""
        return self.better + self.worse + self.equal


def change(first: Sequence[ProblemOutcome], second: Sequence[ProblemOutcome], level: float) -> Difference | None:
    """With an interval at `level`; None where they have no problem in common."""
    before, after = ({one.problem_id: one.correct / one.samples for one in each} for each in (first, second))
    both = [name for name in before if name in after]
    if not both:
        return None
    found = paired_difference([before[name] for name in both], [after[name] for name in both], level)
    return Difference(found.value, found.interval, found.better, found.worse, found.equal)


def between(interval: Interval) -> str:
    """`+1.0 to +2.5 points`."""
    low, high = map(points, interval)
    return f"{low.removesuffix(' points')} to {high}"
