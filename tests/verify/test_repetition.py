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

from h1r.response import repetition
from h1r.response.format import check_format, is_coherent
from h1r.response.repetition import Loop, common_prefixes, ending_loop, is_degenerate, repeated_share
from machine import slowness

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


def is_degenerate_by_definition(text: str) -> bool:
    """Without the proof that lets most texts go."""
    return repeated_share(text) > repetition.MAX_REPEATED_SHARE or ending_loop(text) is not None


PARTS = [
    "wait, ",
    "x",
    "12",
    "1",
    "+",
    " ",
    "\n",
    "number",
    "extraordinarily_long_word",
    "考え",
    "é",
    "\u2003",
    "😀",
    "\ud800",
]
STRETCHES = st.tuples(st.lists(st.sampled_from(PARTS), min_size=1, max_size=12), st.integers(1, 60))


@given(st.lists(STRETCHES, max_size=6), st.booleans())
def test_what_is_proved_sound_is_sound(stretches: list[tuple[list[str], int]], counts: bool) -> None:
    text = "".join(
        "".join(parts) + (f"{turn} " if counts else "") for parts, times in stretches for turn in range(times)
    )
    for end in (len(text), len(text) - 3, len(text) // 2):
        assert is_degenerate(text[:end]) is is_degenerate_by_definition(text[:end])


@given(st.text(min_size=150), st.integers(1, 8))
def test_the_proof_holds_for_any_text(text: str, times: int) -> None:
    assert is_degenerate(text * times) is is_degenerate_by_definition(text * times)


def test_long_texts_are_proved_by_what_is_looked_at() -> None:
    """More than the 20,000 pieces that count, of which the first would tell another story."""
    loop, sound = "wait, let me check again. " * 4000, " ".join(f"{n}{n * n}x" for n in range(21_000))
    for text in (loop + sound, sound + loop, loop, sound, "a" * 400_000, "é" * 400_000):
        assert is_degenerate(text) is is_degenerate_by_definition(text)


def test_pieces_of_the_proof_are_those_of_the_expression() -> None:
    for number, kind in enumerate(repetition._kinds()):
        found = repetition._PIECE.fullmatch(chr(number))
        letter = bool(found) and repetition._PIECE.fullmatch(chr(number) * 2) is not None
        assert kind == (0 if not found else 2 if letter else 1)


@needs_data
def test_real_traces_are_judged_as_by_definition_and_most_by_the_proof() -> None:
    def lines(path: Path) -> list[dict]:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]

    texts = [row["completion"] for path in sorted((DATA / "areal_rollouts").glob("*.gz")) for row in lines(path)]
    texts += [row["output"] for row in lines(DATA / "mmlu_pro_sample/model_outputs_stem.jsonl.gz")]
    proved = found = 0
    for text in texts:
        degenerate = is_degenerate_by_definition(text)
        assert is_degenerate(text) is degenerate
        found += degenerate
        proved += repetition._is_surely_sound(text)
    print(f"{len(texts)} texts, {found} degenerate, {proved} proved sound")
    assert found > 30
    assert proved >= 0.98 * (len(texts) - found)


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
    assert time.process_time() - started < 2.0 * slowness()
