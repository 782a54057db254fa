"""Loops at the end of a text, long repetitions, and real traces that have neither."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h1r.verify.format import check_format, is_coherent
from h1r.verify.repetition import Loop, common_prefixes, ending_loop, is_degenerate, repeated_share

DATA = Path(os.environ.get("H1R_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "areal_rollouts").is_dir(), reason="the traces are not here")
STEPS = " ".join(f"Step {n}: we add {n} to {n * n} and get {n * n + n}." for n in range(1, 400))


def longest_loop(items: list[str], min_repeats: int, min_pieces: int) -> Loop | None:
    """The obvious way: every period, from the end backwards."""
    best = None
    for period in range(1, len(items)):
        length = period
        while length < len(items) and items[-length - 1] == items[-length - 1 + period]:
            length += 1
        if length >= max(min_repeats * period, min_pieces) and (best is None or length > best.pieces):
            best = Loop(period, length)
    return best


@given(st.lists(st.sampled_from("ab"), max_size=12), st.lists(st.sampled_from("abc"), max_size=4), st.integers(0, 8))
def test_loops_are_those_of_the_obvious_search(head: list[str], period: list[str], repeats: int) -> None:
    items = head + period * repeats + period[:1]
    whole = longest_loop(items, 3, 6)
    assert ending_loop(" ".join(items), 3, 6) == (whole or longest_loop(items[:-1], 3, 6))


@given(st.lists(st.integers(0, 2), max_size=30))
def test_common_prefixes_are_what_they_say(items: list[int]) -> None:
    for position, length in enumerate(common_prefixes(items)):
        if position:
            assert items[:length] == items[position : position + length]
            assert position + length == len(items) or items[length] != items[position + length]


@pytest.mark.parametrize(
    ("loop", "period"),
    [("wait, let me check again. ", 7), ("1 ", 1), ("12 + 13 = 25\n", 5), ("so x = 1/16 + 1/32 + 1/64 + ", 15)],
)
def test_a_loop_is_found_behind_a_long_sound_text_wherever_it_is_cut(loop: str, period: int) -> None:
    for cut in range(len(loop)):
        found = ending_loop(f"{STEPS} {loop * 200}{loop[:cut]}")
        assert found is not None
        assert found.period == period
        assert 199 <= found.repeats <= 203
    assert is_degenerate(f"{STEPS} {loop * 60}" if period > 2 else f"{STEPS} {loop * 200}")


def test_sound_texts_have_no_loop() -> None:
    assert ending_loop(STEPS) is None
    assert ending_loop("") is None
    assert ending_loop("0 " * 60) is None  # a grid
    assert not is_degenerate(STEPS + "\n" + "| 0 | 0 | 0 |\n" * 8)


def test_a_loop_that_counts_is_seen_by_its_repeated_stretches() -> None:
    text = "".join(
        f"Attempt {n}: perhaps the sum of the digits of the number of ways to place the rooks on the board without two"
        f" attacking each other is what the problem wants, but this cannot be, so let us try again from the start. "
        for n in range(60)
    )
    assert ending_loop(text) is None
    assert is_degenerate(text)


def test_a_loop_inside_the_thinking_counts_though_an_answer_follows() -> None:
    text = f"<think>{STEPS} {'wait, let me check again. ' * 60}</think>So the answer is 12."
    assert repeated_share(text) < 0.5
    assert ending_loop(text) is None
    assert not is_coherent(text)
    assert check_format(text)["format"] == 0.0


@needs_data
def test_no_complete_real_trace_is_called_degenerate() -> None:
    def lines(path: Path) -> list[dict]:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]

    rollouts = [row for path in sorted((DATA / "areal_rollouts").glob("*.gz")) for row in lines(path)]
    right = [row["completion"] for row in rollouts if row["reward"] == 1.0]
    chats = lines(DATA / "intellect3_sft_256/intellect3_sft_256.jsonl.gz")
    texts = right + [row["completion"][-1]["content"] for row in chats]
    assert len(texts) > 750
    assert [text[-80:] for text in texts if is_degenerate(text)] == []


@pytest.mark.parametrize("unit", ["a ", "ab", "a b a c ", " ", "(", "x" * 7 + " " * 9, "aaaaaaaab "])
def test_time_is_linear_in_hostile_text(unit: str) -> None:
    text = (unit * (1_000_000 // len(unit)))[:1_000_000]
    started = time.process_time()
    is_degenerate(text)
    ending_loop(text)
    assert time.process_time() - started < 2.0
