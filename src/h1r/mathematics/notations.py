r"""Notations that say what a plainer one does: `plainer` writes them so, and `read` reads the result.

\text{infinity}                  \infty                 either 2 or 5                2 or 5
7 \text{ (seven)}                7                      all real x except 2          \mathbb{R} \setminus \{2\}
1011_{\text{two}}                1011_2                 3 p.m.                       3:00 pm
(1,2)^T                          (1,2)                  \{k\pi : k \in \mathbb{Z}\}  k\pi
0.1666\ldots                     0.1\overline{6}
"""

from __future__ import annotations

import re

from h1r.mathematics.numerals import number_in_words
from h1r.mathematics.text import bracketed

MAX_CHARS = 300
_HINT = re.compile(
    r"infinity|either|except|other than|\bbut\b|\)\Z|_ ?\{? ?\(?[a-z]{3}|[)\]}] ?\^|\\\{|dots|\.\.\.|…|[ap]\.? ?m\.?\Z",
    re.IGNORECASE,
)
_INFINITY = re.compile(r" *(?:(positive|plus|negative|minus|\+|-) ?)?infinity *\Z", re.IGNORECASE)
_EITHER = re.compile(r" *either (?=.* or )", re.IGNORECASE)
_TWICE = re.compile(r" *+([\d,.]++|[A-Za-z -]++) *+\( *+([\d,.]++|[A-Za-z -]++) *+\) *+\Z")
_ALL_REALS_BUT = re.compile(
    r" *(?:all|any|every) real(?: numbers?| values?|s)?(?: (?:of )?[a-z])? (?:except|other than|but)(?: for| when)?"
    r"(?: [a-z] ?=)? (-?[\d.]+|-?\\frac ?\{\d+\} ?\{\d+\})\Z",
    re.IGNORECASE,
)
_BASES = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_BASED = re.compile(rf"(-?[0-9A-F.]+) ?_ ?\{{? ?\(? ?({'|'.join(_BASES)}|twelve|sixteen) ?\)? ?\}}?\Z")
_CLOCK = re.compile(r" *(\d{1,2}) ?([ap])\.? ?m\.? *\Z", re.IGNORECASE)
_TRANSPOSED = re.compile(r"(.*[)\]}]) ?\^ ?\{? ?(?:\\(?:top|intercal)|T|\\mathsf ?\{? ?T ?\}?) ?\}?\Z", re.DOTALL)
_OF_INTEGERS = re.compile(
    r"\\\{ ?([^{}:|]{1,120}) ?(?::|\||\\mid) ?\\?[a-z]+ ?(?:\\in ?(?:\\mathbb ?\{? ?Z ?\}?|Z)|is an integer) ?\\\}\Z"
)
_CONTINUED = re.compile(r"(-?\d{0,20}\.)(\d{3,40}) ?(?:\\[lcd]?dots|\.\.\.|…)\Z")


def plainer(text: str, letters: str) -> str | None:
    """The plainer way to write a cleaned text; None where there is none. `letters`: the text without its marks."""
    if len(text) > MAX_CHARS or not _HINT.search(letters):
        return None
    letters = " ".join(letters.split())
    if match := _INFINITY.match(letters):
        return r"-\infty" if (match[1] or "").lower() in ("negative", "minus", "-") else r"\infty"
    if match := _EITHER.match(letters):
        return letters[match.end() :]
    if match := _TWICE.match(letters):
        return _said_twice(match[1].strip(), match[2].strip())
    if match := _ALL_REALS_BUT.match(letters):
        return rf"\mathbb{{R}} \setminus \{{{match[1]}\}}"
    if match := _BASED.match(letters):
        return f"{match[1]}_{{{number_in_words(match[2])}}}"
    if match := _CLOCK.match(letters):
        return f"{match[1]}:00 {match[2].lower()}m"
    if match := _TRANSPOSED.match(letters):
        return _transposed(match[1].strip())
    if match := _OF_INTEGERS.match(letters):
        return match[1].strip()
    return _repeated(match) if (match := _CONTINUED.match(letters)) else None


def _said_twice(one: str, other: str) -> str | None:
    """The digits of a number that stands there in digits and in words: 7 (seven)."""
    digits, words = (one, other) if one[:1].isdigit() else (other, one)
    value = number_in_words(words)
    same = value is not None and digits.replace(",", "") == str(value)
    return digits if same else None


def _transposed(text: str) -> str | None:
    """A vector that was written in a row; a matrix of one row or one column, turned."""
    if (group := bracketed(text)) and group[0] in "([" and "," in group[1]:
        return f"({group[1]})"
    if text.count(r"\begin") != 1 or not text.startswith(r"\begin") or "matrix}" not in text:
        return None
    if "&" in text and r"\\" in text:
        return None
    return text.replace("&", r"\\") if "&" in text else text.replace(r"\\", "&")


def _repeated(match: re.Match[str]) -> str | None:
    """A decimal that goes on as it ends: its period stands there three times, or twice if it has three digits."""
    digits = match[2]
    for length in range(1, len(digits) // 2 + 1):
        period = digits[-length:]
        times = 3 if length < 3 else 2
        if digits.endswith(period * times):
            fixed = digits[: len(digits) - length]
            while fixed.endswith(period):
                fixed = fixed[: len(fixed) - length]
            return rf"{match[1]}{fixed}\overline{{{period}}}"
    return None
