"""Optimal Bayesian stopping (arXiv 2602.05395): adaptive consistency that knows what answer distributions look like.

    shape      p_1 >= p_2 >= ... >= p_K    how often each answer of a problem was given, of any problem; Pi, a library
    state      n_1 >= n_2, r               votes of the two leading answers, and of all others together ("L = 3")
    posterior  P(the leader is the likeliest answer | n_1, n_2, r), shapes having equal weights beforehand

           sum_shape sum_{b != 1}  p_1^n_1 p_b^n_2 S(1, b)
        =  -------------------------------------------------
           sum_shape sum_{a != b}  p_a^n_1 p_b^n_2 S(a, b)

    S(a, b) = sum over counts r_j <= n_2 of the other answers, sum r_j = r, of  w prod p_j^r_j / r_j!

With m of the r_j equal to n_2 the two leaders were arbitrary among them, hence w = 1 / (1 + m), and 1 / ((2 + m)
choose 2) where n_1 = n_2. Both are integrals over t in [0, 1], of t^m and of 2 (1 - t) t^m, so that S is a coefficient
of a product of polynomials, exact by Gauss-Legendre quadrature. Answers of one shape that are equally likely are
counted together, which makes the sums short; those as likely as the likeliest are likeliest, too. The paper shows that
tracking more than two answers gains nothing in the limit.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from h1r.errors import UserError
from h1r.scaling.methods import OneByOne
from h1r.scaling.voting import Vote

Shape = tuple[float, ...]
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BayesianStopping(OneByOne):
    """Optimal Bayesian stopping (arXiv 2602.05395, L = 3): one trace after the other, until the leading answer is the
    likeliest with a posterior probability of `certain`, given the answer shapes of other problems.

    shapes: lists of answer frequencies, or the `scaling/result.json` of a run, whose majority votes give them. There is
    no default: without shapes of the same model and kind of problems, adaptive_consistency is what is left of it.
    """

    shapes: str | Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        self.check()
        found = shapes_in(self.shapes) if isinstance(self.shapes, str) else self.shapes
        object.__setattr__(self, "shapes", tuple(sorted({shape_of(one) for one in found})))
        if not self.shapes:
            raise UserError(
                "bayesian_stopping needs the answer shapes of other problems; give the study of a run of this model, "
                'as in scaling.options = { shapes = "runs/demo/scaling/result.json" }'
            )

    def certainty(self, outcome: Vote) -> float:
        if not outcome.count:
            return 0.0
        first, second, *others = [*sorted((round(total) for total in outcome.totals.values()), reverse=True), 0]
        return leads(cast(tuple[Shape, ...], self.shapes), first, second, sum(others))


def shape_of(frequencies: Iterable[float]) -> Shape:
    """Frequencies or counts as probabilities, the largest first. `UserError` for what are none."""
    found = sorted((float(one) for one in frequencies), reverse=True)
    whole = math.fsum(found)
    if not found or not all(math.isfinite(one) and one >= 0 for one in found) or whole <= 0:
        raise UserError("an answer shape is a list of frequencies, none negative and not all 0; mend scaling.options")
    return tuple(one / whole for one in found if one > 0)


def shapes_in(path: str) -> list[list[float]]:
    """Those of the majority votes of a study. `UserError` where it has none."""
    try:
        outcomes = json.loads(Path(path).read_text(encoding="utf-8"))["outcomes"]
        return [list(one["majority"]["totals"].values()) for one in outcomes if one["majority"]["totals"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: no study of test-time scaling ({error}); give a run's scaling/result.json") from None


@lru_cache(maxsize=65536)
def leads(shapes: tuple[Shape, ...], first: int, second: int, others: int) -> float:
    """The posterior probability that the answer with `first` votes is the likeliest, the next one having `second` and
    all the rest `others`; 0 where no shape could give such votes."""
    terms = [term for shape in shapes for term in _masses(shape, first, second, others)]
    top = max((log for log, _ in terms), default=0.0)
    every = math.fsum(math.exp(log - top) for log, _ in terms)
    return math.fsum(math.exp(log - top) for log, likeliest in terms if likeliest) / every if terms else 0.0


def _masses(shape: Shape, first: int, second: int, others: int) -> Iterator[tuple[float, bool]]:
    """The logarithms of the terms of the sum, up to a factor that all shapes have, and whether the likeliest leads."""
    kinds = sorted(Counter(shape).items(), reverse=True)
    logs, counts = [math.log(p) for p, _ in kinds], [count for _, count in kinds]
    if second == 0:  # one answer alone
        yield from ((math.log(count) + first * log, log == logs[0]) for log, count in zip(logs, counts, strict=True))
        return
    nodes, weights = np.polynomial.legendre.leggauss(others // second // 2 + 2)
    at, weight = (nodes + 1) / 2, weights / 2
    if first == second:
        weight = weight * 2 * (1 - at)
    for t, w in zip(at, weight, strict=True):
        powers = [_powers(p, count, second, others, float(t)) for p, count in kinds]
        for a, b in itertools.product(range(len(kinds)), repeat=2):
            ways = counts[a] * (counts[b] - (a == b))
            rest = float(w) * _product([of[(v == a) + (v == b)] for v, of in enumerate(powers)], others)
            if ways and rest > 0:
                yield math.log(ways) + first * logs[a] + second * logs[b] + math.log(rest), a == 0


def _powers(p: float, count: int, top: int, degree: int, t: float) -> list[Array]:
    """The polynomial of `count` answers of probability p with at most `top` votes each, and those of one and of two
    fewer; t marks those that have as many."""
    one = np.zeros(degree + 1)
    scale = math.log(p * max(1, min(degree, 500)))  # the same power of it for every shape, against under- and overflow
    size = min(top, degree)
    one[: size + 1] = [math.exp(r * scale - math.lgamma(r + 1)) for r in range(size + 1)]
    if top <= degree:
        one[top] *= t
    found = [np.eye(1, degree + 1)[0]]
    for _ in range(count):
        found.append(np.convolve(found[-1], one)[: degree + 1])
    return [found[max(0, count - fewer)] for fewer in range(3)]


def _product(factors: Sequence[Array], degree: int) -> float:
    """The coefficient of the given degree."""
    whole = factors[0]
    for one in factors[1:]:
        whole = np.convolve(whole, one)[: degree + 1]
    return float(whole[degree])
