r"""Where a mathematical answer stands in a text that need not box it: a bare answer, or a whole response.

    1  the last <answer> tags or the last \boxed{}, whichever comes later
    2  what follows "####", "answer is", "A:"
    3  the whole text, when it is an answer; its first line, when an explanation follows
    4  what the last sentence concludes (`sentences`), or the formula that the text ends with

The strict verifier takes the box only. What none of these finds is no answer: no number is taken out of a text that
could not be read. Every step is linear; 2 and 4 look at the last TAIL characters.
"""

from __future__ import annotations

import re

from h1r.mathematics.compare import compare
from h1r.mathematics.cues import NAMED, SUPPOSED, TAKEN_BACK
from h1r.mathematics.read import read
from h1r.mathematics.sentences import (
    BOLD,
    FORMULA,
    NUMBER,
    concluded,
    denied,
    is_cut_off,
    is_read,
    is_related,
    last_formulas,
    last_sentence,
    numbers_of_conclusion,
    stated,
    suppose,
)
from h1r.mathematics.types import Choice, Relation, Words
from h1r.response.extract import last_boxed, stated_box
from h1r.response.withdrawn import is_withdrawn

TAIL = 3_000
MAX_BARE_CHARS = 400

_STATED = re.compile(
    r"####(?= ?[-$\\\d])|(?:^|\n)[ *]*A[ *]*:|\b[Aa]nswer[ *]*(?:(?:is|(?:will|should|must) be)\b[ *]*:?|:|=)[ *]*"
    r"|\bANSWER[ *]*:|\b[Aa]nswer\s++(?=\$|\\\(|\\\[)"
    r"|\bAns\b[ *]*[.:=]++ *|\b[Aa]nswer {1,3}[-–—] {1,3}(?=\S)"
    r"|(?:^|\n)[#* ]*+(?:[Cc]onclusion|[Ff]inal [Aa]nswer)[*:]*+\n+"
)
_FINAL = re.compile(r"[Ff]inal [Aa]nswer is:?")
_BROKEN = re.compile(r"(?<!\$)\$[ \t]*+\n[^$\n]*+\n[ \t]*+\$(?!\$)|\\\([ \t]*+\n[^\n]*+\n[ \t]*+\\\)")
"""A formula between inline delimiters that stand on other lines: broken markup, of which nothing is taken."""
_TAG = re.compile(r"<(/?)(?:final[_ ]?)?answer>", re.IGNORECASE)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_PROSE = re.compile(r"[^\W\d_]{3,}")
_SMALL_WORD = re.compile(r"\b(?:so|is|it|we|as|by|my|he|be)\b", re.IGNORECASE)
_HEADING = re.compile(r"#{1,6}\s++")
_EMPHASISED = re.compile(r"[*_`]([^*_`\n]+)[*_`]|```\w{0,10}\n([^`\n]+)\n```")
_NUMBERING = re.compile(r"\(?(?:\d{1,2}|[a-z])[.)]\s*\Z")
_WITHDRAWN = re.compile(
    r"\b(?:wait|actually|no,|correction|mistake|wrong|incorrect|instead|rather|not correct)\b", re.IGNORECASE
)
_EXPLAINED = re.compile(
    r"(?P<answer>\S[^\n]{0,80}?)(?:[.,;:]| [-–—]| \(|) {0,8}\n{0,3}"
    r"(?:because|since|explanation|reason(?:ing)?|why|justification)\b",
    re.IGNORECASE,
)


def find_answer(text: str) -> str | None:
    """The answer of a response or the bare answer itself, as LaTeX; None when there is nothing to take."""
    tags = list(_TAG.finditer(text))
    box_place = max(map(text.rfind, (r"\boxed", r"\fbox", r"\framebox")))
    if tags and (tags[-1].start() > box_place or not tags[-1][1]):
        return _tagged(text, tags)
    if last_boxed(text) is not None:
        if (boxed := stated_box(text)) is None:
            return _corrected(text[box_place:])
        final = _FINAL.search(text, max(box_place, len(text) - TAIL))
        return (stated(text[final.end() :]) if final else None) or boxed
    if r"\boxed" in text and len(text) > MAX_BARE_CHARS:
        return None  # a last box that does not close: nothing before it is the answer
    return _unboxed(text)


def _corrected(text: str) -> str | None:
    """What is stated behind a box that was taken back, if anything is."""
    found = list(_STATED.finditer(text[-TAIL:]))
    return stated(text[-TAIL:][found[-1].end() :]) if found else None


def _tagged(text: str, tags: list[re.Match[str]]) -> str | None:
    """What stands between the last pair of tags; None where it is not closed."""
    if not tags[-1][1] or len(tags) < 2 or tags[-2][1]:
        return None
    content = text[tags[-2].end() : tags[-1].start()].strip()
    if not content or is_withdrawn(text, tags[-2].start(), tags[-1].end()):
        return None
    return last_boxed(content) or _bare(content) or _unboxed(content) or content[:MAX_BARE_CHARS]


