r"""Formulas of a question that stand there in words: 6 factorial, 7 choose 2, the cube of 4, 2 to the power of 10."""

from __future__ import annotations

import re

from h1r.mathematics.numerals import in_digits

_ORDINALS = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_N = r"(-?\d{1,12}(?:\.\d{1,6})?)"
_EXPONENT = rf"(?:(\d{{1,3}})(?:st|nd|rd|th)?|({'|'.join(_ORDINALS)}))"
_WORDED = tuple(
    (re.compile(pattern, re.IGNORECASE), written)
    for pattern, written in (
        (rf"\b{_N} factorial\b", "{0}!"),
        (rf"\bfactorial of {_N}(?![\d.]*\d)", "{0}!"),
        (rf"\b{_N} choose {_N}", r"\binom{{{0}}}{{{1}}}"),
        (rf"\b{_N} (?:raised )?to the (?:power (?:of )?)?{_EXPONENT}(?: power)?\b", "{0}^{{{1}}}"),
        (rf"\b{_EXPONENT} power of {_N}", "{1}^{{{0}}}"),
        (rf"\b{_N} squared\b", "{0}^2"),
        (rf"\bsquare of {_N}", "{0}^2"),
        (rf"\b{_N} cubed\b", "{0}^3"),
        (rf"\bcube of {_N}", "{0}^3"),
        (rf"\b(sin|cos|tan)(?:gent|e)?(?: of)? {_N} degrees\b", r"\{0} {1}^\circ"),
    )
)
_HINT = re.compile(r"factorial|choose|power|squared?\b|cubed?\b|degrees|to the", re.IGNORECASE)
_COSINE = re.compile(r"\bcosine\b", re.IGNORECASE)


def worded_formulas(text: str) -> list[str]:
    """The formulas that a plain text has in words, as LaTeX."""
    if not _HINT.search(text):
        return []
    text = _COSINE.sub("cos", in_digits(text))
    found: list[str] = []
    for pattern, written in _WORDED:
        for match in pattern.finditer(text):
            found.append(written.format(*(_digits(group) for group in match.groups() if group is not None)))
    return found


def _digits(group: str) -> str:
    lower = group.lower()
    return str(_ORDINALS.index(lower)) if lower in _ORDINALS else lower
