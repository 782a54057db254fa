"""Multiple choice: which letter an answer names, and that nothing else counts as one."""

from __future__ import annotations

import gzip
import json
import os
import string
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.records import Problem
from h1r.verify import verify
from h1r.verify.choice.grade import extract_letter, grade, read
from h1r.verify.choice.options import Options
from machine import slowness

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


TABLES = Path(__file__).parent / "choice"


def problem(answer: str = "C", **metadata: object) -> Problem:
    return Problem(id="", question="", answer=answer, verifier="choice", metadata=metadata)


@pytest.mark.parametrize(
    ("answer", "letter", "stage"),
    [
        ("**Answer:** C", "C", "colon"),
        ("Answer: B\nno, I must correct it.\n*Answer*: C", "C", "colon"),
        ("ANSWER : (C)", "C", "colon"),
        ("answer: c", "C", "colon"),
        (r"so \boxed{C}", "C", "boxed"),
        (r"\boxed{\text{(C)}}", "C", "boxed"),
        (r"\boxed{C. 42 \text{ J}}", "C", "boxed"),
        (r"\boxed{A} or rather \boxed{C}", "C", "boxed"),
        ("The answer is (C).", "C", "is"),
        ("The answer is **C**, since D is absurd.", "C", "is"),
        ("The answer is (a). No: the answer is (c).", "C", "is"),
        ("(A) is too small, so it is C) for certain.", "C", "choose"),
        ("C is the correct answer, not D, as E was.", "C", "correct"),
        ("Therefore I choose C", "C", "choose"),
        ("I take option C. That is all, is it not? Yes, it is", "C", "choose"),
        ("<answer>C</answer>", "C", "tag"),
        ("C is true, and only C.", "C", "right"),
        ("C) the third one", "C", "line"),
        ("Some speak for (A).\nAll points, as ever, to C) in the end", "C", "bracket"),
        ("It has to do with gases: C", "C", "last"),
        ("All of this points to C. That is all, is it not? Yes, it is", "C", "stop"),
    ],
)
def test_each_stage_finds_its_letter(answer: str, letter: str, stage: str) -> None:
    assert extract_letter(answer) == (letter, stage)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "The answer is not among the choices",
        "The answer is None of the above",
        "Answer: I don't know",
        "Answer: I would say it depends",
        "the correct answer is:\n\na) the first one\nb) the second one",
        "Answer: Carbon",
        "Answer: K",
        r"\boxed{\text{Neither}}",
        r"\boxed{3CO}",
        "the result is 5 mmC. and so on",
    ],
)
def test_what_names_no_option_has_no_letter(answer: str) -> None:
    assert extract_letter(answer) == (None, "")


def test_a_stage_outranks_a_later_mention_of_a_lower_one() -> None:
    assert extract_letter("Answer: C\nFor the others: (A) is wrong, and so is B.")[0] == "C"


def test_the_first_match_decides_where_the_problem_says_so() -> None:
    text = "The answer is (C).\n\nQuestion: the next one\n\nThe answer is (D)."
    assert grade(problem("D"), text).reward == 1.0
    assert grade(problem("C", match="first"), text).reward == 1.0
    assert grade(problem("D", match="first"), text).reward == 0.0


def test_options_bound_the_letters() -> None:
    assert grade(problem("D", options=4), "Answer: D").reward == 1.0
    assert extract_letter("Answer: E\nI choose D", string.ascii_uppercase[:4]) == ("D", "choose")
    assert grade(problem("L", options=12), "Answer: L").reward == 1.0


def test_the_reference_may_be_the_text_of_an_option() -> None:
    listed = ["one", "two", "three"]
    assert grade(problem("three", options=listed), "Answer: C").reward == 1.0
    assert grade(problem("three", options=listed), r"\boxed{\text{three}}").reward == 1.0
    assert grade(problem("three", options=listed), r"\boxed{two}").reward == 0.0
    assert "none of the options" in str(grade(problem("four", options=listed), "Answer: C").error)
    assert "none of the options" in str(grade(problem("K"), "Answer: K").error)


