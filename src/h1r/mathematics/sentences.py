r"""What one sentence of a response states as the answer: "Hence 31 is the least prime above 30", "So x = 4, not 5".

A sentence states what it begins with ("31 is the ..."), or what follows its last verb or "=", up to the clause that
explains, compares or denies ("..., since 3 + 4 = 7", "..., not 72"). A conclusion ("So James has 12 left") states its
only number. What gives up, asks, supposes, denies or was cut off states nothing: no number is taken out of it.
"""

from __future__ import annotations

import re

from h1r.mathematics.closings import (
    CLOCK,
    CONVERGES,
    EXTREME,
    GIVEN,
    LEFT_OVER,
    NOTHING,
    POINT,
    RATIO,
    SAID_TO_BE,
    WORD_BEHIND,
    YES_OR_NO,
)
from h1r.mathematics.cues import (
    ADVERB,
    BEGINS,
    BOUND,
    CHOSEN,
    CLAUSE,
    COMPARED,
    CONCLUDES,
    CONNECTED,
    COUNTED,
    COUNTS_NO_MORE,
    DANGLING,
    DENIAL,
    DENIED,
    END,
    GIVES_UP,
    HAS,
    HEDGE,
    INSTEAD,
    LAST_LETTER,
    LEADS,
    NAMED,
    NOT_SAID,
    NOT_THE_ANSWER,
    PREDICATE,
    RELATED,
    SAYS,
    SENTENCE_END,
    SUBJECT,
    VERB,
    WEIGHED,
)
from h1r.mathematics.names import names
from h1r.mathematics.numerals import in_digits
from h1r.mathematics.read import read
from h1r.mathematics.types import Answer, Group, Opaque, Relation, Value, Words
from h1r.mathematics.unit_table import UNITS

MAX_STATED_CHARS = 200

FORMULA = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$((?! )(?:\\\$|[^$\n])*?[^$\n \\]|(?= )(?:\\\$|[^$\n])+?)\$(?!\d)"
    r"|\\\[((?:(?!\\\[).)+?)\\\]|\\\(((?:(?!\\[()])[^\n])++)\\\)",
    re.DOTALL,
)
"""Dollars enclose a formula as in Markdown: not where a blank precedes the second one only, or a digit follows it."""
NUMBER = re.compile(r"(?<![\w.])-?(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)(?:[.,]\d+)?(?:/\d+)?(?: ?\\?%)?|-?\.\d+")
BOLD = re.compile(r"\*\*([^*\n]+)\*\*")


def last_sentence(text: str) -> str:
    """The last sentence; of one that goes on without a stop, what its last conclusion begins."""
    sentence = SENTENCE_END.split(text.rstrip(" .\n"))[-1].strip()
    begins = [match.start() for match in BEGINS.finditer(sentence)]
    return sentence[begins[-1] :] if begins else sentence


def is_cut_off(text: str) -> bool:
    """Whether a text ends in the middle of a sentence or of a formula."""
    text = text.rstrip(" \n*")
    return DANGLING.search(text[-40:]) is not None or text.count(r"\[") > text.count(r"\]")


def denied(sentence: str) -> tuple[bool, str | None]:
    """Whether a sentence denies an answer, and what it puts in its place: not 40 but 44; it isn't 40, it's 44."""
    match = DENIAL.search(sentence)
    if match is None:
        return False, None
    if NOT_SAID.search(sentence):
        return True, None
    instead = INSTEAD.search(sentence, match.end()) if not match[0].startswith("not") else None
    if instead is None:
        return True, None
    rest = sentence[instead.end() :]
    return True, (None if DENIED.match(rest) else stated(rest))


def stated(rest: str) -> str | None:
    """What stands behind "the answer is": what it begins with, or what follows its last verb or "="."""
    rest = rest.lstrip(" :\n")[:MAX_STATED_CHARS]
    end = END.search(rest)
    sentence = rest[: end.start() if end else len(rest)]
    if BOUND.match(sentence) or _are_assignments(sentence):
        return sentence.strip(" *")
    if match := FORMULA.match(rest):
        return None if _is_hedged(rest[match.end() : len(sentence)]) else _connected(rest, match)
    core = _core(sentence)
    if core != sentence.strip(" *") and _is_answer(core):
        return core
    if bold := BOLD.findall(sentence):
        sentence = bold[-1]
    verbs = _verbs(sentence)
    if verbs and (counted := _counted(core)) and "=" not in sentence:
        return counted
    if verbs:
        if match := FORMULA.match(rest, verbs[-1].end()):
            return _connected(rest, match)
        sentence = sentence[verbs[-1].end() :]
        if BOUND.match(sentence):
            return sentence.strip(" *")
        if match := FORMULA.search(sentence):
            return _connected(sentence, match)
    elif match := FORMULA.search(sentence):
        return _connected(sentence, match)
    return _readable(sentence)


