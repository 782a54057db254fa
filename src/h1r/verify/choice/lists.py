r"""Option letters in a text, alone and in lists, and what looks like one and is none.

B        (b)        B, D        B or D        A and C        [A, C]
not: A strong base (an article), I think (a pronoun), F = 30 N, A/2, \Delta E, F(x), 5 C, U.S.A., vitamin's B_6
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from h1r.verify.choice.words import AFTER_LETTER, AND, CLASSES, OR, SAID_OF_ONE, SUBORDINATE

BOX, END, TAG, TEXT = "\ue000", "\ue001", "\ue002", "\ue004"
"""Private characters: `text` puts one of these before, and END after, the letters of a box, a tag, an option's text."""
_MAX_STARTS = 100
_MAX_ITEMS = 26

_START = re.compile(
    r"(?<![A-Za-z0-9\u00b0-\u052f_\\^'’&@#%])(?<![A-Za-z]\.)(?<![A-Za-z0-9]-)"
    r"(?:[A-Z]{1,26}(?![A-Za-z0-9_^\u00b0-\u052f]|['’](?!d[iıuü]r)|-[A-Za-z0-9])"
    r"|[a-z](?=[.)}\]]{0,3}[ \t]{0,4}(?:\n|\Z))|(?<=\()[a-z](?=\)))"
)
_RUN = re.compile(r"[A-Z]{1,26}")
_OPENED = re.compile(r"[(\[{\ue000\ue002\ue004]{1,3}\s?\Z")
_CLOSED = re.compile(r"\s?[)\]}\ue001]{1,3}")
_UNIT_OF = re.compile(r"(?:\d\s?|[°º]\s?|\\[A-Za-z]{1,16}\s{0,2}|[+/^<>≈×·∝]\s?)\Z")
_APPLIED = re.compile(r"(?:\\[A-Za-z]{1,16}\s?|(?<![A-Za-z])[A-Za-z])\Z")
_QUANTITY = re.compile(
    r"\s{0,2}(?:[=≈≠<>≤≥×·∝*^]|[+/](?!\s?\(?[A-Z](?![A-Za-z0-9]))|:=|\\(?!ue)[A-Za-z]|\(-?[a-z0-9]{1,3}[,)])"
)
_NEXT_WORD = re.compile(r"[ \t]{1,4}([A-Za-z\u00c0-\u052f]{1,30})")
_NUMERALS = re.compile(r"\s?(?:,\s?|[&/]\s?|and\s|or\s){1,2}I[IV]")
_LATIN = re.compile(r"[a-z\u0080-\u052f]{1,12}|and/or")
_WORDS = "|".join(sorted(filter(_LATIN.fullmatch, AND | OR), key=len, reverse=True))
_SIGNS = "|".join(sorted((re.escape(w) for w in AND | OR if not _LATIN.fullmatch(w)), key=len, reverse=True))
_CONNECTOR = re.compile(
    rf"[.…):]{{0,3}}[ \t]{{0,4}}\n?[ \t]{{0,4}}\(?(?:({_SIGNS}|(?:{_WORDS})(?![A-Za-z]))\s{{0,4}})?"
    r"((?:(?:and|or|und|oder|et|ou|y|o|e|и|или|rather|possibly|maybe|perhaps|alternatively|else|otherwise|also|even|both|either|the|options?|choices?|"
    r"answer)(?![A-Za-z])\s{0,4}|[或和]){0,4})",
    re.IGNORECASE,
)
_ITEM = re.compile(
    r"[(\[{\ue000\ue002\ue004]{0,3}\s?([A-Za-z])(?![A-Za-z0-9_^'’\u00b0-\u052f]|-[A-Za-z0-9])\s?[)\]}\ue001]{0,3}"
)
_ITEM_LINE = re.compile(r"[.)]?[ \t]{0,4}\n[ \t]{0,4}[-•]?[ \t]{0,4}\(?([A-Za-z])[.)]{0,2}(?=[ \t]{0,4}(?:\n|\Z))")
_ITEM_ENDS = re.compile(r"\s{0,4}(?:\Z|[\n.,;:!?)\]}&/|、。\ue000-\ue004]|[^\x00-\x7f])")
_LINE_LABEL = re.compile(r"[ \t]{0,4}[-•]?[ \t]{0,4}\(?([A-Z])[).:][ \t)]")
_NEXT_LABEL = re.compile(r"[\s(]([A-Z])\)")
_JOINS = re.compile(r"(?:[,;&]|\s(?:and|or))\s{1,2}(?:(?:and|or|option|possibly|maybe)\s){0,2}\(?\Z", re.IGNORECASE)
_LEFT_OPEN = re.compile(r"\s(?:or|possibly|maybe)\s", re.IGNORECASE)
_LABEL_WINDOW = 100


@dataclass(frozen=True, slots=True)
class Letters:
    """A list of option letters and where it stands.

    `open`: "or" joins them, so which one is left open. `lower`: a small letter without brackets. `compact`: "AC".
    `mark`: BOX, TAG or TEXT where it is one.
    """

    start: int
    end: int
    letters: str
    open: bool = False
    bracketed: bool = False
    lower: bool = False
    compact: bool = False
    mark: str = ""

    @property
    def single(self) -> str | None:
        return self.letters if len(self.letters) == 1 else None


