"""Two typesettings of one question are the same, two questions are not."""

import pytest

from h1r.data.curate.rules.normal_form import normal_form, tokens

SAME = [
    (r"Find \( \tfrac{x}{2} - 1 \) at x = 4", r"find $\frac x2-1$ at $x=4$."),
    (r"Find $\left(\dfrac{1}{2}\right)^2$.", r"find \( (\frac{1}{2})^{2} \)"),
    ("What is 2 + 3?", "what is  2 + 3"),
    ("Compute 5 − 3", "compute 5-3"),
    ("x²+1", "x^2 + 1"),
    ("１２ plus ３", "12 plus 3"),
    ("A farmer has “two” cows", 'a farmer has "two" cows'),
    (r"f'(2)", r"f^{\prime}(2)"),
    (r"\frac12", r"\frac{1}{2}"),
    ("It is $5$.", "it is 5"),
    ("10,000 men", "10000 men"),
    (r"$10{,}000$ men", "10,000 men"),
    ("'Tom' runs", "Tom runs"),
    ("½ of it", r"\frac12 of it"),
    (r"A \cup B", "A ∪ B"),
    ("WHAT IS THE SUM OF 3 TREES", "What is the sum of 3 trees"),
    ("x ≤ 3", r"x \leqslant 3"),
    ("x<=3", "x ≤ 3"),
    (r"\text{Area}=5", "Area = 5"),
    ("well-known fact", "well known fact"),
    ("caf\u00e9 owner", "cafe\u0301 owner"),
    ("a × b", r"a \cdot b"),
    (r"$\angle ABC = 90^\circ$", "∠ABC = 90°"),
    ("Don't stop", "Don’t stop"),
]
DIFFERENT = [
    ("5!", "5"),
    ("f'(2)", "f(2)"),
    ("f''(x)", "f'(x)"),
    ("A ∪ B", "A ∩ B"),
    (r"A\cup B", r"A \cap B"),
    ("at least 3", "at most 3"),
    ("(8-2)*3", "8-(2*3)"),
    ("Pa", "pA"),
    ("What is A+b", "What is a+B"),
    ("2 3", "23"),
    (r"\frac{12}{5}", r"\frac{1}{25}"),
    ("x<3", "x≤3"),
    ("x=3", "x≠3"),
    ("f(x,y)", "f(xy)"),
    ("2:3", "23"),
    ("tan 22.5", "tan 225"),
    ("x^{2n}", "x^2n"),
    ("|x|", "x"),
    (r"\sqrt{2}", "2"),
    ("a_1", "a1"),
    ("5%", "5"),
    ("x + 2018", "x - 2018"),
    ("six", "nine"),
    (r"\{1, 2\}", "(1, 2)"),
    ("a/b", "a*b"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_is_written_otherwise_is_the_same(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
@pytest.mark.parametrize("frame", ["{}", "What is {}?", "Find the value of {} for the numbers on the board."])
def test_what_means_something_else_is_not(one: str, other: str, frame: str) -> None:
    assert normal_form(frame.format(one)) != normal_form(frame.format(other))


def test_a_script_without_spaces_has_a_token_for_each_character() -> None:
    assert tokens("三只羊, 12 goats") == ["三", "只", "羊", "12", "goats"]
