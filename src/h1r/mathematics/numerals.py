"""Numbers in words: seven, minus twenty-one, three quarters, two and a half, one hundred and five, three point one.

Only a text that is nothing else is one: "five apples" is no number here, and "no one" none either.
"""

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = {
    name: value
    for value, name in enumerate(
        (
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
            *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        )
    )
}
_TENS = {
    name: 10 * value
    for value, name in enumerate(("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), 2)
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {
    "half": 2,
    "halves": 2,
    "quarter": 4,
    "quarters": 4,
    **{
        name + end: value
        for name, value in (
            *(("third", 3), ("fourth", 4), ("fifth", 5), ("sixth", 6), ("seventh", 7), ("eighth", 8), ("ninth", 9)),
            *(("tenth", 10), ("eleventh", 11), ("twelfth", 12), ("thirteenth", 13), ("fourteenth", 14)),
            *(("fifteenth", 15), ("sixteenth", 16), ("seventeenth", 17), ("eighteenth", 18), ("nineteenth", 19)),
            *(("twentieth", 20), ("hundredth", 100), ("thousandth", 1000), ("millionth", 10**6)),
        )
        for end in ("", "s")
    },
}
_ORDINALS_ALONE = frozenset(name for name in _PARTS if name not in ("half", "halves", "quarter", "quarters"))
_SIGNS = {"minus": -1, "negative": -1, "plus": 1, "positive": 1}
MAX_WORDS = 16
_SEPARATOR = re.compile(r"[\s-]+")
_WORD = re.compile(r"[a-z]+")

_COUNT = rf"(?:{'|'.join((*list(_SMALL)[2:], *_TENS, 'hundred', *_SCALES))})"
_COUNTED = re.compile(
    rf"\b(?:(?<=\bis )|(?<=exactly )|(?<=only ))one\b(?! of)|\b{_COUNT}\b(?:[ -](?:and )?{_COUNT}\b)*+(?!-[a-z])", re.I
)
"""Cardinal numbers from two on; "one" is a pronoun but where it counts."""


def in_digits(sentence: str) -> str:
    """A sentence with its numbers in words as digits: there are 7 such numbers."""
    return _COUNTED.sub(lambda match: _digits(match[0]), sentence)


def _digits(words: str) -> str:
    value = number_in_words(words)
    return words if value is None else str(value)


def number_in_words(text: str) -> Fraction | None:
    """The number that a text is, as a whole, in English words; None for anything else."""
    words = _SEPARATOR.split(text.strip().casefold().rstrip("."))
    if not words or len(words) > MAX_WORDS or not all(map(_WORD.fullmatch, words)):
        return None
    sign = _SIGNS.get(words[0])
    value = _unsigned(words[1:] if sign else words)
    return None if value is None else (sign or 1) * value


def _unsigned(words: list[str]) -> Fraction | None:
    if not words or words in (["a"], ["an"]):
        return None
    if "point" in words:
        return _decimal(words)
    if words[-1] in _PARTS:
        return _fraction(words)
    if words[-1] == "dozen":
        count = _cardinal(words[:-1]) if words[:-1] not in ([], ["a"]) else 1
        return None if count is None else Fraction(12 * count)
    whole = _cardinal(words)
    return None if whole is None else Fraction(whole)


def _decimal(words: list[str]) -> Fraction | None:
    place = words.index("point")
    whole = _cardinal(words[:place]) if place else 0
    digits = [_SMALL.get(word, 10) for word in words[place + 1 :]]
    if whole is None or not digits or max(digits) > 9:
        return None
    return whole + Fraction(int("".join(map(str, digits))), 10 ** len(digits))


def _fraction(words: list[str]) -> Fraction | None:
    """Parts of one (two thirds, half, a quarter), or a whole number and such (two and a half)."""
    part = _PARTS[words[-1]]
    count = words[:-1]
    if not count:
        return None if words[-1] in _ORDINALS_ALONE else Fraction(1, part)
    if "and" in count:
        place = len(count) - 1 - count[::-1].index("and")
        whole, over = _cardinal(count[:place]), _count(count[place + 1 :])
        if whole is not None and over is not None and over < part:
            return whole + Fraction(over, part)
    over = _count(count)
    return None if over is None else Fraction(over, part)


def _count(words: list[str]) -> int | None:
    return 1 if words in (["a"], ["an"], []) else _cardinal(words)


def _cardinal(words: list[str]) -> int | None:
    """A whole number: groups below a thousand with their scales, in falling order."""
    total, group, last = 0, 0, 10**15
    seen = False  # a number of the group stands before what comes
    below = 1000  # what may follow in a group is smaller
    for index, word in enumerate(words):
        if word == "and":
            if not (seen or total) or index == len(words) - 1:
                return None
        elif word in ("a", "an"):
            if index or len(words) == 1 or (words[1] != "hundred" and words[1] not in _SCALES):
                return None
            group, seen, below = 1, True, 1
        elif word in _SMALL or word in _TENS:
            value = _SMALL.get(word, _TENS.get(word, 0))
            if value >= below or (value == 0 and len(words) > 1):
                return None
            group, seen, below = group + value, True, 10 if word in _TENS else 1
        elif word == "hundred":
            if not 0 < group < 20 or not seen:
                return None
            group, below = 100 * group, 100
        elif word in _SCALES:
            if not seen or _SCALES[word] >= last:
                return None
            total, group, last, seen, below = total + group * _SCALES[word], 0, _SCALES[word], False, 1000
        else:
            return None
    return total + group if words and (seen or total) else None
