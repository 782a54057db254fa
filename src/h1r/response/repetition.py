"""Degenerate repetition: a text that ends in a loop, or that repeats long stretches of itself.

    pieces      t_1 ... t_n        words (cut at 8 letters) and single signs; white space does not count
    loop        the longest suffix of period p, t_i = t_(i-p), with at least `min_repeats` periods and `min_pieces`
    repeated    the share of 16-piece n-grams that occurred before

A loop, once entered, lasts to the token limit, so the end of the text tells. Its period is found exactly: with r the
reversed pieces and Z(p) the length of the longest common prefix of r and r without its first p pieces, the longest
suffix of period p has p + Z(p) pieces. All Z(p) together take linear time (Gusfield 1997, section 1.4). Loops that
change a number in each round have no period; the share of repeated n-grams sees those whose rounds are long.

Almost no text is either, and `is_degenerate` first asks for a proof of that: hashes of all n-grams, computed for the
whole text at once. Equal n-grams have equal hashes, so distinct hashes are at most as many as distinct n-grams, and a
hash that occurs nowhere before belongs to an n-gram that does not. What is not proved sound is looked at exactly.

The paper (arXiv 2601.02346, section 3.4) penalises incoherence without naming a detector; detectors and limits are our
choice. Both are linear in what they look at, at most the last 20,000 pieces, so they run in any process.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

NGRAM = 16
MAX_REPEATED_SHARE = 0.5
MIN_REPEATS = 5
MIN_LOOP_PIECES = 150
_MIN_NGRAMS = 100
_MAX_PIECES = 20_000
_PIECE_LETTERS = 8
_PIECE = re.compile(r"\w{1,8}|[^\w\s]")
_BLANK, _SIGN, _LETTER = 0, 1, 2
_LENGTHS = range(_PIECE_LETTERS + 1)
_FIRST_FOUR = np.array([(1 << 16 * min(length, 4)) - 1 for length in _LENGTHS], np.uint64)
_LAST_FOUR = np.array([(1 << 16 * max(length - 4, 0)) - 1 for length in _LENGTHS], np.uint64)
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5,
                         0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD], np.uint64)  # fmt: skip
"""Odd, so that multiplying by one is a bijection modulo 2^64; which ones does not matter for what is proved."""


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
    """Whether the text ends in a loop, or more than half of its n-grams occurred before."""
    if _is_surely_sound(text):
        return False
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


def _is_surely_sound(text: str) -> bool:
    """Whether the text is proved to be no degenerate one; False says nothing."""
    text = text[-9 * _MAX_PIECES :]
    if len(text) < _MIN_NGRAMS + NGRAM - 1:
        return True  # a piece has a character at least
    hashes = _ngram_hashes(text)
    if hashes is None:
        return False
    if len(hashes) < _MIN_NGRAMS:
        return True
    if _may_loop(hashes):
        return False
    ordered = np.sort(hashes)
    distinct = 1 + np.count_nonzero(ordered[1:] != ordered[:-1])
    return bool(distinct >= (1.0 - MAX_REPEATED_SHARE) * len(hashes))


def _may_loop(hashes: NDArray[np.uint64]) -> bool:
    """False only when neither the pieces nor those before the last one end in a loop that counts.

    All pieces of such a loop but those of its first period occurred a period before, with them the last n-gram and the
    first one of these pieces: both at the same distance.
    """
    apart = MIN_LOOP_PIECES - MIN_LOOP_PIECES // MIN_REPEATS - NGRAM - 1
    last = len(hashes) - 2  # is a part of either loop
    if last < apart:
        return False
    return bool(np.any((hashes[apart:last] == hashes[last]) & (hashes[: last - apart] == hashes[last - apart])))


def _ngram_hashes(text: str) -> NDArray[np.uint64] | None:
    """A hash of each n-gram of the last pieces, in order; None for a text with characters beyond 16 bits."""
    content = (text + " " * _PIECE_LETTERS).encode("utf-16-le", "surrogatepass")
    units = np.frombuffer(content, "<u2")
    if len(units) != len(text) + _PIECE_LETTERS:
        return None
    kinds = _kinds().take(units)
    letters, visible = kinds == _LETTER, kinds != _BLANK
    joined = letters[1:] & letters[:-1]
    begins, ends = visible.copy(), visible.copy()
    begins[1:] &= ~joined
    ends[:-1] &= ~joined
    cuts = _cuts(joined)
    begins[cuts] = ends[cuts - 1] = True
    starts = np.flatnonzero(begins)[-_MAX_PIECES:]
    lengths = np.flatnonzero(ends)[-_MAX_PIECES:] - starts + 1
    fours = np.ndarray((len(units) - 3,), "<u8", content, strides=(2,))  # four characters from each place on
    pieces = (fours.take(starts) & _FIRST_FOUR.take(lengths)) * _MULTIPLIERS[0]
    pieces += (fours.take(starts + 4) & _LAST_FOUR.take(lengths)) * _MULTIPLIERS[1]
    hashes = pieces
    for turn, width in enumerate((1, 2, 4, 8)):
        hashes = hashes[:-width] * _MULTIPLIERS[2 + turn] + hashes[width:]
    return hashes


def _cuts(joined: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where the second and later pieces of long words begin; `joined[i]`: letters stand at i and at i + 1."""
    for width in (1, 2, 4):
        joined = joined[width:] & joined[:-width]
    behind = np.flatnonzero(joined) + _PIECE_LETTERS  # letters behind as many as a piece has
    fresh = np.ones(len(behind), bool)
    fresh[1:] = behind[1:] != behind[:-1] + 1
    turns = np.arange(len(behind))
    return behind[(turns - np.maximum.accumulate(np.where(fresh, turns, 0))) % _PIECE_LETTERS == 0]


@cache
def _kinds() -> NDArray[np.uint8]:
    """What `_PIECE` takes each 16-bit character for."""
    characters = map(chr, range(1 << 16))
    return np.array([_BLANK if c.isspace() else _LETTER if c.isalnum() or c == "_" else _SIGN for c in characters],
                    np.uint8)  # fmt: skip


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
