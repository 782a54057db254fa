r"""Where a mathematical answer stands in a text that need not box it: a bare answer, or a whole response.

    1  the last \boxed{}                       4  the last formula between dollars or in a display
    2  what follows "####", "answer is", "A:"   5  the last number
    3  the whole text, when it is an answer; else what the last sentence concludes

The strict verifier takes 1 only. Every step is linear; 2, 4 and 5 look at the last TAIL characters.
"""

from __future__ import annotations

import re

from h1r.verify.math.names import names
from h1r.verify.math.read import read
from h1r.verify.math.types import Answer, Choice, Group, Opaque, Relation, Words
from h1r.verify.response.extract import last_boxed

TAIL = 3_000
MAX_BARE_CHARS = 400
MAX_STATED_CHARS = 200

_STATED = re.compile(
    r"####(?= ?[-$\\\d])|(?:^|\n)[ *]*A[ *]*:|\b[Aa]nswer[ *]*(?:(?:is\b)[ *]*:?|:|=)[ *]*|\bANSWER[ *]*:"
)
_BOUND = re.compile(r"(?:less|more|greater|larger|smaller|fewer|other) than\b|at (?:most|least)\b|between\b")
"""What makes of the number behind it another answer: "the answer is at most 5"."""
_DENIAL = re.compile(
    r"\banswer (?:(?:is|was|could|would|should|can) ?(?:definitely |certainly )?(?:not\b|n't\b|never\b)|can't\b)"
    r"(?: be\b)?|\bnot (?:true|the case) that\b"
)
_FINAL = re.compile(r"[Ff]inal [Aa]nswer is:?")
_BROKEN = re.compile(r"(?<!\$)\$[ \t]*\n[^$\n]*\n[ \t]*\$(?!\$)|\\\([ \t]*\n[^\n]*\n[ \t]*\\\)")
"""A formula between inline delimiters that stand on other lines: broken markup, of which nothing is taken."""
_LAST_LETTER = re.compile(r"(?:^|\s)\(?([A-J])[).*\s]*$")
_END = re.compile(r"\n|\.(?:\s|$)|<\|")
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$((?! )(?:\\\$|[^$\n])*?[^$\n \\]|(?= )(?:\\\$|[^$\n])+?)\$(?!\d)"
    r"|\\\[((?:(?!\\\[).)+?)\\\]|\\\(((?:(?!\\[()])[^\n])++)\\\)",
    re.DOTALL,
)
"""Dollars enclose a formula as in Markdown: not where a blank precedes the second one only, or a digit follows it."""
_CONNECTED = re.compile(r"\s*+(?:;|,\s*+(?:and|or)?+|and|or)\s*+")
_VERB = re.compile(r"\b(?:is|are|equals|be)\b[: *]*|(?<![<>\\!])= *")
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_SENTENCE_END = re.compile(r"\n|\.\s|[?!]\s|\.\$\$?\s|\$\$\s|\\\]\s")
_NUMBER = re.compile(r"(?<![\w.])-?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:[.,]\d+)?(?:/\d+)?(?: ?\\?%)?|-?\.\d+")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_PROSE = re.compile(r"[^\W\d_]{3,}")
_SMALL_WORD = re.compile(r"\b(?:so|is|it|we|as|by|my|he|be)\b", re.IGNORECASE)


def find_answer(text: str) -> str | None:
    """The answer of a response or the bare answer itself, as LaTeX; None when there is nothing to take."""
    tail = text[-TAIL:]
    if (boxed := last_boxed(text)) is not None:
        after = text[max(text.rfind(r"\boxed"), len(text) - TAIL) :]
        final = _FINAL.search(after)
        return (_stated(after[final.end() :]) if final else None) or boxed
    if r"\boxed" in text and len(text) > MAX_BARE_CHARS:
        return None  # a last box that does not close: nothing before it is the answer
    last = _SENTENCE_END.split(tail.rstrip(" .\n"))[-1]
    denial = _DENIAL.search(last)
    if denial and (denial[0].startswith("not") or not _VERB.search(last, denial.end())):
        return None
    for match in reversed(list(_STATED.finditer(tail))):
        if stated := _stated(tail[match.end() :]):
            return stated
    tail = _BROKEN.sub(" ", tail)
    return _bare(text) or _concluded(tail) or _last_formula(tail) or _last_number(tail)


