r"""Answers in words: what counts of them, and when a text is words and no formula."""

from __future__ import annotations

import re

from h1r.mathematics.parse import WORD_CLOSE, WORD_OPEN
from h1r.mathematics.phrases import NONE, is_none

MARKS = str.maketrans("", "", WORD_OPEN + WORD_CLOSE)
_CIRCLED = re.compile(rf"[①-⑳, {WORD_OPEN}{WORD_CLOSE}]+")
RUN = re.compile(r"(?<!\\)(?<![A-Za-z\\])[A-Za-z]{2,}")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_HALF_OF_DAY = re.compile(r"\b([apAP])\.([mM])\b")
_ARTICLES = frozenset(("a", "an", "the"))
_LETTER = r"(?:[IVX]{2,4}|[A-Za-z]|\((?:[IVX]{2,4}|[A-Za-z])\))"
LETTERS = re.compile(
    rf" *+{_LETTER}(?: *+(?:, *+(?:(?<= )(?:and|AND) ++)?{_LETTER}|(?<= )(?:and|AND) ++{_LETTER}))+ *+"
)
"""Letters or Roman numbers joined by commas or "and": choices of which several are right, or unknowns."""
_DIFFERENCE = re.compile(r" *+[A-Za-z]{1,2}(?: ?- ?[A-Za-z]{1,2})++ *+")
"""ad-bc is no pair of words."""
_FIGURE = re.compile(r"\\(triangle|angle|parallel|perp|sim|cong|circ|odot|square)(?![A-Za-z]) ?")
_SAID_OF_FIGURES = re.compile(r"[A-Z] ?\}?+ ?\\(?:parallel|perp|sim|cong)(?![A-Za-z])")
_OVERLINED = re.compile(r"\\(?:overline|overleftrightarrow|overrightarrow|widehat) ?\{? ?([A-Z]{1,3}'*) ?\}?")
_BRACED = re.compile(r"(?<![A-Za-z^_}])\{ ?([A-Z]{1,4}+'*+) ?\}")
_FORMULA_SIGN = re.compile(r"[=<>^_+*/\\|{}()\[\]0-9]")
_REALS = re.compile(r"\\mathbb ?\{? ?([RNZQC]) ?\}?")


def words_of(text: str) -> tuple[str, ...]:
    r"""The words of a text that is prose: nothing but words, or at least three that are neither units nor names."""
    if ("\\" in text or "{" in text) and (WORD_OPEN in text or _SAID_OF_FIGURES.search(text)):
        text = _FIGURE.sub(r" \1 ", _OVERLINED.sub(r" \1 ", _REALS.sub(r"\1", text)))
        text = _BRACED.sub(r" \1 ", text)
    if "\\" in text and not text.startswith(("\\text", WORD_OPEN)):
        return ()
    letters = text.translate(MARKS)
    if _CIRCLED.fullmatch(text):
        return tuple(sorted(sign for sign in text if sign >= "①"))
    if not _FORMULA_SIGN.search(letters):
        words = read_words(letters) if RUN.search(letters) and not _is_list_of_letters(letters) else ()
        return NONE if is_none(words, letters) else words
    runs = [run for run in RUN.findall(letters) if len(run) > 2 and run not in ("and", "per")]
    return read_words(letters) if len(runs) > 3 and "\\frac" not in text and "=" not in text else ()


def _is_list_of_letters(text: str) -> bool:
    if LETTERS.fullmatch(text) or _DIFFERENCE.fullmatch(text):
        return True
    return "," in text and all(len(piece.strip()) <= 2 for piece in text.split(","))


def read_words(text: str) -> tuple[str, ...]:
    """The words but for articles. What no word follows is none (team a), nor is a capital inside (see Case A below)."""
    words = _WORD.findall(_HALF_OF_DAY.sub(r"\1\2", text.strip()))
    kept = [
        word
        for index, word in enumerate(words)
        if word.casefold() not in _ARTICLES or index == len(words) - 1 or (word == "A" and index)
    ]
    return tuple(word.casefold().lstrip("0") or "0" for word in kept)