def _verbs(sentence: str) -> list[re.Match[str]]:
    """The verbs of a sentence, and its signs "=", but for those inside of formulas."""
    inside = [match.span() for match in FORMULA.finditer(sentence)]
    return [verb for verb in VERB.finditer(sentence) if not any(start <= verb.start() < end for start, end in inside)]


def is_related(sentence: str, found: str) -> bool:
    """Whether what stands beside the last place of a value in a sentence makes of it no answer: it is over 5."""
    place = sentence.rfind(found)
    if place < 0 or not found:
        return False
    return (
        RELATED.search(sentence, max(0, place - 60), place) is not None
        or PREDICATE.match(sentence, place + len(found)) is not None
    )


def _readable(sentence: str) -> str | None:
    """What is left of a sentence, without the clauses behind the answer; a number only with what it counts."""
    answer = sentence.strip(" *")
    kind = read(answer)
    if not (isinstance(kind, Opaque) or (isinstance(kind, Words) and NUMBER.search(answer))):
        return answer or None
    core = _core(sentence)
    if _is_answer(core):
        return core
    return _counted(core) or _only_number(sentence) or answer or None


def _only_number(sentence: str) -> str | None:
    """The number of a whole sentence that is given as the answer: Shandy drove 230 miles farther than Matteo."""
    if (
        not SAYS.search(sentence)
        or HAS.search(sentence)
        or DENIED.search(sentence)
        or HEDGE.search(sentence)
        or GIVES_UP.search(sentence)
    ):
        return None
    sentence = _without_clause(sentence)
    numbers = list(NUMBER.finditer(sentence))
    is_plain = len(numbers) == 1 and not COMPARED.search(sentence, 0, numbers[0].start())
    return numbers[0][0] if is_plain else None


def _core(sentence: str) -> str:
    """A sentence without adverbs before the answer, and up to the clause that explains it."""
    lead = ADVERB.match(sentence)
    rest = sentence[lead.end() :] if lead else sentence
    clause = CLAUSE.search(rest)
    return (rest[: clause.start()] if clause and clause.start() else rest).strip(" *,;:")


def _counted(text: str) -> str | None:
    """The number at the beginning of a text, where the rest only says what it counts: 17 apples that are left."""
    text = text.lstrip("$€£ \\")
    match = NUMBER.match(text)
    if match is None or not COUNTED.match(text, match.end()):
        return None
    rest = text[match.end() :]
    if PREDICATE.match(rest):
        return None
    return None if COUNTS_NO_MORE.search(rest) or DENIED.search(rest) or HEDGE.search(rest) else match[0]


def _is_hedged(rest: str) -> bool:
    return HEDGE.search(rest) is not None and not re.match(r"[ ,;]*but not\b", rest)


def _is_answer(text: str) -> bool:
    """Whether a text reads as one answer, and weighs no other."""
    kind = read(text)
    return bool(text) and is_read(kind) and not (NUMBER.search(text) and isinstance(kind, Words))


def concluded(sentence: str, is_ended: bool = False) -> str | None:
    """What the last sentence of a response states; None where it gives up, supposes, denies, or was cut off.

    `is_ended`: a full stop stood behind it.
    """
    if (not is_ended and is_cut_off(sentence)) or NOT_SAID.search(sentence):
        return None
    is_denied, instead = denied(sentence)
    if is_denied:
        return instead
    if bold := BOLD.findall(sentence):
        return stated(sentence) if not GIVES_UP.search(sentence) or NUMBER.search(bold[-1]) else None
    if GIVES_UP.search(sentence) or HAS.search(sentence):
        return None
    if not NUMBER.search(sentence) and not FORMULA.search(sentence):
        if said := _said(sentence):
            return said
        sentence = in_digits(sentence)
    if (extreme := EXTREME.search(sentence)) and NUMBER.search(sentence, extreme.start(), extreme.start("place")):
        sentence = sentence[: extreme.start("place")]
    if ratio := RATIO.search(sentence):
        return f"{ratio[1]}:{ratio[2]}"
    if one := CLOCK.search(sentence) or POINT.search(sentence):
        return one[1]
    if subject := _subject(sentence):
        return subject
    if named := NAMED.match(sentence):
        return _counted(sentence[named.end() :]) or _first_number(sentence[named.end() :])
    letter = LAST_LETTER.search(sentence)
    if letter and CHOSEN.search(sentence[: letter.start(1)]):
        return letter[1]
    if letter or DENIED.search(_without_clause(sentence)):
        return None
    formulas = list(FORMULA.finditer(sentence))
    if not formulas and not NUMBER.search(sentence):
        found = stated(sentence) if CONCLUDES.match(sentence) and VERB.search(sentence) else None
        return found if found and isinstance(kind := read(found), Value) and kind.node[0] != "var" else None
    if VERB.search(sentence) and (found := stated(sentence)) and _is_answer(found):
        return found
    if formulas:
        return None if PREDICATE.match(sentence, formulas[-1].end()) else _content(formulas[-1])
    if not CONCLUDES.match(sentence) and (not LEFT_OVER.search(sentence) or GIVEN.search(sentence)):
        return None
    sentence = _without_clause(sentence)
    numbers = list(NUMBER.finditer(sentence))
    if len(numbers) != 1 or WEIGHED.search(sentence, 0, numbers[0].start()):
        return None
    return None if PREDICATE.match(sentence, numbers[0].end()) else numbers[0][0] + _unit_behind(sentence, numbers[0])