def letter_lists(text: str, options: str) -> list[Letters]:
    """The lists of a text in order; of very many the first and the last."""
    starts = [match.start() for match in _START.finditer(text)]
    if len(starts) > 2 * _MAX_STARTS:
        starts = starts[:_MAX_STARTS] + starts[-_MAX_STARTS:]
    found: list[Letters] = []
    for start in starts:
        if not found or start >= found[-1].end:
            one = list_at(text, start, options)
            if one is not None:
                found.append(one)
    return found


def list_at(text: str, start: int, options: str) -> Letters | None:
    """The list whose first letter stands at `start`; None where that is no option."""
    run = _RUN.match(text, start)
    letter = run[0] if run else text[start].upper()
    if not set(letter) <= set(options) or len(set(letter)) < len(letter):
        return None
    opened = _OPENED.search(text, max(0, start - 4), start)
    closed = _CLOSED.match(text, start + len(letter))
    bracketed = bool(closed)
    begin, end = opened.start() if opened else start, closed.end() if closed else start + len(letter)
    if (_APPLIED if opened else _UNIT_OF).search(text, max(0, begin - 20), begin):
        return None
    if len(letter) > 1:
        return Letters(begin, end, letter, compact=True)
    if not (opened and closed) and _QUANTITY.match(text, end):
        return None
    if not bracketed and letter in "AI" and _is_word(text, letter, end):
        return None
    mark = next((char for char in (opened[0] if opened else "") if char in (BOX, TAG, TEXT)), "")
    letters, is_open, lower = letter, False, text[start].islower() and not (opened and closed)
    for _ in range(_MAX_ITEMS):
        item = _next_item(text, end, options, lower)
        if item is None:
            break
        letters, is_open, end = letters + item[0], is_open or item[1], item[2]
    if bracketed:
        letters, is_open = _labelled(text, end, options, letters, is_open)
    return Letters(begin, end, "".join(dict.fromkeys(letters)), is_open, bracketed, lower, mark=mark)


def _labelled(text: str, end: int, options: str, letters: str, is_open: bool) -> tuple[str, bool]:
    """The letters of a list whose items have their texts, "B) 18 kJ or D) 36 kJ", and whether "or" joins them."""
    for _ in range(_MAX_ITEMS):
        other = _NEXT_LABEL.search(text, end, end + _LABEL_WINDOW)
        between = text[end : other.start(1)] if other else ""
        if other is None or other[1] not in options or not _JOINS.search(between[-40:]):
            break
        if any(sign in between for sign in ".!?;\n") or SUBORDINATE & set(between.lower().split()):
            break
        end = other.end()
        if _said_of_one(text, end):
            break
        letters, is_open = letters + other[1], is_open or bool(_LEFT_OPEN.search(between))
    return letters, is_open


def labelled_lines(text: str, start: int) -> str:
    """The letters of the lines from the one at `start` on that begin with a label and follow each other."""
    letters, line = "", text.rfind("\n", 0, start) + 1
    for _ in range(_MAX_ITEMS):
        label = _LINE_LABEL.match(text, line)
        if label is None or label[1] in letters:
            break
        letters, line = letters + label[1], text.find("\n", line) + 1
        if line == 0:
            break
    return letters


def _next_item(text: str, end: int, options: str, lower: bool) -> tuple[str, bool, int] | None:
    """(letter, whether "or" joins it, its end) of the next item of a list, None where the list ends."""
    join, item = None, _ITEM_LINE.match(text, end)
    if item is None and (join := _CONNECTOR.match(text, end)):
        item = _ITEM.match(text, join.end())
    if item is None or item[1].upper() not in options:
        return None
    if item[1].islower() and not lower and ")" not in item[0]:
        return None
    words = f"{join[1] or ''} {join[2] or ''}".lower().split() if join else ["\n"]
    is_or = any(word in OR for word in words)
    is_word_joined = any(word in AND | OR and (word.isalpha() or word in ("&", "and/or")) for word in words)
    if "rather" in words or (join and not words and join[0].strip(" \t(")):
        return None
    if not is_word_joined and not _ITEM_ENDS.match(text, item.end()):
        return None
    if _QUANTITY.match(text, item.end()) or _said_of_one(text, item.end()):
        return None
    if item[1] in "AI" and not (is_or and is_word_joined) and _is_word(text, item[1], item.end()):
        return None
    return item[1].upper(), is_or, item.end()


def _is_word(text: str, letter: str, end: int) -> bool:
    """Whether A is the article, or I the pronoun (a word follows that says nothing of an option) or a numeral."""
    if letter == "I" and _NUMERALS.match(text, end):
        return True
    following = _NEXT_WORD.match(text, end)
    if following is None:
        return False
    word = following[1].lower()
    if len(word) == 1 and following[1].isupper():
        return False
    known = CLASSES.get(word, "z") in ("c" if letter == "I" else "cdxlb")
    return not known and word not in AFTER_LETTER


def _said_of_one(text: str, end: int) -> bool:
    """Whether something is said of this item alone, so that it is no part of the list: "B, and D is wrong"."""
    following = _NEXT_WORD.match(text, end)
    return following is not None and following[1].lower() in SAID_OF_ONE
