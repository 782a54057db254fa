"""Everyday wordings of generated problems, and the questions in other words that the demo is asked."""

from __future__ import annotations

import itertools
import json
import random
import re
from importlib.resources import files
from typing import Any

import pytest

from h1r.common.prose import listing
from h1r.config import GeneratedSource
from h1r.data.curate.io.generated import GeneratedProblems
from h1r.data.solvers import traces
from h1r.data.solvers.stories import LEGS
from h1r.data.wordings import AFTER, BEFORE, LIBRARY, WORDINGS, is_wording, reworded
from h1r.errors import UserError
from h1r.records import Problem
from h1r.verify.reasoning_gym.grade import score

EVERYDAY = [json.loads(line) for line in (files("h1r") / "recipes" / "everyday.jsonl").read_text().splitlines()]


CLOCKS = {"time_intervals": {"task_types": ["time"]}}
"""Knobs with which a family has everyday wordings."""


def generated(family: str, count: int, wordings: Any = "everyday", seed: int = 0) -> list[Problem]:
    source = GeneratedSource(family=family, wordings=wordings, knobs=CLOCKS.get(family, {}))
    return list(itertools.islice(GeneratedProblems(source, seed).problems(), count))


@pytest.mark.parametrize("family", WORDINGS)
def test_a_reworded_problem_asks_for_the_same(family: str) -> None:
    library, everyday = generated(family, 60, "library"), generated(family, 60)
    assert [one.answer for one in everyday] == [one.answer for one in library]
    assert [one.metadata for one in everyday] == [one.metadata for one in library]
    assert len({one.id for one in everyday}) == len({one.id for one in library})
    assert sum(asked.question != original.question for asked, original in zip(everyday, library, strict=True)) > 30
    for asked, original in zip(everyday, library, strict=True):
        assert asked.question == original.question or not re.search("[{}<>|]", asked.question)
        _asks_for_the_same(asked.question, original.question)
        worked = traces(asked, 1, random.Random(0))
        assert worked == traces(original, 1, random.Random(0))
        if worked:  # a few problems of some families are left unsolved
            (answer,) = re.findall(r"\\boxed\{(.*)\}", worked[0].content)
            assert score(family, answer, asked.metadata["entry"]) == 1.0
        assert score(family, asked.answer, asked.metadata["entry"]) == 1.0


def _asks_for_the_same(asked: str, original: str) -> None:
    """Its numbers, and its words with a capital letter (names), are those of the library's question."""
    if asked == original:
        return
    own = re.split(r"\(Example|\nPlease follow|\nReturn the|Return only", original)[0]
    numbers, expected = (
        sorted(number.removesuffix(".0") for number in re.findall(r"\d+(?:[.:]\d+)?", text)) for text in (asked, own)
    )
    sides = [re.search(r"convex (?:polygon \w+ )?(\d)", own), re.search(r"first (\d) interior", own)]
    for side in sides:  # a polygon has a name instead
        if side:
            expected.remove(side[1])
    if "binary" in original:
        numbers, expected = ([number for number in found if number != "1"] for found in (numbers, expected))
    assert numbers == expected, (asked, original)


@pytest.mark.parametrize("family", WORDINGS)
def test_every_wording_of_a_family_is_drawn_and_one_problem_has_one(family: str) -> None:
    problems = generated(family, 400)
    used = {
        pattern
        for one in problems
        for pattern in _patterns(family)
        if re.search(pattern.removesuffix(r"\?").removesuffix(r"\."), one.question, re.IGNORECASE)
    }
    assert used == set(_patterns(family))
    assert {text for text in (*BEFORE, *AFTER) if any(text in one.question for one in problems)} == {*BEFORE, *AFTER}
    assert [reworded(family, one.metadata["entry"]) for one in problems] == [one.question for one in problems]


def test_a_question_with_dates_keeps_the_library_s_wording() -> None:
    source = GeneratedSource(family="time_intervals", wordings="everyday", knobs={"task_types": ["date", "datetime"]})
    for one in itertools.islice(GeneratedProblems(source, 0).problems(), 20):
        assert one.question == one.metadata["entry"]["question"]


def test_only_the_wording_of_its_own_entry_is_read_as_the_library_s_question() -> None:
    asked = [one for one in generated("chain_sum", 20) if one.question != one.metadata["entry"]["question"]]
    one, other = asked[:2]
    assert is_wording(one.question, "chain_sum", one.metadata["entry"])
    assert not is_wording(one.question, "chain_sum", other.metadata["entry"])
    for entry in (None, {}, {"question": "1 + 1"}, {"question": "1 + 2", "metadata": {}}, "text"):
        assert not is_wording(one.question, "chain_sum", entry)