def _unit_behind(sentence: str, number: re.Match[str]) -> str:
    """The known unit behind a number, with a blank: 75 cents."""
    word = WORD_BEHIND.match(sentence, number.end())
    known = word is not None and word[1].lower().removesuffix("s") in UNITS and len(word[1]) > 2
    return f" {word[1]}" if word and known else ""


def _said(sentence: str) -> str | None:
    """What a sentence without numbers and formulas says, in words."""
    if DENIED.search(sentence) or HEDGE.search(sentence):
        return (nothing := NOTHING.search(sentence)) and nothing[1]
    found = YES_OR_NO.search(sentence) or NOTHING.search(sentence) or CONVERGES.search(sentence)
    if found is None:
        found = SAID_TO_BE.search(sentence)
    return found[1] if found else None


def numbers_of_conclusion(sentence: str) -> list[str]:
    """The numbers of a sentence that concludes, of which a computation before it may tell the right one."""
    if not CONCLUDES.match(sentence) or is_cut_off(sentence) or GIVES_UP.search(sentence) or DENIED.search(sentence):
        return []
    return [str(number) for number in NUMBER.findall(sentence)]


def _without_clause(sentence: str) -> str:
    """A sentence up to the first clause behind a number."""
    number = NUMBER.search(sentence)
    clause = CLAUSE.search(sentence, number.end()) if number else None
    return sentence[: clause.start()] if clause else sentence


def _first_number(text: str) -> str | None:
    numbers = NUMBER.findall(text)
    return str(numbers[0]) if len(numbers) == 1 else None


def _subject(sentence: str) -> str | None:
    """The value of which a sentence says that it is what was asked: 31 is the least prime above 30."""
    lead = LEADS.match(sentence)
    start = lead.end() if lead else 0
    value = FORMULA.match(sentence, start) or NUMBER.match(sentence, start)
    if value is None:
        return None
    verb = SUBJECT.match(sentence[value.end() :].lstrip())
    behind = sentence[value.end() :]
    if verb is None or NOT_THE_ANSWER.search(behind) or DENIED.search(_without_clause(behind)):
        return None
    return _content(value) if value.re is FORMULA else value[0]


def _are_assignments(sentence: str) -> bool:
    """Whether a sentence is nothing but values with their names: x = 3, y = 4."""
    kind = read(sentence.strip(" *")) if "=" in sentence and "$" not in sentence else None
    return isinstance(kind, Group) and names(kind.items) is not None and is_read(kind)


def _connected(text: str, match: re.Match[str]) -> str:
    """The formula of a match and those that commas, "and" or "or" join to it."""
    formulas = [_content(match)]
    while (joint := CONNECTED.match(text, match.end())) and (following := FORMULA.match(text, joint.end())):
        formulas.append(_content(following))
        match = following
    return ", ".join(formulas)


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def is_read(kind: Answer) -> bool:
    """Whether every part of an answer was read: as words only where all of a list are words."""
    if isinstance(kind, Group):
        return all(map(is_read, kind.items)) or all(isinstance(item, Words) for item in kind.items)
    if isinstance(kind, Relation):
        return all(map(is_read, kind.sides[1:]))
    return not isinstance(kind, Opaque | Words)


def last_formulas(tail: str) -> tuple[str, int, int] | None:
    """The last formula, with those that commas, "and" or "or" join to it; where it starts and where it ends."""
    matches = list(FORMULA.finditer(tail))
    if not matches:
        return None
    first = len(matches) - 1
    while first and CONNECTED.fullmatch(tail, matches[first - 1].end(), matches[first].start()):
        first -= 1
    return ", ".join(_content(match) for match in matches[first:]), matches[first].start(), matches[-1].end()


def suppose(sentence: str) -> bool:
    """Whether a sentence starts, supposes, asks or gives up."""
    return GIVES_UP.search(sentence) is not None
