r"""The text of an answer before any parser sees it: limits, and where a list has its commas.

`refusal` states what is turned away unread; everything after it may assume short, shallow text. All of it is linear.
"""

from __future__ import annotations

import re
from functools import lru_cache

from h1r.mathematics.parse import WORD_CLOSE, WORD_OPEN

MAX_CHARS = 2_000
MAX_NESTING = 24
MAX_NUMBER_DIGITS = 1_000
MAX_EXPONENT_DIGITS = 5
MAX_LIST_ITEMS = 64

_OPEN_OR_CLOSE = re.compile(r"\\.|[{}()\[\]^!]", re.DOTALL)
_LONG_NUMBER = re.compile(rf"\d{{{MAX_NUMBER_DIGITS + 1}}}")
_LONG_EXPONENT = re.compile(rf"(?:\^|\*\*) ?[{{(]* ?-?\d{{{MAX_EXPONENT_DIGITS + 1}}}")


def refusal(text: str) -> str | None:
    """Why a text is no answer worth reading: too long, too deep, a tower of exponents; None when it may be read."""
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    if len(text) > MAX_NUMBER_DIGITS and _LONG_NUMBER.search(text):
        return f"a number of more than {MAX_NUMBER_DIGITS} digits"
    if ("^" in text or "**" in text) and _LONG_EXPONENT.search(text):
        return f"an exponent of more than {MAX_EXPONENT_DIGITS} digits"
    if text.count("{") + text.count("(") + text.count("[") > MAX_NESTING and _depth(text) > MAX_NESTING:
        return f"nested deeper than {MAX_NESTING}"
    if text.count("^") + text.count("**") > MAX_NESTING * 4 or text.count("!") > MAX_NESTING:
        return "too many powers or factorials"
    return None


def _depth(text: str) -> int:
    depth = deepest = 0
    for match in _OPEN_OR_CLOSE.finditer(text):
        depth += 1 if match[0] in "{([" else -1 if match[0] in "})]" else 0
        deepest = max(deepest, depth)
    return deepest


_BLANK_BESIDE_SIGN = re.compile(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9\\])")


def squeeze(text: str) -> str:
    """A cleaned text without marks and without the blanks that mean nothing, for comparison letter by letter."""
    return _BLANK_BESIDE_SIGN.sub("", " ".join(text.replace(WORD_OPEN, " ").replace(WORD_CLOSE, " ").split()))


_BRACKET = re.compile(r"\\begin ?\{|\\end ?\{|\\[{}]|\\[A-Za-z]+|\\.|[\[\](){}]", re.DOTALL)
_OPENING = frozenset(("(", "[", r"\{", "{"))
_CLOSING = frozenset((")", "]", r"\}", "}"))


def split_top(text: str, separator: str) -> list[str]:
    """The pieces of a text between the occurrences of a separator outside all brackets, stripped.

    The separator is a regular expression that matches no bracket. An unbalanced text is one piece.
    """
    return split_with(text, separator)[0]


def split_with(text: str, separator: str) -> tuple[list[str], list[str]]:
    """As `split_top`, with the separators."""
    depth, start = 0, 0
    pieces: list[str] = []
    found: list[str] = []
    for match in _pattern(separator).finditer(text):
        if match[1] is not None:
            if depth == 0:
                pieces.append(text[start : match.start()].strip())
                found.append(match[1].strip())
                start = match.end()
        elif match[0].startswith(r"\begin"):
            depth += 2  # the environment, and the brace of its name
        elif match[0] in _OPENING:
            depth += 1
        elif match[0] in _CLOSING:
            depth -= 1
            if depth < 0:
                return [text], []
    return ([*pieces, text[start:].strip()], found) if depth == 0 else ([text], [])


@lru_cache(maxsize=32)
def _pattern(separator: str) -> re.Pattern[str]:
    return re.compile(rf"({separator})|{_BRACKET.pattern}", re.DOTALL)


def bracketed(text: str) -> tuple[str, str, str] | None:
    """(opening, content, closing) of a text that is one bracketed group as a whole; `[0,1)` counts."""
    if not text.startswith(("(", "[", r"\{")):
        return None
    opening = text[: 2 if text[0] == "\\" else 1]
    depth = 0
    for match in _BRACKET.finditer(text):
        if match[0] in ("(", "[", r"\{", "{"):
            depth += 1
        elif match[0] in (")", "]", r"\}", "}"):
            depth -= 1
            if depth == 0:
                if match.end() != len(text) or match[0] == "}":
                    return None
                return opening, text[len(opening) : match.start()].strip(), match[0]
    return None