def _concluded(tail: str) -> str | None:
    """What the last sentence gives in bold, after its last verb, or as its only number."""
    sentence = _SENTENCE_END.split(tail.rstrip(" .\n"))[-1]
    if _BOLD.search(sentence):
        return _stated(sentence)
    if not _NUMBER.search(sentence):
        return None
    if _VERB.search(sentence) and (stated := _stated(sentence)) and not isinstance(read(stated), Words):
        return stated
    formulas = list(_FORMULA.finditer(sentence))
    if formulas:
        return _content(formulas[-1])
    numbers = _NUMBER.findall(sentence)
    return str(numbers[0]) if len(numbers) == 1 else None


def _last_number(tail: str) -> str | None:
    """The last number; in a text without numbers the choice that it ends with, or the text itself when it is short."""
    numbers = _NUMBER.findall(tail)
    if numbers:
        return str(numbers[-1])
    if letter := _LAST_LETTER.search(tail):
        return letter[1]
    return tail.strip() if 0 < len(tail.strip()) <= MAX_BARE_CHARS else None


def _stated(rest: str) -> str | None:
    """What a sentence states as the answer: what it begins with, or what follows its last "is", "are" or "="."""
    rest = rest.lstrip(" :\n")[:MAX_STATED_CHARS]
    end = _END.search(rest)
    sentence = rest[: end.start() if end else len(rest)]
    if _BOUND.match(sentence) or _are_assignments(sentence):
        return sentence.strip(" *")
    if match := _FORMULA.match(rest):
        return _connected(rest, match)
    if bold := _BOLD.findall(sentence):
        sentence = bold[-1]
    verbs = list(_VERB.finditer(sentence))
    if verbs:
        if match := _FORMULA.match(rest, verbs[-1].end()):
            return _connected(rest, match)
        sentence = sentence[verbs[-1].end() :]
        if match := _FORMULA.search(sentence):
            return _connected(sentence, match)
    elif match := _FORMULA.search(sentence):
        return _connected(sentence, match)
    answer = sentence.strip(" *")
    kind = read(answer)
    if isinstance(kind, Opaque) or (isinstance(kind, Words) and _NUMBER.search(answer)):
        numbers = _NUMBER.findall(answer)
        return str(numbers[0]) if numbers else None
    return answer or None


def _are_assignments(sentence: str) -> bool:
    """Whether a sentence is nothing but values with their names: x = 3, y = 4."""
    kind = read(sentence.strip(" *")) if "=" in sentence and "$" not in sentence else None
    return isinstance(kind, Group) and names(kind.items) is not None and _is_read(kind)


def _connected(text: str, match: re.Match[str]) -> str:
    """The formula of a match and those that commas, "and" or "or" join to it."""
    formulas = [_content(match)]
    while (joint := _CONNECTED.match(text, match.end())) and (following := _FORMULA.match(text, joint.end())):
        formulas.append(_content(following))
        match = following
    return ", ".join(formulas)


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def _bare(text: str) -> str | None:
    """The text itself, when it reads as one answer: a formula, a list, a choice, or words without a number."""
    text = text.strip()
    if not text or len(text) > MAX_BARE_CHARS:
        return None
    if bold := _BOLD.fullmatch(text):
        text = bold[1].strip()
    kind = read(text)
    formula = _FORMULA.search(text)
    outside = _COMMAND.sub(" ", text if not formula else text[: formula.start()] + text[formula.end() :])
    if isinstance(kind, Choice):
        return text
    prose = len(_PROSE.findall(outside))
    if isinstance(kind, Words):
        return None if prose > (0 if formula or _NUMBER.search(text) else 6) else text
    if isinstance(kind, Opaque) and _SMALL_WORD.search(outside):
        return None  # "so 7"
    return text if prose == 0 or (prose <= 3 and _is_read(kind)) else None


def _is_read(kind: Answer) -> bool:
    """Whether every part of an answer was read: as words only where all of a list are words."""
    if isinstance(kind, Group):
        return all(map(_is_read, kind.items)) or all(isinstance(item, Words) for item in kind.items)
    if isinstance(kind, Relation):
        return all(map(_is_read, kind.sides[1:]))
    return not isinstance(kind, Opaque | Words)


def _last_formula(tail: str) -> str | None:
    """The last formula, with those before it that commas, "and" or "or" join to it."""
    matches = list(_FORMULA.finditer(tail))
    if not matches:
        return None
    first = len(matches) - 1
    while first and _CONNECTED.fullmatch(tail, matches[first - 1].end(), matches[first].start()):
        first -= 1
    return ", ".join(_content(match) for match in matches[first:])
