import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h1r.mathematics.parse import UnreadableError, parse, variables
from h1r.mathematics.value import constant_ratio, exact, same_value
from machine import slowness

Tree = tuple


def trees(leaves: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    return st.recursive(
        leaves, lambda inner: st.tuples(st.sampled_from(["add", "mul", "div", "pow2"]), inner, inner), max_leaves=8
    )


CONSTANTS = trees(st.integers(0, 20).map(lambda value: ("num", value)))
FORMULAS = trees(st.sampled_from([("num", 2), ("num", 3), ("var", "x"), ("var", "y")]))


def latex(tree: Tree) -> str:
    if tree[0] in ("num", "var"):
        return str(tree[1])
    left, right = latex(tree[1]), latex(tree[2])
    return {
        "add": f"({left}+{right})",
        "mul": rf"{{{left}}}\cdot {{{right}}}",
        "div": rf"\frac{{{left}}}{{{right}}}",
        "pow2": f"({left})^2-({right})",
    }[tree[0]]


def brute(tree: Tree, point: dict[str, Fraction]) -> Fraction:
    if tree[0] == "num":
        return Fraction(tree[1])
    if tree[0] == "var":
        return point[tree[1]]
    left, right = brute(tree[1], point), brute(tree[2], point)
    if tree[0] == "pow2":
        return left**2 - right
    return {"add": left + right, "mul": left * right}[tree[0]] if tree[0] != "div" else left / right


@settings(max_examples=200, deadline=None)
@given(CONSTANTS)
def test_constants_equal_the_rationals_that_brute_force_gives(tree):
    # The group keeps `pow2`, which ends in a difference, whole inside products.
    text = latex(("add", tree, ("num", 0)))
    try:
        value = brute(tree, {})
    except ZeroDivisionError:
        assert exact(parse(text)) is None
        return
    assert exact(parse(text)) == value


@settings(max_examples=150, deadline=None)
@given(FORMULAS, FORMULAS)
def test_formulas_are_equal_exactly_when_brute_force_finds_no_difference(left, right):
    grid = [{"x": Fraction(a, 7), "y": Fraction(b, 11)} for a in (3, 5, 8, -9) for b in (2, 7, 13, -4)]
    differences = []
    for point in grid:
        try:
            differences.append(brute(left, point) - brute(right, point))
        except ZeroDivisionError:
            continue
    found = same_value(parse(latex(left)), parse(latex(right)))
    if found is not None and differences:
        assert found is (not any(differences))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac12", Fraction(1, 2)),
        (r"1\frac{3}{4}", Fraction(7, 4)),
        (r"2\frac{5}{3}", Fraction(10, 3)),
        ("1/2*4", Fraction(2)),
        ("-2^2", Fraction(-4)),
        ("2^-1", Fraction(1, 2)),
        ("2(3)", Fraction(6)),
        ("3!", Fraction(6)),
        (r"\binom{5}{2}", Fraction(10)),
        ("|-3|", Fraction(3)),
        (r"\lfloor 7/2 \rfloor", Fraction(3)),
        ("2**3", Fraction(8)),
        ("(1+2)(3+4)", Fraction(21)),
    ],
)
def test_formulas_are_read_as_they_are_written(text, value):
    assert exact(parse(text)) == value


@pytest.mark.parametrize(
    "text", ["1 2", "x2", "1+", "(1", r"\frac{1}", r"\int x", "2^^3", "x^2^3", r"\unknown", "", "½"]
)
def test_what_is_no_formula_is_refused(text):
    with pytest.raises(UnreadableError):
        parse(text)


def test_names_with_subscripts_are_their_own_unknowns():
    assert variables(parse("a_1+a_{12}+b")) == {"a_1", "a_12", "b"}
    assert same_value(parse("a_1"), parse("a_2")) is False


def test_near_coincidence_is_not_equality():
    assert same_value(parse(r"e^{\pi\sqrt{163}}"), parse("262537412640768744")) is False


def test_ratio_of_two_sides_of_equations():
    assert constant_ratio(parse("2x-2y"), parse("x-y")) == pytest.approx(2)
    assert constant_ratio(parse("y-x"), parse("x-y")) == pytest.approx(-1)
    assert constant_ratio(parse("x-y"), parse("x+y")) == 0.0


@pytest.mark.parametrize(
    "text",
    ["9^{9^{9^{9}}}", "99999^{99999}", "((((9!)!)!)!)!", "3000!^{99}", "e^{e^{e^{e^{e^{9}}}}}", "2^{2^{2^{2^{2^2}}}}"],
)
def test_values_out_of_bounds_are_left_open_at_once(text):
    start = time.process_time()
    assert same_value(parse(text), parse("5")) is None
    assert time.process_time() - start < 0.5 * slowness()
