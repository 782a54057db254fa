"""A question of any length and shape costs time linear in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from h1r.common.reading import clean
from h1r.config import CorpusSource
from h1r.data import tokenizer
from h1r.data.curate.io.read import Reader
from h1r.data.curate.joins.keys import exact_keys
from h1r.data.curate.rules.decontaminate import HeldOutIndex
from h1r.data.curate.rules.dedup import shingles
from h1r.data.tokenizer import train_tokenizer
from h1r.records import Problem

HELD_OUT = HeldOutIndex([Problem("h", "How many of the 12 hens lay 3 eggs on each of the 7 days of a week?", "1")])
RULES: dict[str, Callable[[str], object]] = {
    "clean": clean,
    "exact keys": lambda text: exact_keys(Problem("q", text, "1")),
    "shingles": shingles,
    "overlaps": lambda text: HELD_OUT.overlaps(Problem("q", text, "1")),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("unit", ["x", "{", "2 ", "word 7, ", "12 hens lay 3 eggs ", "1,000", "\r\n", "鸡"])
def test_eight_times_the_question_is_about_eight_times_the_work(rule: str, unit: str) -> None:
    assert_linear(RULES[rule], unit)


@pytest.mark.parametrize("unit", ["x", "鸡", " "])
def test_a_tokenizer_learns_from_an_endless_word_in_linear_time(unit: str) -> None:
    assert_linear(lambda text: train_tokenizer([text], 300), unit)


def assert_linear(rule: Callable[[str], object], unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        began = time.process_time()
        rule(text)
        return time.process_time() - began

    small = min(seconds(20_000) for _ in range(3))
    large = min(seconds(160_000) for _ in range(2))
    assert large < 4 * 8 * max(small, 0.002)


def test_a_tokenizer_learns_the_same_from_a_text_and_from_its_parts() -> None:
    lines = "".join(f"  {n} hens, {n * n} eggs:\n\n a b  c\t{'d' * (n % 7)}\n" for n in range(4000))
    parts = list(tokenizer._without_markers([lines]))
    assert len(parts) > 1
    assert "".join(parts) == lines
    split = train_tokenizer([lines], 300).backend_tokenizer.pre_tokenizer.pre_tokenize_str
    assert [word for part in parts for word, _ in split(part)] == [word for word, _ in split(lines)]


def test_a_question_that_is_too_long_is_set_aside_and_counted(tmp_path: Path) -> None:
    rows = [{"question": "Two and two?"}, {"question": "x" * 101}, {"question": "y" * 100}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = CorpusSource(name="s", kind="jsonl", path="rows.jsonl")
    reader = Reader(section, str(tmp_path / "rows.jsonl"), 0, max_question_chars=100)
    assert [item.problem.question[0] for item in reader.items()] == ["T", "y"]
    ((number, why),) = [(line.line, line.why) for line in reader.bad]
    assert number == 2
    assert why == "a question of more than 100 characters (`corpus.max_question_chars`)"
