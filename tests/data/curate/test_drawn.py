import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.config import CorpusSection, CorpusSource, GeneratedSource, ProblemsSection
from h1r.data.curate.io import drawn as drawing
from h1r.data.curate.io.drawn import apportion, draw_problems
from h1r.errors import UserError
from h1r.records import normalise_text

SUMS = GeneratedSource(family="chain_sum", knobs={"max_terms": 2, "max_digits": 1})
LEGS = GeneratedSource(family="leg_counting", knobs={"min_animals": 2, "max_animals": 2}, share=3)


def draw(sources, held_out=20, train=60, rl=20, seed=0, bad=None, bar=None):
    section = ProblemsSection(held_out=held_out, train=train, rl=rl, seed=seed)
    return draw_problems(section, CorpusSection(sources=sources), [] if bad is None else bad, bar)


def contents(items):
    return {normalise_text(item.problem.question) for item in items}


def write(path, questions):
    path.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in questions))
    return CorpusSource(name=path.stem, kind="jsonl", path=str(path), share=1)


def test_sets_have_the_sizes_asked_for_and_the_shares_of_their_sources():
    splits = draw([SUMS, LEGS])
    for drawn, size in ((splits.held_out, 20), (splits.train, 60), (splits.rl, 20)):
        assert len(drawn) == size
        assert sum(item.problem.family == "leg_counting" for item in drawn) == size * 3 // 4


def test_no_content_is_drawn_twice_even_from_a_small_space():
    splits = draw([SUMS], held_out=30, train=90, rl=30)
    together = [*splits.held_out, *splits.train, *splits.rl]
    assert len(contents(together)) == len({item.problem.id for item in together}) == 150


def test_the_same_question_in_two_sources_is_drawn_once(tmp_path):
    one = write(tmp_path / "a.jsonl", [f"What is {n}?" for n in range(20)])
    two = write(tmp_path / "b.jsonl", [f"what  is {n}" for n in range(10)] + [f"How is {n}?" for n in range(20)])
    splits = draw([one, two], held_out=10, train=14, rl=6)
    together = [*splits.held_out, *splits.train, *splits.rl]
    assert len(contents(together)) == len(together) == 30


def test_same_seed_same_sets_other_seed_others():
    first, again = (draw([SUMS, LEGS]) for _ in range(2))
    other = draw([SUMS, LEGS], seed=1)
    assert first == again
    assert contents(first.held_out) != contents(other.held_out)


def test_held_out_set_does_not_change_when_training_sets_grow():
    small = draw([SUMS, LEGS])
    large = draw([SUMS, LEGS], train=120, rl=40)
    assert small.held_out == large.held_out


def test_an_exhausted_family_is_named():
    tiny = GeneratedSource(family="count_bits", knobs={"max_n": 30})
    with pytest.raises(UserError, match=r"`reasoning_gym/count_bits` gave 30 different questions and 50 are"):
        draw([tiny], held_out=20, train=30, rl=10)


def test_a_short_file_is_named(tmp_path):
    source = write(tmp_path / "short.jsonl", [f"What is {n}?" for n in range(25)])
    with pytest.raises(UserError, match=r"short` gave 25 different questions and 80 are needed; lower"):
        draw([source])


def test_no_source_is_a_user_error():
    with pytest.raises(UserError, match="no source to draw from; add at least one"):
        draw([])


def test_one_id_on_two_questions_is_a_user_error(tmp_path):
    path = tmp_path / "ids.jsonl"
    path.write_text("".join(json.dumps({"question": f"q {n}", "answer": "1", "id": "same"}) + "\n" for n in range(9)))
    source = CorpusSource(name="ids", kind="jsonl", path=str(path), columns={"id": "id"}, share=1)
    with pytest.raises(UserError, match="have the id `ids:same`"):
        draw([source], held_out=2, train=2, rl=2)


def test_the_bar_advances_once_a_problem():
    class Counter:
        done = 0

        def advance(self):
            self.done += 1

    bar = Counter()
    draw([SUMS], bar=bar)  # type: ignore[arg-type]
    assert bar.done == 100


def test_only_sources_with_a_share_are_drawn_from(tmp_path):
    whole = write(tmp_path / "whole.jsonl", ["What is read whole?"]).model_copy(update={"share": None})
    together = draw([SUMS, whole])
    assert {item.source for item in (*together.held_out, *together.train, *together.rl)} == {SUMS.name}


def test_an_item_carries_the_set_that_it_was_drawn_for():
    splits = draw([SUMS])
    for items, use in ((splits.held_out, "held_out"), (splits.train, "sft"), (splits.rl, "rl")):
        assert {item.use for item in items} == {use}


def test_rows_come_in_an_order_of_the_seed_and_none_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "SHUFFLE_BUFFER", 16)
    source = write(tmp_path / "a.jsonl", [f"q{n}" for n in range(100)])
    one, again, other = (draw([source], 30, 40, 30, seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(contents((*one.held_out, *one.train, *one.rl))) == 100
    early = [int(item.problem.question[1:]) for item in one.held_out]
    assert max(early) < 30 + 16 < 100
    assert early != sorted(early)


def test_rows_that_cannot_be_drawn_are_told_with_their_reason(tmp_path):
    rows = [{"question": f"What is {n}?", "answer": "1"} for n in range(9)]
    rows[2:2] = [{"question": " ", "answer": "1"}, {"question": "Why?", "answer": None}, {"question": "No answer?"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("{broken\n" + "".join(json.dumps(row) + "\n" for row in rows))
    bad = []
    draw([CorpusSource(name="rows", kind="jsonl", path=str(path), share=1)], 2, 5, 2, bad=bad)
    assert [(name, line.line, line.why.partition(" (")[0]) for name, line in bad] == [
        ("rows", 1, "not JSON"), ("rows", 4, "the question is empty"), ("rows", 5, "the answer is empty"),
        ("rows", 6, "no column `answer`"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "{\n", '{"question": "q"}\n'])
def test_a_file_without_a_usable_row_is_a_user_error(tmp_path, text):
    (tmp_path / "none.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"none\.jsonl: no usable row"):
        draw([CorpusSource(name="none", kind="jsonl", path=str(tmp_path / "none.jsonl"), share=1)])


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_apportion_sums_to_the_total_and_is_off_by_less_than_one(total, shares):
    counts = apportion(total, shares)
    assert sum(counts) == total
    for count, share in zip(counts, shares, strict=True):
        assert abs(count - total * share / sum(shares)) < 1 + 1e-6
