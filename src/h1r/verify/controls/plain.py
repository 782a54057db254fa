"""When a control is the reference after all: told from the two texts alone, never by the scorer that is on trial.

Two texts are the same answer when they are equal but for case, blanks and typesetting, as numbers, as lists in another
order, as the right side of an equation, or when each holds one number only and it is the same ("0", "0 cm", "0_{10}";
"1" and "100%"). That is generous on purpose: a control too few weakens the gate for one item, and one too many refuses
an honest item.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from h1r.mathematics.tiers import parse_number

MAX_PLAIN_CHARS = 4_000
MAX_DIGITS = 400
_TYPESETTING = re.compile(
    r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mathit|operatorname|left|right|displaystyle|boxed|quad|qquad|cdot|[,;:! ])"
    r"(?![A-Za-z])"
)
_DROPPED = re.compile(r"[\s{}$\\*'\"`]++")
_NUMBER = re.compile(r"\d++(?:\.\d++)?+|\.\d++")
_RATIO = re.compile(r"\\frac\{([-+]?\d{1,400})\}\{(\d{1,400})\}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BASE = re.compile(r"(?<=\d)_(?:\{(?:\\text\{)?(?:\d{1,2}|[a-z]{1,9})\}{1,2}|\d)")
"""The base that a number is written in."""
_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
_WORD = re.compile(rf"\b(?:{'|'.join(_WORDS)})\b")
_INFINITE = re.compile(r"inf|\\infty|∞|unbounded")
_UNDEFINED = re.compile(r"nan|undefined|not defined|indeterminate|does not exist|none|null|no solution")


@dataclass(frozen=True, slots=True)
class _Forms:
    """What an answer is compared by: its plain text, the parts of a list, its value, all numbers in it, what it is as a
    share where it is one percentage, and words."""

    text: str
    parts: tuple[str, ...]
    value: Fraction | None
    numbers: tuple[Fraction | str, ...]
    share: Fraction | None
    words: tuple[bool, ...]


def plain(text: str) -> str:
    """The text without case, blanks, quotes and typesetting."""
    return _forms(text).text


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are the same as texts or as numbers; symmetric, in linear time."""
    if ("=" in one) != ("=" in other):
        return _same(one.rpartition("=")[2], other.rpartition("=")[2]) or _same(one, other)
    return _same(one, other)


def _same(one: str, other: str) -> bool:
    ours, theirs = _forms(one), _forms(other)
    if ours.parts == theirs.parts:
        return True
    if not ours.text or not theirs.text:
        return False
    if ours.value is not None and theirs.value is not None:
        return ours.value == theirs.value
    if len(ours.numbers) == 1 and ours.numbers == theirs.numbers:
        return True
    if _is_share(ours, theirs) or _is_share(theirs, ours):
        return True
    return any(here and there for here, there in zip(ours.words, theirs.words, strict=True))


def _is_share(one: _Forms, other: _Forms) -> bool:
    return one.share is not None and other.share is None and other.numbers == (one.share,)


@lru_cache(maxsize=8192)
def _forms(text: str) -> _Forms:
    folded = unicodedata.normalize("NFKC", text[:MAX_PLAIN_CHARS]).casefold()
    shortened = folded.replace("dfrac", "frac").replace("tfrac", "frac")
    bare = _DROPPED.sub("", _RATIO.sub(r"\1/\2", _TYPESETTING.sub("", shortened))).rstrip(".")
    number = parse_number(bare)
    counted = _WORD.sub(lambda match: str(_WORDS.index(match[0])), _THOUSANDS.sub("", _BASE.sub("", folded)))
    numbers = tuple(_value(match[0]) for match in _NUMBER.finditer(counted))
    share = numbers[0] / 100 if len(numbers) == 1 and "%" in bare and isinstance(numbers[0], Fraction) else None
    return _Forms(
        bare,
        tuple(sorted(bare.strip("[]()").split(","))),
        number[0] if number else None,
        numbers,
        share,
        tuple(bool(pattern.search(folded)) for pattern in (_INFINITE, _UNDEFINED)),
    )


def _value(number: str) -> Fraction | str:
    return number if len(number) > MAX_DIGITS else Fraction(number)
