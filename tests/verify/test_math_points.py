"""`try_list`: formulas that need to agree at given values of their unknowns only."""

from __future__ import annotations

import pytest

from h1r.errors import UserError
from h1r.mathematics.points import point_of
from h1r.mathematics.tiers import quick_lenient
from h1r.records import Problem

TWENTY = [f"n={n}" for n in range(1, 21)]


@pytest.mark.parametrize(
    ("reference", "answer", "points", "equal"),
    [
        (r"(-1)^n n", r"n \cos(\pi n)", TWENTY, True),
        (r"(-1)^n n", r"S_n = (-1)^{n+2} n", TWENTY, True),
        (r"(-1)^n n", "n", TWENTY, False),
        (r"(-1)^n n", r"(-1)^m m", TWENTY, False),
        (r"\frac{n(n+1)}{2}", r"\binom{n+1}{2}", TWENTY, True),
        (r"\frac{n^2+n}{2}", r"\lfloor \frac{n^2+n+1}{2} \rfloor", TWENTY, True),
        ("n", "n + (n-1)(n-2)", ["n=1", "n=2"], True),
        ("n", "n + (n-1)(n-2)", ["n=1", "n=2", "n=3"], False),
        (r"\frac{abc}{a+b+c}", r"\frac{a b c}{c+b+a}", ["a=2,b=3,c=4"], True),
        (r"\frac{abc}{a+b+c}", r"\frac{abc}{a+b}", ["a=2,b=3,c=4"], False),
        ("n", r"\text{odd}", TWENTY, False),
    ],
)
def test_formulas_are_compared_at_the_points(reference: str, answer: str, points: list[str], equal: bool) -> None:
    problem = Problem("p", "Find it.", rf"\boxed{{{reference}}}", "math_lenient", metadata={"try_list": points})
    verdict = quick_lenient(problem, rf"### The final answer is: $\boxed{{{answer}}}$")
    assert verdict is not None
    assert verdict.reward == float(equal)


def test_points_that_are_none_are_refused_with_the_problem() -> None:
    assert point_of("a=2, b=-1/2") == {"a": 2, "b": -0.5}
    for wrong in ("n=1", ["n"], ["n=x"], ["n=1/0"], [1]):
        problem = Problem("p", "Find it.", "n", "math_lenient", metadata={"try_list": wrong})
        with pytest.raises(UserError, match="problem `p`: metadata"):
            quick_lenient(problem, r"\boxed{n}")
