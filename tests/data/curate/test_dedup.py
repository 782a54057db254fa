import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import drop_exact_duplicates, drop_near_duplicates

from h1r.config import GeneratedSource
from h1r.data.curate.io.generated import GeneratedProblems
from h1r.data.curate.rules.dedup import (
    NUM_PERM,
    bands,
    jaccard,
    number_signature,
    shingles,
    template,
)
from h1r.records import Problem

STORY = (
    "A farmer walks to the market with 12 eggs and 7 apples, sells half of the eggs to a baker on the way, and then "
    "meets a friend who gives him 3 more apples; how many things does he carry when he arrives at the market?"
)


def problems(questions: list[str], family: str = "f", verifier: str = "math", answer: str = "1") -> list[Problem]:
    return [Problem(f"{family}{n}", question, answer, verifier, family) for n, question in enumerate(questions)]


def near(questions: list[str], **kwargs: str) -> list[str]:
    """The questions kept."""
    return [item.question for item in drop_near_duplicates(problems(questions, **kwargs), 0.9, 0.05)[0]]


def test_exact_duplicates_ignore_case_space_and_punctuation() -> None:
    kept, dropped = drop_exact_duplicates(problems(["What is 2 + 3?", "what is  2 + 3", "What is 2 + 4?"]))
    assert [item.id for item in kept] == ["f0", "f2"]
    assert [(item.id, item.step, item.reason) for item in dropped] == [("f1", "exact duplicates", "same question")]
    assert "f0" in dropped[0].excerpt


def test_exact_duplicates_ignore_typesetting() -> None:
    pair = [r"Find $\left(\dfrac{1}{2}\right)^2$.", r"find \( (\frac{1}{2})^{2} \)"]
    assert len(drop_exact_duplicates(problems(pair))[0]) == 1


def test_layout_of_a_generated_problem_is_content() -> None:
    drawings = ["Count:\n##\n##", "Count:\n####", "Count:\n#\n###"]
    assert len(drop_exact_duplicates(problems(drawings, verifier="reasoning_gym"))[0]) == 3


def test_number_signature_carries_the_operator() -> None:
    assert number_signature("Calculate 5 - 3 + 6.") == ("+6", "-3", "5")
    assert number_signature("Calculate 5 + 3 - 6.") != number_signature("Calculate 5 - 3 + 6.")
    assert number_signature("at least six") != number_signature("at most six") != number_signature("at most nine")
    assert number_signature("Tom has ３, Ann 5") == ("3", "5")
    assert number_signature("Tom has 3, Ann 5") == number_signature("Ann 5, Tom has 3")


@pytest.mark.parametrize(
    ("one", "other"),
    [("at least", "at most"), ("six", "nine"), ("increase", "decrease"), ("rises", "falls"), ("above", "below")],
)
def test_a_word_that_counts_or_compares_makes_another_problem(one: str, other: str) -> None:
    asked = f"{STORY} Tell how much they {{}} when the farmer has carried all of it to the market and back."
    assert near([asked.format(one), asked.format(other)]) == [asked.format(one), asked.format(other)]


def test_chinese_words_that_count_or_compare_do_too() -> None:
    asked = "一个农夫带着鸡蛋和苹果走到市场，在路上把一半的鸡蛋卖给了面包师，请问他到达市场的时候手里{}有多少件东西？"
    assert near([asked.format("至少"), asked.format("至多")]) == [asked.format("至少"), asked.format("至多")]
    assert near([asked.format("大约"), asked.format("大约") + "请回答"]) == [asked.format("大约")]


def test_a_slightly_edited_copy_is_a_near_duplicate() -> None:
    assert near([STORY, STORY.replace("A farmer", "The farmer")]) == [STORY]


def test_the_same_words_around_other_numbers_are_another_problem() -> None:
    pair = [STORY, STORY.replace("12 eggs", "13 eggs")]
    assert near(pair) == pair