@pytest.mark.parametrize("kind", sorted(path.stem for path in TABLES.glob("*.jsonl")))
def test_table(kind: str) -> None:
    """Each line of a table: an answer, a reference, the options, and the reward."""
    lines = [json.loads(line) for line in (TABLES / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]
    wrong = [
        line
        for line in lines
        if grade(problem(line["reference"], options=line["options"]), line["answer"]).reward != line["reward"]
    ]
    assert lines
    assert wrong == []


def test_reasons_tell_why_an_answer_earns_nothing() -> None:
    def reason(answer: str, reference: str = "C") -> str | None:
        return grade(problem(reference, options=4), answer).reason

    assert reason("Answer: C") is None
    assert reason("Answer: B") == "wrong"
    assert reason("Answer: C or B") == "wrong"
    assert reason("The answer is not C.") == "not_extracted"
    assert reason("I do not know.") == "not_extracted"
    assert reason("Answer: C", reference="F") == "unscored"


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        ("A, C", "CA", True),
        ("A, C", "A,C", True),
        ("A and C", r"\text{A, C}", True),
        ("(A), (C)", r"\text{AC}", True),
        ("ACD", "A, C, D", True),
        ("A, C", "A", False),
        ("A, C", "A, C, D", False),
        ("A, C", "A or C", False),
        ("ACA", "A, C", False),
        ("CA", "A, C", False),
        ("x, y", "yx", False),
        ("A, C", "AB", False),
    ],
)
def test_mathematics_reads_several_letters_as_a_set(reference: str, answer: str, equal: bool) -> None:
    owner = Problem(id="", question="", answer=reference, verifier="math")
    assert verify(owner, rf"\boxed{{{answer}}}").reward == float(equal)


def test_only_what_follows_the_thinking_counts() -> None:
    assert verify(problem("C"), "<think>Answer: C</think>Answer: D").reward == 0.0
    assert verify(problem("C"), "<think>Answer: D</think>Answer: C").reward == 1.0
    assert verify(problem("C"), "<think>Answer: C").reward == 0.0


@given(
    st.permutations("ABCD"),
    st.sampled_from([", ", " and ", "; ", " & ", ""]),
    st.sampled_from(["Answer: %s", r"\boxed{%s}"]),
)
def test_several_letters_are_a_set(letters: list[str], joined: str, form: str) -> None:
    answer = form % joined.join(letters[:3])
    assert grade(problem(", ".join(sorted(letters[:3])), options=4), answer).reward == 1.0
    assert grade(problem(", ".join(sorted(letters[:2])), options=4), answer).reward == 0.0
    assert grade(problem(letters[0], options=4), answer).reward == 0.0


@given(st.text(alphabet="ABKabi .:()*\\n\\\\{}$answerisboxedcorthe", max_size=80), st.integers(2, 10))
def test_any_text_names_an_option_or_none(text: str, count: int) -> None:
    letter, stage = extract_letter(text, string.ascii_uppercase[:count])
    assert (letter is None) == (stage == "")
    assert letter is None or (letter in string.ascii_uppercase[:count] and letter.lower() in text.lower())


@given(
    st.lists(
        st.sampled_from(
            ["A", "B", "C", " or ", " not ", ". ", "Answer: ", "(", ")", " is wrong", "\n", "\\boxed{", "}"]
        )
    )
)
def test_an_option_is_stated_only_where_its_letter_stands(pieces: list[str]) -> None:
    text = "".join(pieces)
    found = read(text, Options("ABC"))
    assert set(found.letters) <= set(text)
    assert bool(found.letters) == bool(found.stage)


@pytest.mark.parametrize(
    "unit", ["A)", "answer:", "answer is ", r"\boxed{", "A ", " ", "A) \n", "A" + " " * 1000 + ")", "B is the correct "]
)
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    text = (unit * (400_000 // len(unit) + 1))[:400_000] + "z"
    started = time.process_time()
    extract_letter(text)
    assert time.process_time() - started < 2.0 * slowness()


@pytest.mark.skipif(not (DATA / "mmlu_pro_sample").is_dir(), reason="real responses are not here")
def test_agrees_with_recorded_grades_of_real_responses() -> None:
    lines = gzip.decompress((DATA / "mmlu_pro_sample/model_outputs_stem.jsonl.gz").read_bytes()).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    agree = sum(
        (grade(problem(row["gold"], match="first"), row["output"]).reward == 1.0) == (row["pred"] == row["gold"])
        for row in rows
    )
    assert agree / len(rows) >= 0.99
