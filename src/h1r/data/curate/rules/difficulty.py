"""How hard a problem is: classes and weights for SFT, and the pass-rate rule for RL problems.

SFT (arXiv 2601.02346, section 2): hard samples, by pass rate or trace length, weigh 1.25 to 1.75, medium ones 1, easy
ones 0.5 or nothing. The paper gives no thresholds between the classes; ours are the recipe's `hard_share` and
`easy_share`.

RL (section 3.1), with n = 8 rollouts of the SFT model a problem, s of them solved, and f the frequency of the most
frequent extracted answer:

    s = n                      drop
    0 < s < n                  keep
    s = 0, all n over-long     drop, but for a small random share
    s = 0, f >= max_majority   drop: agreement on another answer makes the reference suspect
    s = 0, f <  max_majority   drop, but for a small random share

Rollouts without a verdict ("unscored", which those have that the engine failed at) count as neither: n is the number
of the others, and a problem that has none is dropped. The paper does not size the two shares. Chance
is a function of the problem's id, so a problem's fate depends on neither its neighbours nor the order of calls.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from h1r.config import RLPoolSection
from h1r.data.curate.rules.filters import Dropped, excerpt
from h1r.records import DifficultyClass, FinishReason, Problem, Verdict, normalise_text


def pass_rate_class(pass_rate: float, easy_share: float, hard_share: float) -> DifficultyClass:
    """Hard when at most `hard_share` of the attempts passed, easy when at least 1 - `easy_share` did."""
    if pass_rate <= hard_share:
        return "hard"
    return "easy" if pass_rate >= 1 - easy_share else "medium"


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What the SFT model did with one problem: one entry per rollout. `answers` are extracted, None where none was."""

    verdicts: Sequence[Verdict]
    answers: Sequence[str | None]
    finish_reasons: Sequence[FinishReason]

    def __post_init__(self) -> None:
        if not len(self.verdicts) == len(self.answers) == len(self.finish_reasons) > 0:
            raise ValueError(
                f"rollouts of one problem must agree in number and not be empty: {len(self.verdicts)} verdicts, "
                f"{len(self.answers)} answers, {len(self.finish_reasons)} finish reasons"
            )

    @property
    def solved(self) -> int:
        return sum(verdict.reward >= 1 for verdict in self.verdicts)

    @property
    def scored(self) -> int:
        """How many have a verdict on their answer."""
        return sum(verdict.reason != "unscored" for verdict in self.verdicts)

    @property
    def majority(self) -> int:
        """How many rollouts give the most frequent answer (by normalised text); those without an answer do not vote."""
        votes = Counter(normalise_text(answer) for answer in self.answers if answer is not None)
        return max(votes.values(), default=0)


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """Whether a problem enters the RL pool, why, and the problem with its measured difficulty."""

    keep: bool
    reason: str
    problem: Problem


def judge_for_rl(problem: Problem, rollouts: Rollouts, section: RLPoolSection) -> PoolDecision:
    """The pass-rate rule for one problem (module docstring).

    The returned problem's `difficulty` gains `pass_rate` (share solved), `majority` (f, a sign of label noise when
    nothing is solved) and `overlong` (share of rollouts that hit the token limit).
    """
    n = rollouts.scored
    if n == 0:
        failed = all(reason == "error" for reason in rollouts.finish_reasons)
        return PoolDecision(False, "the engine could not answer" if failed else "no answer could be scored", problem)
    overlong = sum(reason == "length" for reason in rollouts.finish_reasons)
    measured = {"pass_rate": rollouts.solved / n, "majority": rollouts.majority, "overlong": overlong / n}
    problem = dataclasses.replace(problem, difficulty={**problem.difficulty, **measured})
    if rollouts.solved == n:
        return PoolDecision(False, "always solved", problem)
    if rollouts.solved:
        return PoolDecision(True, "sometimes solved", problem)
    if overlong == n:
        return PoolDecision(_chance(problem.id, section.keep_overlong_share), "never solved, all too long", problem)
    if rollouts.majority >= section.max_majority:
        return PoolDecision(False, "never solved, answers agree: likely a wrong label", problem)
    return PoolDecision(_chance(problem.id, section.keep_unsolved_share), "never solved, answers scatter", problem)


def select_for_rl(
    problems: Iterable[Problem], rollouts: Mapping[str, Rollouts], section: RLPoolSection
) -> tuple[list[Problem], list[Dropped]]:
    """The RL pool, in order, each problem with its measured difficulty. Every problem needs its `rollouts`."""
    kept: list[Problem] = []
    dropped: list[Dropped] = []
    for problem in problems:
        decision = judge_for_rl(problem, rollouts[problem.id], section)
        if decision.keep:
            kept.append(decision.problem)
        else:
            dropped.append(Dropped(problem.id, "pass rate", decision.reason, excerpt(problem.question)))
    return kept, dropped


def _chance(key: str, share: float) -> bool:
    """True for a `share` of all keys, always the same ones."""
    digest = hashlib.sha256(f"rl pool {key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
