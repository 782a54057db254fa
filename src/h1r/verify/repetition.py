"""Degenerate repetition: a text that ends in a loop, or that repeats long stretches of itself.

    pieces      t_1 ... t_n        words (cut at 8 letters) and single signs; white space does not count
    loop        the longest suffix of period p, t_i = t_(i-p), with at least `min_repeats` periods and `min_pieces`
    repeated    the share of 16-piece n-grams that occurred before

A loop, once entered, lasts to the token limit, so the end of the text tells. Its period is found exactly: with r the
reversed pieces and Z(p) the length of the longest common prefix of r and r without its first p pieces, the longest
suffix of period p has p + Z(p) pieces. All Z(p) together take linear time (Gusfield 1997, section 1.4). Loops that
change a number in each round have no period; the share of repeated n-grams sees those whose rounds are long.

The paper (arXiv 2601.02346, section 3.4) penalises incoherence without naming a detector; detectors and limits are our
choice. Both are linear in what they look at, at most the last 20,000 pieces, so they run in any process.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NGRAM = 16
MAX_REPEATED_SHARE = 0.5
MIN_REPEATS = 5
MIN_LOOP_PIECES = 150
_MIN_NGRAMS = 100
_MAX_PIECES = 20_000
_PIECE = re.compile(r"\w{1,8}|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Loop:
    """How a text ends: `pieces` in all, each of which equals the one `period` before it."""

    period: int
    pieces: int

    @property
    def repeats(self) -> float:
        """How many periods there are, the last perhaps in part."""
        return self.pieces / self.period


def is_degenerate(text: str) -> bool:
    """Whether the text ends in a loop, or more than half of its n-grams occurred before. Most texts decide early."""
    numbers = _numbers(text)
    return _repeats_itself(numbers) or _ending_loop(numbers, MIN_REPEATS, MIN_LOOP_PIECES) is not None


def ending_loop(text: str, min_repeats: int = MIN_REPEATS, min_pieces: int = MIN_LOOP_PIECES) -> Loop | None:
    """The loop that a text ends in, None when it ends in none: the longest one, by its shortest period.

    The last piece may be the beginning of a word that the token limit cut off; it need not belong to the loop.
    """
    return _ending_loop(_numbers(text), min_repeats, min_pieces)


def repeated_share(text: str) -> float:
    """The share of n-grams that occurred before, in [0, 1].

    Texts of fewer than 100 n-grams score 0: that little may be a grid of zeros.
    """
    numbers = _numbers(text)
    total = len(numbers) - NGRAM + 1
    return 1.0 - len(set(_windows(numbers))) / total if total >= _MIN_NGRAMS else 0.0


def common_prefixes(items: Sequence[int]) -> list[int]:
    """Z: for each position, how many items from there on equal the items from the beginning on; 0 at position 0."""
    count = len(items)
    found = [0] * count
    left = right = 0
    for position in range(1, count):
        length = min(right - position, found[position - left]) if position < right else 0
        while position + length < count and items[length] == items[position + length]:
            length += 1
        found[position] = length
        if position + length > right:
            left, right = position, position + length
    return found


def _repeats_itself(numbers: array[int]) -> bool:
    """Whether `repeated_share` is above its limit; a text with enough distinct n-grams need not be read to its end."""
    total = len(numbers) - NGRAM + 1
    if total < _MIN_NGRAMS:
        return False
    enough = (1.0 - MAX_REPEATED_SHARE) * total
    windows = _windows(numbers)
    distinct = set(itertools.islice(windows, int(1.1 * enough)))
    if len(distinct) < enough:
        distinct.update(windows)
    return len(distinct) < enough


def _ending_loop(numbers: array[int], min_repeats: int, min_pieces: int) -> Loop | None:
    return _final_loop(numbers, min_repeats, min_pieces) or _final_loop(numbers[:-1], min_repeats, min_pieces)


def _final_loop(numbers: array[int], min_repeats: int, min_pieces: int) -> Loop | None:
    if not _ends_as_before(numbers, max(1, min(NGRAM, min_pieces // 2))):
        return None
    best: Loop | None = None
    for period, common in enumerate(common_prefixes(numbers[::-1])):
        length = period + common
        if period and length >= max(min_repeats * period, min_pieces) and (best is None or length > best.pieces):
            best = Loop(period, length)
    return best


def _ends_as_before(numbers: array[int], count: int) -> bool:
    """Whether the last `count` pieces stand together earlier too, as they do in any loop of twice their number."""
    content, size = numbers.tobytes(), numbers.itemsize
    last = content[-count * size :]
    before = content[:-size]
    position = before.find(last)
    while position >= 0 and position % size:  # between two numbers
        position = before.find(last, position + 1)
    return position >= 0


def _windows(numbers: array[int]) -> Iterator[bytes]:
    """The n-grams, each a slice of the numbers' bytes."""
    content, size = numbers.tobytes(), numbers.itemsize
    return (content[start : start + size * NGRAM] for start in range(0, size * max(len(numbers) - NGRAM + 1, 0), size))


def _numbers(text: str) -> array[int]:
    """The last pieces of a text, equal ones with equal numbers. Pieces have at most 8 characters, and a space each."""
    pieces = _PIECE.findall(text[-9 * _MAX_PIECES :])[-_MAX_PIECES:]
    number = {piece: index for index, piece in enumerate(set(pieces))}
    return array("H", map(number.__getitem__, pieces))
