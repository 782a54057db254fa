"""Which problems RL draws next, and how many rollouts each gets, by the pass rates that its own groups show.

    visit      r of n rollouts right      R <- decay R + r,   W <- decay W + (n - r)
    pass rate  p = (R + prior m) / (R + W + prior),           m: what the pool measured, 1/2 where it measured nothing
    weight     w = max(p (1 - p), floor / 4)
    drawn      with chances as w, no problem twice in a batch while there are others
    retired    after `retire_after` visits in a row that leave p at `retire_at` or more; a share `revisit` of the draws
               looks at those that were not seen for longest, and one whose p falls is drawn again
    rollouts   min_group <= n_i <= max_group, as w_i as whole numbers come, their sum that of equal groups

p is the mean of a Beta posterior whose evidence fades, as in MoPPS (arXiv 2507.04632), which then draws from the
posterior where we take its mean. Choosing by p (1 - p), the variance of a right answer, is sampling for learnability
(LILO, arXiv 2502.12272); to go on looking at what teaches nothing is GRESO's (2506.02177), to share rollouts out by
what they may teach Knapsack RL's (2509.25849), by another value than p (1 - p). The formulas are our choice.

A visit is known when its group is graded, before it is trained on. What a round of prompts draws follows from the
rounds before it, which are graded when it begins; with `rl.lookahead` = k those of step t come from weights of step
t - k or earlier. So it depends on neither who samples nor how fast. What is drawn is a function of counters, as all
chance in RL is; the state is what the visits came to, by problem.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from h1r.config import CurriculumSection, RLSection
from h1r.records import Problem


class Visits(NamedTuple):
    """What the visits of a problem came to. right, wrong: R and W above. solved: visits in a row, up to the last, that
    left its rate at the limit. last: the number of the draw that was the last visit."""

    right: float
    wrong: float
    solved: int
    last: int


NEVER = Visits(0.0, 0.0, 0, -1)


def pass_rate(visits: Visits, start: float, section: CurriculumSection) -> float:
    """p of a problem whose rate before RL was `start`."""
    return (visits.right + section.prior * start) / (visits.right + visits.wrong + section.prior)


def visited(
    before: Visits, right: int, wrong: int, number: int, start: float, section: CurriculumSection
) -> tuple[Visits, float]:
    """The visits with one more, the draw `number`, and the pass rate then. One whose rollouts have no verdict, none
    right and none wrong, says nothing of the rate."""
    if not right + wrong:
        return before._replace(last=number), pass_rate(before, start, section)
    after = Visits(section.decay * before.right + right, section.decay * before.wrong + wrong, 0, number)
    rate = pass_rate(after, start, section)
    return after._replace(solved=before.solved + 1 if rate >= section.retire_at else 0), rate


def choose(
    weights: np.ndarray, retired: Sequence[int], taken: Collection[int], chances: Sequence[float], looks: Sequence[bool]
) -> list[int]:
    """An index below N for each of `chances` (numbers in [0, 1)), in order; none twice, and none of `taken`, while
    there are others.

    weights: [N], those of `retired` are not read, and all others are positive. looks: the draws that take the first of
    `retired`. Where none of these is left, all draws are by weight, and where only these are left, all take them.
    """
    left, waiting = _without(weights, retired, taken)
    found = []
    for chance, look in zip(chances, looks, strict=True):
        if not left.any() and not waiting:
            left, waiting = _without(weights, retired, ())
        if waiting and (look or not left.any()):
            found.append(waiting.popleft())
            continue
        sums = left.cumsum()
        # The product may round up to the sum itself.
        at = min(int(np.searchsorted(sums, chance * sums[-1], side="right")), int(left.nonzero()[0][-1]))
        found.append(at)
        left[at] = 0.0
    return found


def _without(weights: np.ndarray, retired: Sequence[int], taken: Collection[int]) -> tuple[np.ndarray, deque[int]]:
    left = weights.astype(np.float64)
    left[[*retired, *taken]] = 0.0
    return left, deque(index for index in retired if index not in taken)


def share_out(weights: Sequence[float], total: int, least: int, most: int) -> list[int]:
    """`total` as whole numbers between `least` and `most`, one for each of the positive `weights`, as these are: from
    `least` each on, the next always to whom w / (2 n + 1) is largest (Sainte-Lague). `ValueError` where no numbers
    within the bounds have this sum."""
    if not least * len(weights) <= total <= most * len(weights):
        raise ValueError(f"{len(weights)} numbers from {least} to {most} do not sum to {total}")
    given = [least] * len(weights)
    waiting = [(-weight / (2 * least + 1), index) for index, weight in enumerate(weights) if least < most]
    heapq.heapify(waiting)
    for _ in range(total - sum(given)):
        _, index = heapq.heappop(waiting)
        given[index] += 1
        if given[index] < most:
            heapq.heappush(waiting, (-weights[index] / (2 * given[index] + 1), index))
    return given


def looks_back(number: int, share: float) -> bool:
    """Whether the draw `number` looks at a retired problem: a `share` of all numbers, evenly spread."""
    return math.floor((number + 1) * share) > math.floor(number * share)


@dataclass(frozen=True)
class CurriculumState:
    """Where a curriculum is between two batches. metrics: what there is to say of it."""

    visits: Mapping[str, Visits]
    metrics: Mapping[str, float]


class Curriculum:
    """The pass rates of `problems`, and what follows from them. seed: of the draws."""

    def __init__(self, problems: Sequence[Problem], section: RLSection, seed: int) -> None:
        self._section, self._generations, self._seed = section.curriculum, section.num_generations, seed
        self._index = {problem.id: index for index, problem in enumerate(problems)}
        self._starts = [_start(problem) for problem in problems]
        self._taken: set[int] = set()
        self.restore({})

    def begin_batch(self) -> None:
        """From here on, problems count as drawn before where this batch has drawn them."""
        self._taken.clear()

    def draw(self, first: int, count: int) -> list[int]:
        """The problems of the draws `first` to `first + count - 1`."""
        numbers = range(first, first + count)
        chances = [random.Random(f"rl curriculum {self._seed} {number}").random() for number in numbers]
        looks = [looks_back(number, self._section.revisit) for number in numbers]
        return choose(self._weights(), self._retired(), self._taken, chances, looks)

    def sizes(self, indices: Sequence[int]) -> list[int]:
        """How many rollouts each of these problems gets."""
        if not self._section.shares:
            return [self._generations] * len(indices)
        weights = self._weights()[list(indices)].tolist()
        total = self._generations * len(indices)
        return share_out(weights, total, self._section.min_group, self._section.max_group)

    def see(self, visits: Iterable[tuple[int, str, Sequence[bool]]]) -> None:
        """What draws came to: the number and the problem of each, and which of its rollouts are right."""
        for number, name, rights in visits:
            index, before = self._index[name], self._visits.get(name, NEVER)
            right = sum(rights)
            self._visits[name], self._rates[index] = visited(
                before, right, len(rights) - right, number, self._starts[index], self._section
            )
            self._taken.add(index)

    def snapshot(self) -> CurriculumState:
        """Where it is. What that holds does not change any more."""
        return CurriculumState(dict(self._visits), self._metrics())

    def restore(self, visits: Mapping[str, Sequence[Any]]) -> None:
        """Goes on from the visits of a state, as they are or as JSON gives them. Those of problems that are not here
        are left out."""
        self._visits = {name: Visits(*one) for name, one in visits.items() if name in self._index}
        self._rates = np.array(self._starts)
        for name, one in self._visits.items():
            index = self._index[name]
            self._rates[index] = pass_rate(one, self._starts[index], self._section)

    def _weights(self) -> np.ndarray:
        return np.maximum(self._rates * (1 - self._rates), self._section.floor / 4)

    def _retired(self) -> list[int]:
        """Those that were not seen for longest first."""
        after = self._section.retire_after
        if not after or self._section.choose != "pass_rate":
            return []
        found = [(one.last, self._index[name]) for name, one in self._visits.items() if one.solved >= after]
        return [index for _, index in sorted(found)]

    def _metrics(self) -> dict[str, float]:
        """seen: problems that were visited. retired: of these. p10, p50, p90: so many percent of those that were
        visited have a lower pass rate."""
        rates = self._rates[[self._index[name] for name in self._visits]]
        found = {"seen": float(len(rates)), "retired": float(len(self._retired()))}
        if len(rates):
            found |= {f"p{at}": float(np.quantile(rates, at / 100)) for at in (10, 50, 90)}
        return {f"curriculum/{name}": value for name, value in found.items()}


def _start(problem: Problem) -> float:
    """The pass rate that the pool measured of a problem; a half where there is none."""
    found = problem.difficulty.get("pass_rate")
    return float(found) if isinstance(found, int | float) and 0 <= found <= 1 else 0.5
