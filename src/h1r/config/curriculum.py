"""Problems and rollouts of RL by the pass rates that its own groups show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from h1r.config.base import Count, Fraction, PositiveFloat, Section


class CurriculumSection(Section):
    """Which problems are drawn, and how many rollouts each gets, by pass rates that are measured as RL goes
    (docs/guide/rl-curriculum.md). Off by default: the paper chooses its problems once, before RL. All numbers are our
    choice."""

    choose: Literal["epochs", "pass_rate"] = "epochs"
    """`epochs`: each problem once an epoch, the paper's. `pass_rate`: by p (1 - p), without those that are retired."""
    decay: Fraction = 0.8
    """Of what earlier visits of a problem count, at each visit. 1: all count alike; 0: the last one alone."""
    prior: PositiveFloat = 2.0
    """Rollouts that the pass rate before RL counts for: that of the pool where it measured one, else a half."""
    floor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Least weight of a problem, as a share of the largest, which is that of p = 1/2."""
    retire_at: Fraction = 0.9
    """Pass rate from which a problem counts as solved."""
    retire_after: Count = 2
    """Visits in a row that find it solved, after which a problem is retired. 0: none is."""
    revisit: Fraction = 0.05
    """Share of the draws that look at retired problems, those first that were not seen for longest. One that is not
    solved any more is drawn again."""
    min_group: Count = 0
    """Least rollouts of a problem where they are shared out by p (1 - p), `num_generations` a problem on average. 0 of
    both: `num_generations` each."""
    max_group: Count = 0
    """Most rollouts of a problem where they are shared out."""
    weigh: Literal["problems", "rollouts"] = "problems"
    """What counts alike in the loss where rollouts are shared out: `problems`, whatever rollouts they have (advantages
    are multiplied by `num_generations` over the group's rollouts), or `rollouts`, so that larger groups weigh more."""

    @property
    def shares(self) -> bool:
        """Whether groups differ in size."""
        return self.max_group > 0

    @property
    def measures(self) -> bool:
        """Whether anything depends on pass rates."""
        return self.shares or self.choose == "pass_rate"

    @model_validator(mode="after")
    def _both_bounds(self) -> CurriculumSection:
        if (self.min_group > 0) != (self.max_group > 0):
            raise ValueError("min_group and max_group go together; set both, or neither")
        if self.min_group == 1:
            raise ValueError("min_group = 1 leaves groups that have nothing to compare; set 2 or more")
        return self