def test_the_same_words_with_another_answer_are_another_problem() -> None:
    pair = problems([STORY, STORY.replace("A farmer", "The farmer")])
    pair[1].answer = "2"
    assert drop_near_duplicates(pair, 0.9, 0.05)[1] == []


def test_a_family_of_one_template_with_word_slots_keeps_all() -> None:
    words = ["".join(letters) for letters in itertools.product("abc", repeat=4)]
    questions = [STORY.replace("baker", word) for word in words]
    assert near(questions) == questions


def test_a_copy_in_a_family_without_template_is_found_beside_many_others() -> None:
    others = [f"{' '.join(f'w{n}x{k}' for k in range(30))} ?" for n in range(60)]
    assert near([*others, STORY, STORY.replace("A farmer", "The farmer")]) == [*others, STORY]


def test_a_content_threshold_of_zero_asks_nothing_of_the_content() -> None:
    """Two questions that share a long template and most of a short content."""
    frame = " ".join(f"clause{i}" for i in range(150))
    own = [" ".join(f"{k}{letter}" for letter in "abcdefghijklmn") for k in "uvwxyz"]
    questions = [f"{frame} {words}" for words in own] + [f"{frame} {own[0].replace('ug', 'other')}"]
    found = {
        content: len(drop_near_duplicates(problems(questions), 0.9, 0.5, content_threshold=content)[1])
        for content in (None, 0.9, 0.0)
    }
    assert found == {None: 0, 0.9: 0, 0.0: 1}


@pytest.mark.parametrize("family", ["chain_sum", "spell_backward", "knights_knaves", "aiw", "shortest_path", "ab"])
def test_real_generated_problems_are_not_near_duplicates(family: str) -> None:
    stream = GeneratedProblems(GeneratedSource(family=family), 0).problems()
    kept, _ = drop_exact_duplicates(itertools.islice(stream, 300))
    assert drop_near_duplicates(kept, 0.9, 0.05)[1] == []


def test_a_near_duplicate_of_a_held_out_question_is_dropped_and_the_held_out_one_is_not() -> None:
    held_out = problems([STORY, STORY.replace("A farmer", "One farmer")], family="held")
    kept, dropped = drop_near_duplicates(problems([STORY.replace("A farmer", "The farmer")]), 0.9, 0.05, held_out)
    assert kept == []
    assert [(item.id, item.reason) for item in dropped] == [("f0", "nearly a held-out question")]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=9, max_size=24), min_size=2, max_size=12))
def test_what_is_dropped_is_a_duplicate_by_definition_and_twins_are_always_found(texts: list[list[str]]) -> None:
    given_ones = problems([" ".join(words) for words in texts])
    kept, dropped = drop_near_duplicates(given_ones, 0.7, 1.0)
    by_id = {item.id: item for item in given_ones}
    kept_sets = [shingles(item.question) for item in kept]
    for item in dropped:
        twin = by_id[item.excerpt.split(":")[0].removeprefix("as ")]
        assert twin in kept
        assert jaccard(shingles(by_id[item.id].question), shingles(twin.question)) >= 0.7
    assert len(set(kept_sets)) == len(kept_sets)
    assert len(kept) + len(dropped) == len(given_ones)


def test_the_result_is_the_same_every_time() -> None:
    questions = [STORY.replace("farmer", f"farmer{n % 40}") for n in range(80)]
    assert near(questions) == near(questions)


@given(st.floats(0.05, 1.0))
def test_pairs_at_the_threshold_are_proposed_with_99_percent(threshold: float) -> None:
    count, rows = bands(threshold)
    assert count * rows <= NUM_PERM
    assert rows == 1 or 1 - (1 - threshold**rows) ** count >= 0.99


@given(st.lists(st.sets(st.sampled_from("abcd")), max_size=30), st.floats(0, 1))
def test_template_is_what_its_definition_says(sets: list[set[str]], share: float) -> None:
    slow = {
        gram
        for gram in "abcd"
        if sum(gram in found for found in sets) > share * len(sets) and sum(gram in found for found in sets) >= 5
    }
    assert template(sets, share) == slow
