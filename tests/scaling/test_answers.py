import time

import pytest

from h1r.records import Problem, Verdict
from h1r.scaling.answer_groups import AnswerGroups
from h1r.scaling.answers import (
    certainly_equivalent,
    extract_answer,
    extract_for,
    groups_for,
    math_equivalence,
    text_equivalent,
)
from h1r.verify import VerifierPool
from machine import bound


def never(problems, texts):
    raise AssertionError("the verifier was asked about what is certain")


def test_answer_is_the_last_box_after_the_thinking():
    text = r"<think> maybe \boxed{1} </think> first \boxed{2}, no, \boxed{\frac{1}{2}}"
    assert extract_answer(text) == r"\frac{1}{2}"


@pytest.mark.parametrize("text", [r"<think> it is \boxed{1}", "<think> it is 1 </think> 1", "", r"</think> \boxed{"])
def test_unfinished_or_unboxed_text_has_no_answer(text):
    assert extract_answer(text) is None


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [("0.5", r"\frac{1}{2}", True), ("7", "8", False), ("(1,2)", "( 1, 2)", True), ("(1,2)", "(2,1)", False)],
)
def test_what_is_certain_is_decided_without_the_verifier(left, right, same):
    assert math_equivalence(never)(left, right) is same
    assert certainly_equivalent(left, right) is same


def test_what_is_not_certain_is_asked_with_the_founder_as_reference():
    asked = []

    def verify_many(problems, texts):
        asked.extend((problem.answer, problem.verifier, text) for problem, text in zip(problems, texts, strict=True))
        return [Verdict(1.0)]

    assert math_equivalence(verify_many)(r"\lim_{x\to 0} x", "0")
    assert not certainly_equivalent(r"\lim_{x\to 0} x", "0")
    assert asked == [(r"\lim_{x\to 0} x", "math", r"\boxed{0}")]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [("Red  Fox", "red fox", True), ("1/2", "0.50", True), ("1, 2", "2, 1", False), ("abc", "acb", False)],
)
def test_text_answers_keep_their_order_and_letters(left, right, same):
    assert text_equivalent(left, right) is same


def test_only_problems_with_a_mathematical_verifier_are_grouped_mathematically():
    # A bare list has no order in mathematics; in a sorting puzzle its order is the answer.
    assert groups_for(Problem("a", "", "", verifier="math"), never)(["1, 2", "2, 1"]) == ["1, 2", "1, 2"]
    assert groups_for(Problem("a", "", "", verifier="math_lenient"), never)(["1, 2", "2, 1"]) == ["1, 2", "1, 2"]
    assert groups_for(Problem("b", "", "", verifier="reasoning_gym"), never)(["1, 2", "2, 1"]) == ["1, 2", "2, 1"]


def test_an_answer_without_a_box_counts_where_the_verifier_reads_it():
    text = "<think> x </think> So the answer is 42."
    assert extract_for(Problem("a", "", "", verifier="math_lenient"))(text) == "42"
    assert extract_for(Problem("a", "", "", verifier="math"))(text) is None


def test_the_second_tier_is_asked_a_bounded_number_of_times():
    asked = []

    def verify_many(problems, texts):
        asked.append(texts[0])
        return [Verdict(0.0)]

    groups = AnswerGroups(math_equivalence(verify_many, max_asked=5))
    unreadable = [rf"\lim_{{x\to {k}}} x" for k in range(40)]
    assert groups(unreadable) == unreadable
    assert len(asked) == 5


def test_one_hung_comparison_ends_the_second_tier():
    asked = []

    def verify_many(problems, texts):
        asked.append(texts[0])
        return [Verdict(0.0, error="time limit of 5 s exceeded")]

    AnswerGroups(math_equivalence(verify_many))([rf"\lim_{{x\to {k}}} x" for k in range(5)])
    assert len(asked) == 1


def test_hostile_answers_are_grouped_in_bounded_time():
    hostile = [
        "9" * 100_000, "(" * 50_000, "x^" * 30_000, "1," * 50_000, r"\frac{" * 20_000, "99999^{99999}", "1!" * 400,
        r"\binom{99999}{5000}", "(a+b)(c+d)" * 39, "((((x+1)^2+1)^2+1)^2+1)^2", "10^{10^{10}}", "\x00\ud800",
    ]  # fmt: skip
    answers = [*hostile, *[f"{answer}{k}" for k in range(3) for answer in hostile], "3", "6/2"]
    with VerifierPool(time_limit_s=2.0) as pool:
        started = time.monotonic()
        centres = groups_for(Problem("a", "", ""), pool.verify_many)(answers)
        assert time.monotonic() - started < bound(20)
    assert centres[-2:] == ["3", "3"]
    assert centres[: len(hostile)] == hostile
