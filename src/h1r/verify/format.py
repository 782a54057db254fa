"""The format reward's conditions (arXiv 2601.02346, section 3.4).

    format = well_formed and coherent and one_script

well_formed: `<think> thinking </think> answer`, the tags once each, the first at the very start, neither part empty.
coherent:    no degenerate repetition.
one_script:  no mixing of languages, seen as writing systems.

The paper names the three conditions and gives no detector; the two statistics below and their limits are our choice.
All are linear in the text.
"""

from __future__ import annotations

import re

from h1r.verify.extract import THINK_CLOSE, THINK_OPEN, split_response

NGRAM = 16
MAX_REPEATED_SHARE = 0.5
MAX_FOREIGN_SHARE = 0.05
_MIN_NGRAMS = 100
_MAX_PIECES = 20_000

_PIECE = re.compile(r"\w{1,8}|[^\w\s]")
_LATIN = re.compile(r"[A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff]")
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
        "coherent": float(repeated_share(text) <= MAX_REPEATED_SHARE),
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
    pieces = _PIECE.findall(text[-8 * _MAX_PIECES :])[-_MAX_PIECES:]
    total = len(pieces) - NGRAM + 1
    if total < _MIN_NGRAMS:
        return 0.0
    distinct = len(set(zip(*(pieces[offset:] for offset in range(NGRAM)), strict=False)))
    return 1.0 - distinct / total


def foreign_share(text: str) -> float:
    """The share of letters outside the text's most frequent writing system, in [0, 1]."""
    if text.isascii():
        return 0.0
    counts = [len(pattern.findall(text)) for pattern in (_LATIN, *_SCRIPTS.values())]
    total = sum(counts)
    return 1.0 - max(counts) / total if total else 0.0