def test_a_family_without_wordings_is_refused() -> None:
    with pytest.raises(UserError, match="family `sudoku` has no everyday wordings, only aiw, chain_sum, "):
        generated("sudoku", 1)


def test_things_are_listed_as_people_do() -> None:
    assert [listing(["a", "b", "c"][:n]) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]


def test_the_everyday_questions_are_asked_in_no_wording_of_training() -> None:
    assert {row["family"] for row in EVERYDAY} == {"chain_sum", "simple_equations", "spell_backward", "leg_counting"}
    assert len({row["question"] for row in EVERYDAY}) == len(EVERYDAY) == 40
    for row in EVERYDAY:
        typed = row["question"].rstrip("?.")  # as a careless one of training is
        patterns = [pattern.removesuffix(r"\?").removesuffix(r"\.") for pattern in _patterns(row["family"])]
        assert not any(re.fullmatch(pattern, typed, re.IGNORECASE) for pattern in patterns), row


@pytest.mark.parametrize("row", EVERYDAY, ids=[row["id"] for row in EVERYDAY])
def test_the_reference_of_an_everyday_question_is_right(row: dict[str, str]) -> None:
    question, answer = row["question"], row["answer"]
    if row["family"] == "chain_sum":
        spoken = question.replace(" minus ", " - ").replace(" plus ", " + ")
        (expression,) = set(re.findall(r"\d+(?: [+-] \d+)+", spoken))
        assert eval(expression) == int(answer)
    elif row["family"] == "simple_equations":
        (left, name, right) = re.findall(r"((?:\d+ [+-] )?\d+\*?([a-z])\b(?: [+-] \d+)?) = (\d+)", question)[0]
        assert eval(re.sub(rf"\*?{name}", f"*{answer}", left)) == int(right)
    elif row["family"] == "spell_backward":
        assert answer[::-1] in re.findall(r"[a-z]+", question)
    else:
        herd = re.findall(r"(\d+) ([a-z]+)", question)
        legs = [int(count) * (LEGS[name] if name in LEGS else LEGS[name.removesuffix("s")]) for count, name in herd]
        assert sum(legs) == int(answer)


_FORMULA = r"(?:[-+*=\d ]|(?<![a-z])[a-z](?![a-z]))+"


def _patterns(family: str) -> set[str]:
    """A regular expression for each wording of a family but the library's own."""
    return {_pattern(one) for one in WORDINGS[family] if one != LIBRARY}


def _pattern(wording: str) -> str:
    """`<this|that>` is either, and {sum} stands for anything on one line."""
    pieces = re.split(r"<([^<>]*)>", wording)
    choices = ["|".join(map(re.escape, piece.split("|"))) for piece in pieces[1::2]]
    plain = [re.escape(piece) for piece in pieces[::2]]
    joined = "".join(f"{text}(?:{choice})" for text, choice in zip(plain, [*choices, ""], strict=True))
    formulas = re.sub(r"\\\{(?:sum|product|equation|short)\\\}", lambda _: _FORMULA, joined)
    return re.sub(r"\\\{\w+\\\}", r"[^\\n?;]+", formulas)


@pytest.mark.parametrize(
    ("family", "ways"),
    [
        ("chain_sum", [r"\d \+ \d", r"\d\+\d"]),
        ("products", [r"\d \* \d", r"\d\*\d", r"\dx\d", r"\d x \d", r"\d × \d", r"\d multiplied by \d"]),
        ("simple_equations", [r"\d\*\w", r"\d \* \w", r"\d[a-z]", r" = \d", r"[\da-z]=\d"]),
        ("simple_geometry", [r"\d°", r"\d degrees", r"\.0°"]),
        ("number_sorting", [r"\d, -?\d", r"\d,-?\d"]),
    ],
)
def test_a_formula_is_written_in_every_way_that_people_write_it(family: str, ways: list[str]) -> None:
    asked = [one.question for one in generated(family, 300) if one.question != one.metadata["entry"]["question"]]
    assert [way for way in ways if not any(re.search(way, question) for question in asked)] == []


def test_some_are_typed_without_a_capital_letter_or_a_full_stop_and_mean_the_same() -> None:
    asked = [one.question for one in generated("family_relationships", 400)]
    careless = [question for question in asked if question[-1] not in "?.!\n"]
    assert len(careless) > 20
    assert all(question[0].isupper() for question in careless)  # of a name
    sums = [one.question for one in generated("chain_sum", 400)]
    assert sum(question[0].islower() and question[-1] not in "?." for question in sums) > 20
