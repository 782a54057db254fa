"""The options of a question, and what a value by itself names of them: letters, or an option's text.

metadata["options"]   ["9 kJ", "18 kJ"], 4, {"A": "9 kJ", "B": "18 kJ"}, {"label": [...], "text": [...]},
                      "A) 9 kJ B) 18 kJ", or nothing: ten letters, A to J
reference             B, (b), B) 18 kJ, \\text{B}, 18 kJ; several as A, C; AC; A and C; ["A", "C"]
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from typing import Any

from h1r.mathematics.tiers import tier_one
from h1r.response.extract import last_boxed
from h1r.verify.choice.lists import letter_lists, list_at

DEFAULT_OPTIONS = 10
"""A to J, unless `problem.metadata["options"]` says otherwise."""
MAX_TEXT = 400
OPEN = "?"
"""Stands before letters of which an answer leaves open which it means: "?BD" is "B or D"."""

_LABEL = re.compile(r"\(?([A-Za-z])(?:\)[.:]?|[.:]|\s[-–—])\s{1,4}")
_COLUMN = re.compile(r"(?:^|[\s,;|])\(?([A-Z])[).:]\s?")
_LEAD = re.compile(
    r"(?:(?:the|my)\s)?(?:(?:correct|right|final|best)\s)?(?:answers?|options?|choices?|letters?)(?:\s(?:is|are))?"
    r"\s{0,4}:?\s{0,4}|(?:选项|選項|正确答案|答案|选)[:是为]?\s{0,4}",
    re.IGNORECASE,
)
_AFTER = re.compile(r"\s{0,4}(?:\Z|[).:,;]|[-–—]\s|\()|\s{1,4}(?=[^\W\d_]{2}|[\d.]{1,20}+(?:\s|\Z))")
_IN_BRACKETS = re.compile(r"(?<!\S)\(([A-Z])\)\.?\Z")
_COMPACT = re.compile(r"[A-Z]{2,26}")
_LATEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf|textit|mbox|operatorname|left|right|displaystyle)(?![A-Za-z])\*?")
_SIGNS = re.compile(r"\\[,;:! ]|[\s${}~*`\"“”]|\\(?=[%$&#])")
_ARTICLE = re.compile(r"(?:the|an?)\s", re.IGNORECASE)
_FORMULA = re.compile(r"[\d\\^]")


@dataclass(frozen=True)
class Options:
    """The letters that a question has, and the texts behind them where they are known."""

    letters: str
    texts: tuple[str, ...] = ()
    _keys: dict[str, str] = field(default_factory=dict)

    def named(self, text: str) -> str | None:
        """The letter of the one option whose text this is, but for case, blanks, articles and typesetting."""
        if not self._keys or len(text) > MAX_TEXT:
            return None
        if (bare := text.strip(" ().")) in self.letters and len(bare) == 1:
            return bare  # a capital is an option's letter, also where the text of another is the small one
        return self._keys.get(_key(text)) or self._keys.get(_without_article(text))

    def equal(self, value: str) -> str | None:
        """The letter of the one option that equals a formula or a quantity, by the verifier of mathematics."""
        if not self.texts or len(value) > MAX_TEXT or not _FORMULA.search(value):
            return None
        texts = zip(self.letters, self.texts, strict=False)
        found = [letter for letter, text in texts if text and tier_one(text, value)]
        return found[0] if len(found) == 1 else None

    def value(self, text: str, latex: str | None = None) -> str | None:
        """The letters that a box, a tag or a reference names, `OPEN` before them where it leaves open which.

        `latex` is the same before its typesetting was removed.
        """
        text = text.strip()
        if named := self.named(text):
            return named
        lead = _LEAD.match(text)
        text = text[lead.end() :] if lead else text
        if lead and (named := self.named(text)):
            return named
        start = len(text) - len(text.lstrip(" \n\t\\([{'’"))
        first = text[start : start + 1]
        found = list_at(text, start, self.letters) if first.isascii() and first.isalpha() else None
        if found and (found.mark or _AFTER.match(text, found.end)) and self._lasts(text, found.end):
            return OPEN * found.open + found.letters
        compact = text.strip(" \n\t()[]{}.")
        if _COMPACT.fullmatch(compact) and len(set(compact)) == len(compact) and set(compact) <= set(self.letters):
            return compact
        last = _IN_BRACKETS.search(text[-6:].rstrip())
        if last and last[1] in self.letters:
            return last[1]
        return self.equal(text if latex is None else latex)

    def _lasts(self, text: str, end: int) -> bool:
        """Whether what follows a label names no second option: `A) 5, B) 6` is no choice."""
        return not any(one.bracketed for one in letter_lists(text[end : end + MAX_TEXT], self.letters))


def options_of(listed: Any) -> Options:
    """The options in any of the forms above; ten letters for what is none of them."""
    texts = _texts(listed)
    if texts is None:
        count = listed if isinstance(listed, int) and 2 <= listed <= 26 else DEFAULT_OPTIONS
        return Options(string.ascii_uppercase[:count])
    letters = string.ascii_uppercase[: len(texts)]
    keys: dict[str, str] = {}
    for letter, text in zip(letters, texts, strict=True):
        for key in {_key(text), _without_article(text)} - {""}:
            keys[key] = "" if key in keys and keys[key] != letter else letter
    exact = {_key(text): letter for letter, text in zip(letters, texts, strict=True) if text}
    if len(exact) == len([text for text in texts if text]):
        keys |= exact
    return Options(letters, tuple(texts), {key: letter for key, letter in keys.items() if letter and key})


def reference_of(answer: str, options: Options) -> frozenset[str] | None:
    """The letters of a reference; None where it names no option."""
    text = answer.strip()
    boxed = last_boxed(text)
    text = boxed if boxed else text
    bare = text.strip("()*. ").upper()
    if len(bare) == 1 and bare in options.letters:
        return frozenset(bare)
    for form in (
        text,
        _LATEX.sub("", text.replace("\\ ", " ")).replace("$", "").replace("{", " ").replace("}", " ").strip(" '\"*"),
    ):
        found = options.value(form.replace('"', " ").replace("'", " "), text)
        if found and not found.startswith(OPEN):
            return frozenset(found)
    return None


def _texts(listed: Any) -> list[str] | None:
    """The texts of the options in order, without the labels they may begin with; None where they are not known."""
    if isinstance(listed, dict):
        if isinstance(listed.get("text"), list):
            listed = listed["text"]
        elif list(listed) == list(string.ascii_uppercase[: len(listed)]):
            listed = list(listed.values())
    if isinstance(listed, str):
        pieces = _COLUMN.split(listed)
        letters = pieces[1::2]
        listed = pieces[2::2] if letters == list(string.ascii_uppercase[: len(letters)]) else None
    if not isinstance(listed, list) or not 2 <= len(listed) <= 26:
        return None
    texts = [str(option).strip() for option in listed]
    labels = [match[1].upper() if (match := _LABEL.match(text)) else "" for text in texts]
    if labels == list(string.ascii_uppercase[: len(texts)]):
        texts = [_LABEL.sub("", text, count=1) for text in texts]
    return [text.strip(" ,;|") for text in texts]


def _key(text: str) -> str:
    """A text as it is compared."""
    return _SIGNS.sub("", _LATEX.sub("", text)).casefold().strip(".,;:!()")


def _without_article(text: str) -> str:
    text = text.strip(" *\"'")
    article = _ARTICLE.match(text)
    return _key(text[article.end() :] if article else text)
