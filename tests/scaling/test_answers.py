import pytest

from h1r.records import Problem, Verdict
from h1r.scaling.answers import certainly_equivalent, extract_answer, groups_for, math_equivalence, text_equivalent


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
    of_math = groups_for(Problem("a", "", "", verifier="math"), never)
    of_text = groups_for(Problem("b", "", "", verifier="reasoning_gym"), never)
    # A bare list has no order in mathematics; in a sorting puzzle its order is the answer.
    assert of_math("1, 2") == of_math("2, 1")
    assert of_text("1, 2") != of_text("2, 1")
