r"""An answer of the right value earns nothing when it restates the question or lacks the form that is asked for."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.errors import UserError
from h1r.mathematics import grade
from h1r.mathematics.forms import NAMES, decided
from h1r.mathematics.parse import Node
from h1r.mathematics.question import question_formulas
from h1r.mathematics.shape import shape
from h1r.records import Problem
from h1r.verify import verify

HERE = Path(__file__).parent
QUESTIONS = sorted((HERE / "math" / "questions").glob("*.txt"))


def lines(path: Path) -> Iterator[list[str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("# "):
            yield line.split(" ;; ")


@pytest.mark.parametrize("path", QUESTIONS, ids=[path.stem for path in QUESTIONS])
def test_every_line_of_the_table_has_its_verdict(path: Path) -> None:
    wrong = []
    for question, reference, answer, expected in lines(path):
        verdict = grade(Problem("p", question, reference), rf"\boxed{{{answer}}}")
        if (verdict.error or "1") != expected or (verdict.reward == 1) != (expected == "1"):
            wrong.append((question, reference, answer, expected, verdict.reward, verdict.error))
    assert not wrong


def test_no_formula_of_a_question_earns_whatever_is_done_to_it_without_solving() -> None:
    disguises = ("{}", "{} + 0", r"1 \cdot ({})", r"\frac{{{}}}{{1}}", "A = {}", r"\displaystyle {}", "({})", "$ {} $")
    paid = []
    for question, reference in lines(HERE / "attacks" / "restating.txt"):
        assert grade(Problem("p", question, reference), rf"\boxed{{{reference}}}").reward == 1
        formulas = question_formulas(question)
        assert formulas, question
        for formula in formulas:
            for disguise in disguises:
                answer = disguise.format(formula)
                if grade(Problem("p", question, reference), rf"\boxed{{{answer}}}").reward:
                    paid.append((question, answer))
    assert not paid


@pytest.mark.parametrize(
    ("form", "reference", "right", "wrong", "error"),
    [
        ("value", "1007", "1007", r"19 \cdot 53", "not evaluated"),
        ("value", "1024", "1024", "2^{10}", "not evaluated"),
        ("value", r"3\sqrt{2}", r"3\sqrt{2}", r"\sqrt{2}+2\sqrt{2}", "not evaluated"),
        ("lowest_terms", r"\frac{3}{8}", "3/8", r"\frac{6}{16}", "not in lowest terms"),
        ("lowest terms", r"\frac{3}{8}", "3/8", r"\frac{6}{16}", "not in lowest terms"),
        ("fraction", r"\frac{3}{8}", r"\frac{6}{16}", "0.375", "not a fraction"),
        ("improper", r"\frac{7}{2}", "7/2", r"3\frac{1}{2}", "not an improper fraction"),
        ("mixed_number", r"3\frac{1}{2}", r"3\frac12", "3.5", "not a mixed number"),
        ("decimal", "0.375", ".375", r"\frac{3}{8}", "not a decimal"),
        ("percent", r"20\%", r"20.0\%", "0.2", "not a percentage"),
        ("scientific", r"7.3\times 10^4", r"7.30\cdot 10^4", "73000", "not in scientific notation"),
        ("factored", "(z-6)(z+6)", "(z+6)(z-6)", "z^2-36", "not factored"),
        ("factored", "z^2-36", "(z+6)(z-6)", "36(z^2/36-1)+0z+z-z", "not factored"),
        ("expanded", "z^2-36", "-36+z^2", "(z-6)(z+6)", "not expanded"),
        ("simplified", "7x", r"7 \cdot x", "3x+4x", "not simplified"),
        ("radical", r"7\sqrt{2}", r"\sqrt{2}\cdot 7", r"\sqrt{98}", "not in simplest radical form"),
        (
            "rationalized",
            r"\frac{\sqrt2}{2}",
            r"\frac{1}{2}\sqrt{2}",
            r"\frac{1}{\sqrt2}",
            "has a root in a denominator",
        ),
        ("pi", r"4\pi", r"\pi\cdot 4", "12.566370614", r"not in terms of \pi"),
        ("radians", r"\frac{\pi}{2}", r"\pi/2", r"90^\circ", "not in radians"),
        ("degrees", r"90^\circ", r"90.0^\circ", r"\frac{\pi}{2}", "not in degrees"),
        ("interval", "(-2,4)", r"\left(-2,4\right)", "-2<x<4", "not in interval notation"),
    ],
)
def test_a_form_that_the_problem_names_is_held_against_an_answer_without_a_question(
    form: str, reference: str, right: str, wrong: str, error: str
) -> None:
    problem = Problem("p", "", reference, metadata={"form": form})
    assert grade(problem, rf"\boxed{{{right}}}").reward == 1
    verdict = grade(problem, rf"\boxed{{{wrong}}}")
    assert (verdict.reward, verdict.error, verdict.reason) == (0, error, "wrong")
    assert grade(Problem("p", "", reference), rf"\boxed{{{wrong}}}").reward == 1


def test_the_form_any_pays_whatever_is_equal() -> None:
    problem = Problem("p", "Compute $19 \\cdot 53$.", "1007", metadata={"form": "any"})
    assert grade(problem, r"\boxed{19 \cdot 53}").reward == 1


def test_the_lenient_verifier_refuses_a_restatement_too() -> None:
    problem = Problem("p", "Compute $19 \\cdot 53$.", "1007", verifier="math_lenient")
    verdict = verify(problem, r"The answer is $19 \cdot 53$.")
    assert (verdict.reward, verdict.error) == (0, "restates a formula of the question")
    assert verify(problem, "The answer is $1007$.").reward == 1


def test_another_reference_that_the_answer_is_written_as_pays() -> None:
    problem = Problem("p", "Factor $z^2-36$.", "(z-6)(z+6)", metadata={"accept": ["z^2-36"]})
    assert grade(problem, r"\boxed{z^2-36}").reward == 1


def test_an_unknown_form_is_a_sentence_that_names_the_problem_and_the_forms() -> None:
    with pytest.raises(UserError, match="problem `p`: metadata `form` is 'nice'; give one of auto, any, value"):
        grade(Problem("p", "", "1", metadata={"form": "nice"}), r"\boxed{1}")


@pytest.mark.parametrize(
    "word", ["Factor ", "Simplify ", "as a ", "to a fraction ", "in lowest ", " prime factor", "in terms of $"]
)
def test_the_forms_of_a_long_question_are_found_in_little_time(word: str) -> None:
    assert set(decided(word * (200_000 // len(word)))) <= set(NAMES)


NODES = st.recursive(
    st.one_of(
        st.integers(0, 9).map(lambda number: ("num", Fraction(number))),
        st.sampled_from("xyz").map(lambda name: ("var", name)),
    ),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(("add", "mul", "div")), inner, inner), st.tuples(st.just("neg"), inner)
    ),
    max_leaves=8,
)


def mirrored(node: Node) -> Node:
    """The same formula with the operands of every sum and product in the other order."""
    if node[0] in ("add", "mul"):
        return (node[0], mirrored(node[2]), mirrored(node[1]))
    return tuple(mirrored(part) if isinstance(part, tuple) else part for part in node)


@given(NODES)
def test_the_order_of_operands_has_no_shape(node: Node) -> None:
    assert shape(node) == shape(mirrored(node))
    assert shape(("neg", ("neg", node))) == shape(node)
    assert shape(("add", node, ("num", Fraction(0)))) == shape(node)
