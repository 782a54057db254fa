import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.config import FileSource, GeneratedSource, ProblemsSection
from h1r.data.curate.io.split import apportion, check_disjoint, split_problems
from h1r.errors import UserError
from h1r.records import Problem, normalise_text

SUMS = GeneratedSource(family="chain_sum", knobs={"max_terms": 2, "max_digits": 1})
LEGS = GeneratedSource(family="leg_counting", knobs={"min_animals": 2, "max_animals": 2}, share=3)


def section(sources, held_out=20, train=60, rl=20, seed=0):
    return ProblemsSection(sources=sources, held_out=held_out, train=train, rl=rl, seed=seed)


def contents(problems):
    return {normalise_text(problem.question) for problem in problems}


def write(path, questions):
    path.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in questions))
    return FileSource(kind="jsonl", path=str(path))


def test_sets_have_the_sizes_asked_for_and_the_shares_of_their_sources():
    splits = split_problems(section([SUMS, LEGS]), [])
    for drawn, size in ((splits.held_out, 20), (splits.train, 60), (splits.rl, 20)):
        assert len(drawn) == size
        assert sum(problem.family == "leg_counting" for problem in drawn) == size * 3 // 4


def test_no_content_is_drawn_twice_even_from_a_small_space():
    splits = split_problems(section([SUMS], held_out=30, train=90, rl=30), [])
    together = [*splits.held_out, *splits.train, *splits.rl]
    assert len(contents(together)) == len({problem.id for problem in together}) == 150


def test_the_same_question_in_two_sources_is_drawn_once(tmp_path):
    one = write(tmp_path / "a.jsonl", [f"What is {n}?" for n in range(20)])
    two = write(tmp_path / "b.jsonl", [f"what  is {n}" for n in range(10)] + [f"How is {n}?" for n in range(20)])
    splits = split_problems(section([one, two], held_out=10, train=14, rl=6), [])
    together = [*splits.held_out, *splits.train, *splits.rl]
    assert len(contents(together)) == len(together) == 30


def test_same_seed_same_sets_other_seed_others():
    first, again = (split_problems(section([SUMS, LEGS]), []) for _ in range(2))
    other = split_problems(section([SUMS, LEGS], seed=1), [])
    assert first == again
    assert contents(first.held_out) != contents(other.held_out)


def test_held_out_set_does_not_change_when_training_sets_grow():
    small = split_problems(section([SUMS, LEGS]), [])
    large = split_problems(section([SUMS, LEGS], train=120, rl=40), [])
    assert small.held_out == large.held_out


def test_an_exhausted_family_is_named_with_what_it_gave():
    tiny = GeneratedSource(family="count_bits", knobs={"max_n": 30})
    with pytest.raises(UserError, match=r"`count_bits` gave 30 different questions and 50 are needed; widen its knobs"):
        split_problems(section([tiny], held_out=20, train=30, rl=10), [])


def test_a_short_file_is_named_with_what_it_gave(tmp_path):
    source = write(tmp_path / "short.jsonl", [f"What is {n}?" for n in range(25)])
    with pytest.raises(UserError, match=r"short\.jsonl` gave 25 different questions and 80 are needed; lower"):
        split_problems(section([source]), [])


def test_no_source_is_a_user_error():
    with pytest.raises(UserError, match="empty; add at least one"):
        split_problems(section([]), [])


def test_one_id_on_two_questions_is_a_user_error(tmp_path):
    path = tmp_path / "ids.jsonl"
    path.write_text("".join(json.dumps({"question": f"q {n}", "answer": "1", "id": "same"}) + "\n" for n in range(9)))
    source = FileSource(kind="jsonl", path=str(path), columns={"id": "id"})
    with pytest.raises(UserError, match="have the id `same`"):
        split_problems(section([source], held_out=2, train=2, rl=2), [])


def test_the_bar_advances_once_a_problem():
    class Counter:
        done = 0

        def advance(self):
            self.done += 1

    bar = Counter()
    split_problems(section([SUMS]), [], bar)  # type: ignore[arg-type]
    assert bar.done == 100


def test_check_disjoint_raises_on_the_same_content_in_other_spelling():
    a = Problem(id="a", question="What is 2 + 2?", answer="4")
    b = Problem(id="b", question="  what is 2 +  2", answer="4")
    with pytest.raises(ValueError, match="a and b are the same question"):
        check_disjoint([a], [b])
    check_disjoint([a], [Problem(id="c", question="What is 2 - 2?", answer="0")])


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_apportion_sums_to_the_total_and_is_off_by_less_than_one(total, shares):
    counts = apportion(total, shares)
    assert sum(counts) == total
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - total * share / sum(shares)) < 1 + 1e-6