def _unboxed(text: str) -> str | None:
    text = text.partition("<|")[0]  # tokens of a chat, and another turn
    tail = text[-TAIL:]
    last = last_sentence(tail)
    is_denied, instead = denied(last)
    if is_denied:
        return instead
    for match in reversed(list(_STATED.finditer(tail))):
        if not match[0].startswith("\n") and SUPPOSED.search(tail, max(0, match.start() - 100), match.start()):
            return None
        if found := stated(tail[match.end() :]):
            return concluded(last, _is_ended(tail)) if _is_taken_back(tail, match.end()) else found
    if found := _explained(text) or _bare(text) or _first(text):
        is_sentence = isinstance(read(found), Words) and _is_ended(text)
        return (concluded(last, is_ended=True) or found) if is_sentence else found
    tail = _BROKEN.sub(" ", tail)
    last = last_sentence(tail)
    found = concluded(last, _is_ended(tail)) or _computed(tail)
    if found and is_related(last, found):
        return None
    return found or _whole(text)


def _bare(text: str) -> str | None:
    """The text itself, when it reads as one answer: a formula, a list, a choice, or words without a number."""
    text = _HEADING.sub("", text.strip(), count=1) if text.lstrip().startswith("#") else text.strip()
    if not text or len(text) > MAX_BARE_CHARS or text.startswith("#") or NAMED.match(text):
        return None
    if bold := BOLD.fullmatch(text) or _EMPHASISED.fullmatch(text):
        text = next(filter(None, bold.groups())).strip()
    kind = read(text)
    formula = FORMULA.search(text)
    outside = _COMMAND.sub(" ", text if not formula else text[: formula.start()] + text[formula.end() :])
    if isinstance(kind, Choice):
        return text
    prose = len(_PROSE.findall(outside))
    if isinstance(kind, Words):
        return None if prose > (0 if formula or NUMBER.search(text) else 6) else text
    if _SMALL_WORD.search(outside) or (formula and prose and formula.start()):
        return None  # a sentence: "so 7"
    if prose and (is_cut_off(text) or suppose(text)):
        return None
    return text if prose == 0 or (prose <= 3 and is_read(kind)) else None


def _first(text: str) -> str | None:
    """The first line, when it is an answer and only an explanation follows."""
    text = text.strip()
    first, _, rest = text.partition("\n")
    rest = rest.strip()
    if rest and not _NUMBERING.fullmatch(first) and (found := _bare(first)) and is_read(read(found)):
        last = _bare(rest.rpartition("\n")[2])
        is_repeated = last is None or not is_read(read(last)) or compare(read(last), read(found)) is True
        return found if is_repeated and not _WITHDRAWN.search(rest[:TAIL]) else None
    return None


def _is_taken_back(tail: str, start: int) -> bool:
    """Whether a sentence behind a stated answer takes it back, and has a number."""
    match = TAKEN_BACK.search(tail, start)
    return match is not None and NUMBER.search(tail, match.end()) is not None


def _explained(text: str) -> str | None:
    """What stands before "because" or "Explanation:", when it is an answer."""
    text = text.strip()
    match = _EXPLAINED.match(text)
    if match and (found := _bare(match["answer"])) and is_read(read(found)):
        return None if _WITHDRAWN.search(text[:TAIL]) else found
    return None


def _computed(tail: str) -> str | None:
    """The formula that a text ends with, or the number of its conclusion that the last formula computed."""
    found = last_formulas(tail)
    if found is None:
        return None
    formula, start, end = found
    behind = tail[end:].strip(" .\n$*}&")
    before = last_sentence(tail[:start])
    is_sentence = not any(sign in tail[end:].rstrip(" .\n") for sign in ".?!\n")
    if not behind or behind.startswith(r"\end"):
        return formula if not suppose(before) else None
    if is_sentence and not suppose(before) and not NUMBER.search(behind) and not is_cut_off(tail):
        return formula
    kind = read(formula)
    value = kind.sides[-1] if isinstance(kind, Relation) else kind
    for number in numbers_of_conclusion(last_sentence(tail)):
        if compare(value, read(number)) is True:
            return number
    return None


def _is_ended(text: str) -> bool:
    """Whether a text ends with a full stop, and not with three dots."""
    text = text.rstrip(" \n*")
    return text.endswith((".", "!")) and not text.endswith("...")


def _whole(text: str) -> str | None:
    """A short text that is no sentence, though it could not be read: it may be the same text as the reference."""
    text = text.strip()
    is_short = 0 < len(text) <= MAX_BARE_CHARS and "\n\n" not in text and not (is_cut_off(text) or suppose(text))
    return text if is_short and not (NUMBER.search(text) and _SMALL_WORD.search(text)) else None
