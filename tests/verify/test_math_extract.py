import time

import pytest

from h1r.mathematics import grade, grade_lenient
from h1r.mathematics.extract import find_answer
from h1r.records import Problem
from machine import slowness


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("42", "42"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("D. it can't be A or B", "D. it can't be A or B"),
        ("odd", "odd"),
        (" so 7", "7"),
        ("It is 7", "7"),
        (r"So $x = 3$ and then \boxed{5}.", "5"),
        ("First 3, then 4.\n#### 12", "12"),
        ("She makes $18 a day.\nA: 18", "18"),
        (r"Hence the final answer is $\frac{2}{3}$. I hope it is correct.", r"\frac{2}{3}"),
        ("**Answer:** 17 apples", "17 apples"),
        (r"Final Answer: The maximum of $f(x)$ is 19.", "19"),
        (r"The roots are \(1\) and \(2\).", "1, 2"),
        ("Adding up, 3 + 4 = 7.\nSo, Terry has 7 apples.", "7"),
        (r"We get \[ 3 + 4 \to 7 \] by addition of the two numbers.", r"3 + 4 \to 7"),
        (r"\int_0^1 x\,dx", r"\int_0^1 x\,dx"),
        ("Therefore, the pension will be **$52,500**.", "$52,500"),
        ("**5**", "5"),
        ("The answer is at most 5.", "at most 5"),
        ("Answer: x = 3, y = 4", "x = 3, y = 4"),
        ("The answer is not an integer; it is 7/2.", "7/2"),
    ],
)
def test_answers_without_a_box_are_found(text, answer):
    assert find_answer(text) == answer


@pytest.mark.parametrize("text", ["", "   ", "we do not know " * 40 + r"\boxed{5"])
def test_nothing_is_taken_where_there_is_nothing(text):
    assert find_answer(text) is None


@pytest.mark.parametrize(
    "text",
    ["The answer is not 5.", "The answer can't be 5.", "The answer isn't 5", "It's not true that the answer is 5"],
)
def test_a_denied_answer_is_none(text):
    assert find_answer(text) is None


def test_only_the_lenient_verifier_takes_what_is_not_boxed():
    problem = Problem("p", "", "18")
    assert grade(problem, "The answer is 18.").reward == 0.0
    assert grade(problem, "The answer is 18.").error
    assert grade_lenient(problem, "The answer is 18.").reward == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "$" * 200_000,
        r"\(" * 100_000,
        "answer is " * 50_000,
        "**" * 100_000,
        "1," * 200_000,
        "= " * 100_000,
        "[" * 200_000,
    ],
)
def test_the_search_is_bounded(text):
    start = time.process_time()
    find_answer(text)
    assert time.process_time() - start < 1 * slowness()
