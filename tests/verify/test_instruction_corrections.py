"""Corrected instruction checkers: each passes and fails where people would, and the library's own stay reachable."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.records import Problem
from h1r.verify.instructions import grade as instruction
from h1r.verify.instructions.corrections import CORRECTIONS, NEEDED, words

pytest.importorskip("langdetect")

FIVE = {f"keyword{number}": word for number, word in enumerate(["art", "sea", "sun", "fog", "ice"], 1)}
COUNTED = "art, sea sea; " + "sun " * 3 + "fog " * 5 + "ice " * 7
NAMES = "Mia met Leo, and Nora met Ava"
STORY = " ".join(f"{letter}bc is told." for letter in string.ascii_uppercase)

CASES: list[tuple[str, dict[str, Any], str, bool, bool]] = [
    # instruction, arguments, answer, what is right, what the library says
    ("ratio:sentence_words", {}, "Cats purr. Dogs bark. Cows moos.", True, True),
    ("ratio:sentence_words", {}, "Cat sat. Hen ran. Cat ran.", False, True),
    ("ratio:sentence_words", {}, "A cat. A dog. A hen.", False, True),
    ("ratio:sentence_words", {}, "Cat. Cat. cat.", False, True),
    ("ratio:sentence_words", {}, "One. Two. Three.", False, False),
    ("words:words_position", {"keyword": "lamp"}, "A lamp is a good lamp indeed.", True, False),
    ("words:words_position", {"keyword": "lamp"}, "A lamp is a good lamp indeed", True, True),
    ("words:words_position", {"keyword": "lamp"}, 'Well, lamp light is what a "lamp" gives!', True, False),
    ("words:words_position", {"keyword": "lamp"}, "My Lamp, and no other Lamp... shines.", True, False),
    ("words:words_position", {"keyword": "lamp"}, "Oil, the lamp is a good lamp indeed.", False, False),
    ("words:words_position", {"keyword": "lamp"}, "A lamp is a good, lamp", False, False),
    ("words:words_position", {"keyword": "lamp"}, "Hm.", False, False),
    ("words:words_position", {"keyword": "."}, "Hm . .", False, True),
    ("words:keywords_specific_position", {"keyword": "goal", "n": 1, "m": 3}, "Well, the goal is near.", True, False),
    ("words:keywords_specific_position", {"keyword": "goal", "n": 2, "m": 4}, "So. (If so) a goal, yes.", True, False),
    ("words:keywords_specific_position", {"keyword": "goal", "n": 1, "m": 1}, "Goal is what it is.", True, False),
    ("words:keywords_specific_position", {"keyword": "goal", "n": 1, "m": 4}, "Well, the goal is near.", False, True),
    ("words:keywords_specific_position", {"keyword": "goal", "n": 1, "m": 9}, "The goal.", False, False),
    ("words:keywords_specific_position", {"keyword": "goal", "n": 3, "m": 2}, "The goal.", False, False),
    ("count:keywords_multiple", FIVE, COUNTED, True, True),
    ("count:keywords_multiple", FIVE, COUNTED + "start season", True, False),
    ("count:keywords_multiple", FIVE, COUNTED.replace("art", "start"), False, True),
    ("count:person_names", {"N": 4}, NAMES, True, True),
    ("count:person_names", {"N": 4}, "Miami, Leopold, Norah and Available", False, True),
    ("format:line_indent", {}, "a\n\n\n b\n  c", True, False),
    ("format:line_indent", {}, "a\n b\n  c", True, True),
    ("format:line_indent", {}, "a\n\n\n b\n c", False, False),
    ("ratio:sentence_type", {}, "It is. It was. Is it?", True, True),
    ("ratio:sentence_type", {}, "What a day! How fine!", False, True),
    ("ratio:sentence_type", {}, "It is (so it seems.) It was. Is it?", True, True),
    ("ratio:sentence_balance", {}, "It is. Is it? It is!", True, True),
    ("ratio:sentence_balance", {}, "no sentence at all", False, True),
    ("custom:sentence_alphabet", {}, STORY, True, True),
    ("custom:sentence_alphabet", {}, STORY.replace("Cbc", '"Cbc"'), True, False),
    ("custom:sentence_alphabet", {}, STORY.replace("Cbc", "Xbc"), False, False),
    ("format:sub-bullets", {}, "* one\n  - its part\n* two\n  - its part", True, True),
    ("format:sub-bullets", {}, "No bullets at all.", False, True),
    ("format:sub-bullets", {}, "* one, well-known\n* two, well-known", False, True),
    ("format:sub-bullets", {}, "* one\n* two\n  - its part", False, False),
    ("count:conjunctions", {"small_n": 3}, "And so it was, but not yet.", True, True),
    ("count:conjunctions", {"small_n": 3}, "And on and, on AND on", False, True),
    ("count:unique_word_count", {"N": 3}, "one - two", False, True),
    ("count:unique_word_count", {"N": 3}, "one, two - three", True, True),
    ("words:consonants", {}, "This employs strict - clusters.", True, False),
    ("words:consonants", {}, "This does not.", False, False),
    ("words:last_first", {}, "We need light. Light, then, is all.", True, False),
    ("words:last_first", {}, "We need light. Then light is all.", False, False),
    ("words:paragraph_last_first", {}, "Time, they say, is time.\nTruth is (the) truth!", True, False),
    ("words:paragraph_last_first", {}, "Time is money.", False, False),
    ("repeat:repeat_change", {"prompt_to_repeat": "Name a river"}, "Describe a river", True, True),
    ("repeat:repeat_change", {"prompt_to_repeat": "Name a river"}, "Name a river ", False, True),
    ("repeat:repeat_change", {"prompt_to_repeat": "Name a river"}, "Name a lake", False, False),
    (
        "repeat:repeat_span",
        {"prompt_to_repeat": "one two three four", "n_start": 1, "n_end": 3},
        "two three",
        True,
        True,
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    instruction.warm()


def strictly(name: str, given: dict[str, Any], answer: str, **metadata: Any) -> bool:
    asked = {"instruction_id_list": [name], "kwargs": [given], **metadata}
    return instruction.follow(asked, "Say something.", answer)[0].strict


@pytest.mark.parametrize(("name", "given", "answer", "right", "library"), CASES)
def test_corrected_checkers_judge_as_people_would(
    name: str, given: dict[str, Any], answer: str, right: bool, library: bool
) -> None:
    assert strictly(name, given, answer) is right
    assert strictly(name, given, answer, checkers="library") is library


def test_every_correction_has_an_answer_that_it_passes_and_one_that_it_fails() -> None:
    for name in {*CORRECTIONS, *NEEDED}:
        assert {right for case, _, _, right, _ in CASES if case == name} == {True, False}, name


def test_every_correction_changes_a_verdict() -> None:
    for name in {*CORRECTIONS, *NEEDED}:
        assert any(right != library for case, _, _, right, library in CASES if case == name), name


def test_a_span_from_the_first_word_starts_there() -> None:
    given = {"prompt_to_repeat": "one two three four five six seven eight", "n_start": 0, "n_end": 2}
    assert all(strictly("repeat:repeat_span", given, "one two") for _ in range(20))


def test_an_argument_that_the_library_would_draw_anew_makes_the_problem_unusable() -> None:
    with pytest.raises(instruction.InstructionError, match="cannot take N = -1"):
        strictly("count:numbers", {"N": -1}, "1 2 3")


def test_an_unknown_set_of_checkers_is_refused() -> None:
    with pytest.raises(instruction.InstructionError, match="`checkers` in metadata is 'mine'"):
        strictly("count:numbers", {"N": 1}, "1", checkers="mine")


def test_reasons_tell_an_unusable_problem_from_an_unmet_instruction() -> None:
    def reason(answer: str, name: str = "count:numbers") -> str | None:
        metadata = {"instruction_id_list": [name], "kwargs": [{"N": 2}]}
        owner = Problem(id="", question="", answer="", verifier="instructions", metadata=metadata)
        return instruction.grade(owner, answer).reason

    assert (reason("1 and 2"), reason("1"), reason(" "), reason("1", "no:such")) == (
        None,
        "wrong",
        "not_extracted",
        "unscored",
    )


@given(st.text(alphabet="ab .,-—\"'!", max_size=40))
def test_words_are_what_stands_between_blanks_and_dashes_without_its_punctuation(text: str) -> None:
    slow = [token.strip("., \"'!-") for token in text.replace("—", " ").replace("--", " ").split()]
    assert words(text) == [token for token in slow if token]
