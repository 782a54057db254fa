"""The format reward's conditions (arXiv 2601.02346, section 3.4).

    format = well_formed and coherent and one_script

well_formed: `<think> thinking </think> answer`, the tags once each, the first at the very start, neither part empty.
coherent:    no degenerate repetition.
one_script:  no mixing of languages, seen as writing systems.

The paper names the three conditions and gives no detector; the two statistics below and their limits are our choice.
All are linear in the text.
"""

from __future__ import annotations

import itertools
import re
import string
from array import array
from collections.abc import Iterator

from h1r.verify.extract import THINK_CLOSE, THINK_OPEN, split_response

NGRAM = 16
MAX_REPEATED_SHARE = 0.5
MAX_FOREIGN_SHARE = 0.05
_MIN_NGRAMS = 100
_MAX_PIECES = 20_000

_PIECE = re.compile(r"\w{1,8}|[^\w\s]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_ASCII_LETTERS = string.ascii_letters.encode()
_LATIN_REST = re.compile(r"[\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff]")
_SCRIPTS = {
    "cyrillic": re.compile(r"[\u0400-\u052f]"),
    "hebrew": re.compile(r"[\u0590-\u05ff]"),
    "arabic": re.compile(r"[\u0600-\u06ff\u0750-\u077f]"),
    "indic": re.compile(r"[\u0900-\u0dff]"),
    "thai": re.compile(r"[\u0e00-\u0e7f]"),
    "korean": re.compile(r"[\u1100-\u11ff\uac00-\ud7af]"),
    "chinese-japanese": re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"),
}
"""Greek is missing on purpose: in this field it is notation, not a language."""


def check_format(text: str) -> dict[str, float]:
    """The conditions as 0 or 1: `format` and the three it is made of."""
    parts = {
        "well_formed": float(is_well_formed(text)),
        "coherent": float(is_coherent(text)),
        "one_script": float(foreign_share(text) <= MAX_FOREIGN_SHARE),
    }
    return {"format": float(all(parts.values())), **parts}


def is_well_formed(text: str) -> bool:
    """Whether the text is exactly `<think> thinking </think> answer`, both parts with content."""
    if not text.lstrip().startswith(THINK_OPEN) or text.count(THINK_OPEN) != 1 or text.count(THINK_CLOSE) != 1:
        return False
    response = split_response(text)
    return bool(response.thinking and response.thinking.strip() and response.answer and response.answer.strip())


def repeated_share(text: str) -> float:
    """The share of 16-piece n-grams that occurred before, in [0, 1]; a piece is a word (cut at 8 letters) or a sign.

    Texts of fewer than 100 n-grams score 0: that little may be a grid of zeros. Of longer texts the last 20,000
    pieces are looked at, since a loop, once entered, lasts to the end.
    """
    windows, total = _windows(text)
    return 1.0 - len(set(windows)) / total if total >= _MIN_NGRAMS else 0.0


def is_coherent(text: str) -> bool:
    """Whether `repeated_share(text) <= MAX_REPEATED_SHARE`; most texts show it before their end."""
    windows, total = _windows(text)
    if total < _MIN_NGRAMS:
        return True
    enough = (1.0 - MAX_REPEATED_SHARE) * total
    distinct = set(itertools.islice(windows, int(1.1 * enough)))
    if len(distinct) >= enough:
        return True
    distinct.update(windows)
    return len(distinct) >= enough


def _windows(text: str) -> tuple[Iterator[bytes], int]:
    """The n-grams, and how many. Pieces are numbered and two bytes each, so that an n-gram is a slice."""
    pieces = _PIECE.findall(text[-8 * _MAX_PIECES :])[-_MAX_PIECES:]
    total = max(len(pieces) - NGRAM + 1, 0)
    number = {piece: index for index, piece in enumerate(set(pieces))}
    numbers = array("H", map(number.__getitem__, pieces)).tobytes()
    return (numbers[start : start + 2 * NGRAM] for start in range(0, 2 * total, 2)), total


def foreign_share(text: str) -> float:
    """The share of letters outside the text's most frequent writing system, in [0, 1]."""
    if text.isascii():
        return 0.0
    plain = text.encode("ascii", "ignore")
    rest = "".join(_NOT_ASCII.findall(text))
    latin = len(plain) - len(plain.translate(None, _ASCII_LETTERS)) + len(_LATIN_REST.findall(rest))
    counts = [latin, *(len(pattern.findall(rest)) for pattern in _SCRIPTS.values())]
    total = sum(counts)
    return 1.0 - max(counts) / total if total else 0.0
