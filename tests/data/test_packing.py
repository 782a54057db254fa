"""Packing loses nothing, overfills nothing and wastes little."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from h1r.data.packing import OPEN_ROWS, pack

cases = st.integers(1, 40).flatmap(
    lambda seq_len: st.tuples(st.just(seq_len), st.lists(st.integers(1, 60), max_size=150), st.randoms())
)


def _order(lengths: list[int], rng: random.Random) -> list[int]:
    order = list(range(len(lengths)))
    rng.shuffle(order)
    return order


def _fill(row: list[int], lengths: list[int], seq_len: int) -> int:
    return sum(min(lengths[index], seq_len) for index in row)


@given(cases)
def test_every_document_is_in_exactly_one_row(case: tuple[int, list[int], random.Random]) -> None:
    seq_len, lengths, rng = case
    rows = pack(lengths, _order(lengths, rng), seq_len)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(rows)


@given(cases)
def test_no_row_exceeds_seq_len_and_an_over_long_document_counts_as_trimmed(
    case: tuple[int, list[int], random.Random],
) -> None:
    seq_len, lengths, rng = case
    for row in pack(lengths, _order(lengths, rng), seq_len):
        assert _fill(row, lengths, seq_len) <= seq_len
        assert len(row) == 1 or max(lengths[index] for index in row) < seq_len


@given(cases)
def test_packing_repeats(case: tuple[int, list[int], random.Random]) -> None:
    seq_len, lengths, rng = case
    order = _order(lengths, rng)
    assert pack(lengths, order, seq_len) == pack(tuple(lengths), iter(order), seq_len)


@given(cases)
def test_within_the_open_rows_packing_is_first_fit(case: tuple[int, list[int], random.Random]) -> None:
    seq_len, lengths, rng = case
    order = _order(lengths, rng)[:OPEN_ROWS]
    rows: list[list[int]] = []
    for index in order:
        fitting = [row for row in rows if _fill([*row, index], lengths, seq_len) <= seq_len]
        if fitting:
            fitting[0].append(index)
        else:
            rows.append([index])
    assert pack(lengths, order, seq_len) == rows


def test_beyond_the_open_rows_the_fullest_is_closed() -> None:
    lengths = [60] * OPEN_ROWS + [90, 20, 40]
    rows = pack(lengths, range(len(lengths)), 100)
    # The row of 90 is the fullest of 65, so it is closed before the 10 it still holds could be asked for.
    assert rows[OPEN_ROWS] == [OPEN_ROWS]
    assert rows[0] == [0, OPEN_ROWS + 1]
    assert rows[1] == [1, OPEN_ROWS + 2]
    assert pack([*lengths, 10], range(len(lengths) + 1), 100)[0] == [0, OPEN_ROWS + 1, OPEN_ROWS + 3]


def test_rows_are_nearly_full_when_documents_are_short() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(5, 60) for _ in range(2000)]
    rows = pack(lengths, range(2000), 256)
    assert sum(lengths) / (256 * len(rows)) > 0.95
