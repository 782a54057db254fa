"""Mixing of languages, seen as writing systems.

    foreign share   of the prose of a text, by weight, what is outside its main writing system

A Chinese, Japanese or Korean letter weighs as much as three of an alphabet. Not counted: code, formulas between TeX's
delimiters, quotations, addresses; Greek anywhere, which is notation in this field; scripts that the question has too;
and, where another script is the main one, Latin words of up to three letters. Thinking and answer are looked at each by
itself, since a translation is no mixture. A few foreign letters (a name) are none either.

The paper (arXiv 2601.02346, section 3.4) penalises mixed languages without naming a detector; this one and its limits
are our choice. Two languages of one alphabet are not told apart: on mathematics, statistical detectors mistake symbols
and names for other languages far more often than models mix them. Linear in the text.
"""

from __future__ import annotations

import re
import string
from functools import cache

import numpy as np
from numpy.typing import NDArray

from h1r.response.extract import Response, split_response

MAX_FOREIGN_SHARE = 0.05
MAX_LATIN_SHARE = 0.2
"""The limit where Latin is the foreign one: terms, names and units are written in it everywhere."""
MIN_FOREIGN_WEIGHT = 12
MAX_CHARS = 400_000
"""Of a longer text the beginning and the end are looked at, half of these each."""
DENSE_WEIGHT = 3
SHORT_LATIN = 3

_ASCII = bytes(range(128))
_ASCII_LETTERS = string.ascii_letters.encode()
_LATIN_REST = "\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_LONG_LATIN_WORD = re.compile(rf"[A-Za-z{_LATIN_REST}]{{{SHORT_LATIN + 1},}}+")
_SCRIPTS = {
    "latin": _LATIN_REST,
    "cyrillic": "\u0400-\u052f",
    "hebrew": "\u0590-\u05ff",
    "arabic": "\u0600-\u06ff\u0750-\u077f",
    "indic": "\u0900-\u0dff",
    "thai": "\u0e00-\u0e7f",
    "korean": "\u1100-\u11ff\uac00-\ud7af",
    "chinese-japanese": "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff",
}
"""What belongs to each writing system beyond ASCII, as in a character class."""
_DENSE = ("korean", "chinese-japanese")
_NO_PROSE = re.compile(
    r"`[^`\n]{1,400}+`|\$(?!\$\$)(?:\$[^$]{1,2000}+\$\$|[^$\n]{1,400}+\$)|\\\([^\n\\]{0,400}+(?:\\(?![()\n])[^\n\\]{0,400}+){0,99}+\\\)|https?://\S{1,400}+"
    r"|\"[^\"\n]{1,200}+\"|“[^“”\n]{1,200}+”|«[^«»\n]{1,200}+»|「[^「」\n]{1,200}+」|《[^《》\n]{1,200}+》"
)
"""A pair holds no second opening sign, so that what does not close is looked at once."""


def is_one_language(text: str, question: str = "", response: Response | None = None) -> bool:
    """Whether neither the thinking nor the answer of a response mixes writing systems other than the question's.

    `response` is the text taken apart, if somebody has done that already.
    """
    if text.isascii():
        return True
    response = response or split_response(text)
    return not any(is_mixed(part, question) for part in (response.thinking, response.answer) if part)


def is_mixed(text: str, question: str = "") -> bool:
    """Whether one part of a response holds more of another writing system than names and terms account for."""
    if sum(_weights_beside_latin(_beyond_ascii(text)).values()) < MIN_FOREIGN_WEIGHT:
        return False  # whichever is the main writing system, no more than this lies outside it
    if len(text) > MAX_CHARS:
        text = f"{text[: MAX_CHARS // 2]}\n{text[-MAX_CHARS // 2 :]}"
    if _foreign(script_weights(text))[1] < MIN_FOREIGN_WEIGHT:
        return False
    said = prose(text)
    weights = script_weights(said)
    if weights["latin"] < max(weights.values()):
        weights["latin"] = sum(map(len, _LONG_LATIN_WORD.findall(said)))
    main, _ = _foreign(weights)
    for name, known in _weights_beside_latin(_beyond_ascii(question)).items():
        if name != main and known:
            weights[name] = 0
    total, latin = sum(weights.values()), weights["latin"] if main != "latin" else 0
    others = total - weights[main] - latin
    return (others >= MIN_FOREIGN_WEIGHT and others > MAX_FOREIGN_SHARE * total) or (
        latin >= MIN_FOREIGN_WEIGHT and latin > MAX_LATIN_SHARE * total
    )


def script_weights(text: str) -> dict[str, int]:
    """The weight of each writing system in a text, the main one first among equals being Latin."""
    plain, rest = text.encode("ascii", "ignore"), _weights(_beyond_ascii(text))
    return rest | {"latin": len(plain) - len(plain.translate(None, _ASCII_LETTERS)) + rest["latin"]}


def _weights_beside_latin(text: str) -> dict[str, int]:
    found = _weights(text)
    del found["latin"]
    return found


def _weights(text: str) -> dict[str, int]:
    """Each writing system's weight in a text without ASCII."""
    units = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
    counts = np.bincount(_systems().take(units), minlength=len(_SCRIPTS) + 1)[1:].tolist()
    return {name: n * (DENSE_WEIGHT if name in _DENSE else 1) for name, n in zip(_SCRIPTS, counts, strict=True)}


@cache
def _systems() -> NDArray[np.uint8]:
    """The writing system of each 16-bit character, counted from 1; 0 for none."""
    table = np.zeros(1 << 16, np.uint8)
    for number, characters in enumerate(_SCRIPTS.values(), 1):
        for match in re.finditer("(.)(?:-(.))?", characters):
            table[ord(match[1]) : ord(match[2] or match[1]) + 1] = number
    return table


def _beyond_ascii(text: str) -> str:
    """The characters of a text that are not ASCII, by C code throughout."""
    return text.encode("utf-8", "surrogatepass").translate(None, _ASCII).decode("utf-8", "surrogatepass")


def _foreign(weights: dict[str, int]) -> tuple[str, int]:
    """The main writing system, and the weight of all others."""
    main = max(weights, key=lambda name: weights[name])
    return main, sum(weights.values()) - weights[main]


def prose(text: str) -> str:
    """A text without code blocks, formulas, quotations and addresses."""
    return _NO_PROSE.sub(" ", "\n".join(text.split("```")[::2]))
