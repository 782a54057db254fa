"""Two typesettings of one question are the same, two questions are not."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from question_pairs import different, same

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
    (r"$xy+yz$", r"$x y + y z$"),
    (r"triangle $ABC$", r"triangle \(A B C\)"),
    (r"$\sin x$", "sin x"),
    (r"\frac{22}{7}", "22/7"),
    (r"$$a$$Find $n$", r"\[a\] Find $n$"),
    (r"$a_1=1\text{ and }b=2$", r"$a_1 = 1$ and $b = 2$"),
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
    ("ab-cd", "abcd"),
    ("let A be odd", "let a be odd"),
    (r"\frac{1}{2x}", r"\frac{1}{2}x"),
    (r"\frac{a}{b}^2", "a/b^2"),
    ("$x' e$", "$x e$"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_is_written_otherwise_is_the_same(one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
@pytest.mark.parametrize("frame", ["{}", "What is {}?", "Find the value of {} for the numbers on the board."])
def test_what_means_something_else_is_not(one: str, other: str, frame: str) -> None:
    assert normal_form(frame.format(one)) != normal_form(frame.format(other))


@pytest.mark.parametrize(("rewriting", "one", "other"), same())
def test_a_rewriting_that_changes_nothing_is_the_same(rewriting: str, one: str, other: str) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(("rewriting", "one", "other"), different())
def test_a_rewriting_that_asks_something_else_is_not(rewriting: str, one: str, other: str) -> None:
    assert normal_form(one) != normal_form(other)


def test_there_are_two_hundred_pairs_of_each() -> None:
    assert len({pair[1:] for pair in same()}) >= 200
    assert len({pair[1:] for pair in different()}) >= 200


DATA = Path(os.environ.get("H1R_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


@pytest.mark.skipif(not DATA.exists(), reason="no real data; set H1R_DATA")
def test_no_two_real_problems_with_other_answers_are_the_same() -> None:
    """Of 1,319 and 975 problems, all different but one that AIME asked twice."""
    from test_decontaminate import aime_history, lines

    for rows in (
        [(row["question"], row["answer"].split("####")[-1].strip()) for row in lines("gsm8k/test.jsonl")],
        [(row["problem"], str(row["answer"])) for row in aime_history()],
    ):
        forms: dict[str, str] = {}
        for question, answer in rows:
            assert forms.setdefault(normal_form(question), answer) == answer


@pytest.mark.skipif(not DATA.exists(), reason="no real data; set H1R_DATA")
def test_real_problems_that_two_data_sets_have_typeset_otherwise_are_the_same() -> None:
    """MATH and HMMT problems in DeepScaleR: at least 120, of which two thirds are other texts."""
    from test_decontaminate import lines

    asked = "Let's think step by step and output the final answer within \\boxed{}."
    held = {
        normal_form(row["problem"]): row["problem"]
        for path in ("math_test_full/test.jsonl.gz", "comp_math_24_25/test.jsonl")
        for row in lines(path)
    }
    questions = (prompt.replace(asked, "") for prompt in prompts(DATA / "deepscaler_difficulty"))
    pairs = [(question, held[form]) for question in questions if (form := normal_form(question)) in held]
    assert len(pairs) >= 110
    assert sum(" ".join(one.split()) != " ".join(other.split()) for one, other in pairs) >= 40


def prompts(folder: Path) -> Iterator[Any]:
    for path in sorted(folder.glob("*.parquet")):
        for row in pyarrow.parquet.read_table(path)["prompt"].to_pylist():
            yield row[0]["content"]


def test_a_short_name_is_one_token_in_capitals_too() -> None:
    question = "On Friday Bo walks to the school; how many km does Bo walk in the evening?"
    assert [token.lower() for token in tokens(question)] == tokens(question.upper())


def test_a_script_without_spaces_has_a_token_for_each_character() -> None:
    assert tokens("三只羊, 12 goats") == ["三", "只", "羊", "12", "goats"]
