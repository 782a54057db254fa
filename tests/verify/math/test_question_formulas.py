r"""The formulas of a question, wherever they stand in it."""

import time

import pytest

from h1r.mathematics.question import MAX_FORMULAS, question_formulas
from machine import slowness


@pytest.mark.parametrize(
    ("question", "formulas"),
    [
        ("Compute 19 * 53.", ("19 * 53",)),
        ("Add 2/7 and 3/5.", ("2/7", "3/5")),
        ("What is 19 times 53?", ("19 * 53",)),
        ("Factor y^2 - 25 over the integers.", ("y^2 - 25",)),
        ("Find sqrt(75) and 6! please", ("sqrt(75)", "6!")),
        (r"Evaluate $\frac{1}{2}+3 = ?$", (r"\frac{1}{2}+3",)),
        (r"Evaluate \[\int_0^3 x\,dx = \underline{\hspace{1cm}}.\]", (r"\int_0^3 x\,dx",)),
        (r"Find \(2+2\), then $$3 \cdot 3.$$", ("2+2", r"3 \cdot 3")),
        (r"\begin{align*} x+y&=3\\ 2x&=5\end{align*}", ("x+y=3", "2x=5")),
        ("It costs $5 and then another $7, which is 5 + 7 dollars.", ("5 + 7",)),
        ("Simplify $a+a$; simplify $a+a$.", ("a+a",)),
        ("A 10-sided die, a well-known one, and I have 3 of them.", ()),
        ("", ()),
    ],
)
def test_formulas_are_found_between_delimiters_and_in_prose(question: str, formulas: tuple[str, ...]) -> None:
    assert question_formulas(question) == formulas


@pytest.mark.parametrize(
    "question",
    [
        r"Which equals $2+3$? (A) $\sqrt{8}$ (B) $5$ (C) $6$",
        "Which equals $2+3$?\nA. $\\sqrt{8}$\nB. $5$",
        r"Which equals $2+3$? $\textbf{(A)}\ \sqrt{8} \textbf{(B)}\ 5$",
    ],
)
def test_listed_options_are_no_formulas_of_the_question(question: str) -> None:
    assert question_formulas(question)[0] == "2+3"
    assert not any("sqrt" in formula for formula in question_formulas(question))


@pytest.mark.parametrize(
    "unit", ["$", "$x", "1+", "1 ", "(", r"\[", r"\\", "a ", "=", "(A) ", "[asy]", "1,234", r"\quad "]
)
def test_a_long_question_takes_little_time(unit: str) -> None:
    start = time.process_time()
    formulas = question_formulas(unit * (1_000_000 // len(unit)))
    assert time.process_time() - start < 0.5 * slowness()
    assert len(formulas) <= MAX_FORMULAS
