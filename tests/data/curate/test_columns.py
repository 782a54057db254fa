"""Columns by their dotted names, and values of every type that files have, as text or as JSON."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from h1r.config import CorpusSource
from h1r.data.curate.io.columns import BadRowError, plain, reach, value_text
from h1r.data.curate.io.read import Reader


@pytest.mark.parametrize(
    ("row", "column", "found"),
    [
        ({"a": {"b": 1}}, "a.b", 1),
        ({"a.b": 2}, "a.b", 2),
        ({"a.b": 2, "a": {"b": 1}}, "a.b", 2),
        ({"a.b": {"c": 3}}, "a.b.c", 3),
        ({"a.b": {"x": 0}, "a": {"b": {"c": 4}}}, "a.b.c", 4),
        ({"a": {"b.c": 5}}, "a.b.c", 5),
        ({"a": [{"b.c": 6}]}, "a.-1.b.c", 6),
        ({"a": '{"b.c": 7}'}, "a.b.c", 7),
        ({"a.b": None}, "a.b", None),
    ],
)
def test_a_dotted_name_finds_keys_that_hold_dots_and_keys_within_keys(row, column, found):
    assert reach(row, column) == found


@pytest.mark.parametrize("column", ["a.c", "a.b.c", "b", "", "a."])
def test_a_name_that_leads_nowhere_is_refused(column):
    with pytest.raises(BadRowError, match="no column"):
        reach({"a": {"b": 1}}, column)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12.50"), "12.5"), (Decimal("7.00"), "7"), (Decimal("1E+3"), "1000"), (Decimal("NaN"), ""),
        (Decimal("0.10000000000000000001"), "0.10000000000000000001"), (float("nan"), ""), (None, ""), (2.5, "2.5"),
    ],
)  # fmt: skip
def test_numbers_are_text_with_their_own_digits(value, text):
    assert value_text(value, "answer") == text


def test_a_value_that_is_kept_is_one_that_json_has():
    value = {"cases": [{"input": Decimal("2"), "output": Decimal("0.5")}], "on": date(2024, 5, 6)}
    assert json.loads(json.dumps(plain(value))) == {"cases": [{"input": 2, "output": 0.5}], "on": "2024-05-06"}


def test_a_parquet_file_with_dotted_decimal_and_missing_values_is_read(tmp_path: Path):
    rows = {
        "meta.question": ["Half of 25?", "What is it?", "And this?"],
        "answer": pa.array([Decimal("12.50"), None, Decimal("3.00")], pa.decimal128(6, 2)),
        "rate": pa.array([Decimal("0.25"), Decimal("0.50"), Decimal("0.75")], pa.decimal128(6, 2)),
        "extra": pa.array([{"at": date(2024, 1, 2)}] * 3),
    }
    pq.write_table(pa.table(rows), tmp_path / "p.parquet")
    source = CorpusSource(
        name="s", kind="parquet", path="p.parquet", metadata={"note": "extra.at"},
        columns={"question": "meta.question", "answer": "answer", "pass_rate": "rate"},
    )  # fmt: skip
    reader = Reader(source, str(tmp_path / "p.parquet"), 0)
    items = list(reader.items())
    assert not reader.bad
    assert [item.problem.answer for item in items] == ["12.5", "", "3"]
    assert [item.pass_rate for item in items] == [0.25, 0.5, 0.75]
    assert items[0].problem.metadata == {"note": "2024-01-02"}


@pytest.mark.parametrize("given", ["null", "''", "nan", "NaN", "N/A", "n/a", " "])
def test_a_word_that_stands_for_no_answer_is_none(tmp_path: Path, given: str):
    (tmp_path / "p.jsonl").write_text(json.dumps({"question": "q?", "answer": given.strip("'")}) + "\n")
    source = CorpusSource(name="s", kind="jsonl", path="p.jsonl", columns={"answer": "answer"})
    assert [item.problem.answer for item in Reader(source, str(tmp_path / "p.jsonl"), 0).items()] == [""]
