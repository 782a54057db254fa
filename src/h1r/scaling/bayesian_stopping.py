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
of a product of polynomials, exact by Gauss-Legendre quadrature. The sum over all pairs goes through the answers once;
those as likely as the likeliest are likeliest, too. The paper shows that
tracking more than two answers gains nothing in the limit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
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
    likeliest, every = _masses(_table(shapes), first, second, others)
    if not np.isfinite(every).any():
        return 0.0
    top = every.max()
    return math.fsum(np.exp(likeliest - top)) / math.fsum(np.exp(every - top))


@lru_cache(maxsize=16)
def _table(shapes: tuple[Shape, ...]) -> Array:
    """[S, K], the largest probability first, shorter shapes filled up with answers that are never given."""
    table = np.zeros((len(shapes), max(map(len, shapes))))
    for row, shape in zip(table, shapes, strict=True):
        row[: len(shape)] = shape
    return table


def _masses(p_SK: Array, first: int, second: int, others: int) -> tuple[Array, Array]:
    """Of each shape, the logarithms of the numerator and of the denominator, up to what all shapes have in common."""
    largest = p_SK[:, 0]
    with np.errstate(divide="ignore"):  # of shapes that could not give such votes
        if second == 0:  # one answer alone
            terms = (p_SK / largest[:, None]) ** first
            alike = (p_SK == largest[:, None]).sum(1)
            return tuple(np.log(one) + first * np.log(largest) for one in (alike, terms.sum(1)))
        nodes, weights = np.polynomial.legendre.leggauss(others // second // 2 + 2)
        at_T, weight_T = (nodes + 1) / 2, weights / 2
        if first == second:
            weight_T = weight_T * 2 * (1 - at_T)
        size = max(1, _MOST // (len(_STATES) * len(at_T) * (others + 1)))
        parts = [
            _pairs(p_SK[at : at + size], first, second, others, at_T) @ weight_T for at in range(0, len(p_SK), size)
        ]
        sums = np.concatenate(parts, axis=1)
        return tuple(np.log(one) + (first + second) * np.log(largest) for one in (sums[0], sums[0] + sums[1]))


_STATES = ("none", "second", "likeliest", "other", "likeliest and second", "other and second")
"""What has been chosen of the two leaders, answer after answer."""
_MOST = 1 << 21
"""Numbers in one array, of shapes that are taken together."""


def _pairs(p_SK: Array, first: int, second: int, others: int, at_T: Array) -> Array:
    """[2, S, T]: the sum over pairs of leaders of p_a^first p_b^second S(a, b) at points t, of a likeliest and another
    leader, in units of the largest probability. Answer after answer is one of the two leaders or among the others, so
    that the sum over all pairs takes as long as one pair; every term is positive."""
    width = min(second, others)
    scale = max(1, min(others, 500))  # the same power of it for every shape, against under- and overflow
    polynomials = np.zeros((len(_STATES), len(p_SK), len(at_T), others + 1))
    polynomials[0, :, :, 0] = 1
    for p_S, likeliest_S in zip(p_SK.T, (p_SK == p_SK[:, :1]).T, strict=True):
        votes_TS = [(scale * p_S) ** r / math.factorial(r) * np.ones((len(at_T), 1)) for r in range(width + 1)]
        if second <= others:
            votes_TS[second] = votes_TS[second] * at_T[:, None]  # marks those that have as many as the second
        found = polynomials * votes_TS[0].T[:, :, None]
        for r in range(1, width + 1):
            found[..., r:] += polynomials[..., : others + 1 - r] * votes_TS[r].T[:, :, None]
        share = p_S / p_SK[:, 0]
        as_first, as_second = ((share**votes)[:, None, None] for votes in (first, second))
        none, one_second, likeliest, other = polynomials[:4]
        chosen = np.where(likeliest_S, 1.0, 0.0)[:, None, None]
        found[1] += none * as_second
        found[2] += none * as_first * chosen
        found[3] += none * as_first * (1 - chosen)
        found[4] += likeliest * as_second + one_second * as_first * chosen
        found[5] += other * as_second + one_second * as_first * (1 - chosen)
        polynomials = found
    return polynomials[4:, :, :, others]
