r"""Sentences around and in place of an answer: what leads in ("The least value is"), and how to say that there is none.

Both are whitelists. A lead-in ends in a verb or a colon and denies, weakens or conditions nothing ("The value is not",
"A possible value is", "If n is even, the value is"); a "no solution" has only words of the tables below, so that "no
other solution" and "no unique solution" stay what they say.
"""

from __future__ import annotations

import re

from h1r.mathematics.parse import WORD_CLOSE, WORD_OPEN

NONE = ("no", "solution")
"""How every way to say that there is none is read."""
_NONE_AS_IT_STANDS = frozenset(
    tuple(phrase.split())
    for phrase in (
        *("none", "none exist", "none exists", "dne", "d n e", "nonexistent", "non existent", "empty set", "null set"),
        *("empty", "set is empty", "solution set is empty", "impossible", "not possible", "it is impossible"),
        *("it is not possible", "this is impossible", "inconsistent", "system is inconsistent", "unsolvable"),
    )
)
_OPENING = frozenset(
    ("there", "is", "are", "exist", "exists", "has", "have", "equation", "system", "it", "we", "problem")
)
_KINDS = frozenset(
    ("real", "integer", "integral", "valid", "possible", "such", "rational", "natural", "whole", "suitable", "feasible")
)
_SIGNED = frozenset(("positive", "nonnegative"))
_THINGS = frozenset(
    f"{name}{end}"
    for name in (
        *("solution", "root", "value", "answer", "number", "integer", "pair", "triple", "function", "polynomial"),
        *("real", "triangle", "point", "sequence", "set", "prime", "limit", "zero"),
    )
    for end in ("", "s")
)
_NUMBERS = frozenset(("integer", "integers", "number", "numbers", "real", "reals", "value", "values"))
_TAIL = frozenset(
    (
        *(
            "exist",
            "exists",
            "for",
            "of",
            "in",
            "to",
            "over",
            "this",
            "that",
            "which",
            "equation",
            "system",
            "inequality",
        ),
        *(
            "problem",
            "reals",
            "real",
            "numbers",
            "at",
            "all",
            "satisfy",
            "satisfies",
            "satisfying",
            "given",
            "conditions",
        ),
        *("condition", "can", "be", "found", "works", "work", "possible", "it", "the", "r"),
    )
)
_DOES_NOT_EXIST = frozenset(
    (("does", "not", "exist"), ("do", "not", "exist"), ("doesn't", "exist"), ("don't", "exist"))
)
_NO_COMMA = re.compile(r"\bno *,", re.IGNORECASE)


def is_none(words: tuple[str, ...], text: str) -> bool:
    """Whether words (lower case, without articles) say that there is no answer; `text` is what they were read from."""
    if words in _NONE_AS_IT_STANDS:
        return True
    for ending in _DOES_NOT_EXIST:
        if words[-len(ending) :] == ending:
            subject = words[: -len(ending)]
            return all(word in _THINGS | _KINDS | {"it"} or len(word) == 1 for word in subject)
    if words[:1] == ("there",) and words[1:4] in _DOES_NOT_EXIST:
        return all(word in _THINGS | _KINDS or len(word) == 1 for word in words[4:])
    if "no" not in words or _NO_COMMA.search(text):
        return False
    place = words.index("no")
    before, after = words[:place], words[place + 1 :]
    kinds = 0
    while kinds < len(after) and (after[kinds] in _KINDS or after[kinds] in _SIGNED):
        kinds += 1
    noun = after[kinds] if kinds < len(after) else ""
    if kinds and noun not in _THINGS and after[kinds - 1] in _THINGS:
        kinds, noun = kinds - 1, after[kinds - 1]
    if not (noun in _THINGS or (len(noun) == 1 and kinds)) or not _OPENING.issuperset(before):
        return False
    if not _SIGNED.isdisjoint(after[:kinds]) and noun not in _NUMBERS:
        return False
    return all(word in _TAIL or word in _THINGS or len(word) == 1 for word in after[kinds + 1 :])


_WORDS = re.compile(rf"[{WORD_OPEN}{WORD_CLOSE}]|[A-Za-z']++|[ ,]++|:(?!=)|.", re.DOTALL)
_VERBS = frozenset(("is", "are", "equals", "be", "equal", "becomes", "was", "were"))
_LEADS = frozenset(("answer", "answers", "ans", "solution", "solutions", "result", "therefore", "thus", "hence", "so"))
_FILLERS = frozenset(
    (
        *("exactly", "about", "approximately", "just", "simply", "only", "equal", "to", "therefore"),
        *("thus", "hence", "then", "the", "number", "set", "interval", "function", "point", "pair", "ordered", "value"),
        *("of", "a", "an", "triple", "indeed", "also", "clearly", "obviously", "now", "precisely", "total"),
    )
)
_WEAKENED = frozenset(
    (
        *("not", "no", "never", "neither", "nor", "none", "cannot", "without", "except", "wrong", "incorrect", "false"),
        *("if", "unless", "when", "or", "either", "might", "may", "could", "can", "possible", "possibly", "perhaps"),
        *("maybe", "probably", "likely", "some", "one", "suppose", "let", "assume", "guess", "estimate", "example"),
        *("instance", "including", "but", "than", "every", "each", "any", "half", "twice", "what", "which", "whether"),
        *("isn't", "aren't", "can't", "wasn't", "won't", "doesn't", "don't", "hardly", "almost", "nearly", "yet"),
    )
)
_CLOSING = re.compile(
    rf"(?<![ {WORD_OPEN}])[ {WORD_OPEN}]*+"
    rf"\b(?:is (?:the|our|my) (?:final |correct |right )?answer|is the (?:only )?solution|is correct"
    rf"|as (?:desired|required|claimed))[ .!{WORD_CLOSE}]*+\Z"
)
_NUMBER_FIRST = re.compile(r" *(?:-?\d[\d,]*(?:\.\d+)?)(?= +[A-Za-z])")
MAX_LEAD_CHARS = 200


def without_lead_in(text: str) -> str | None:
    r"""What a cleaned text states behind its lead-in (The least value is 36; Answer: x = 5); None without one."""
    if match := _CLOSING.search(text):
        rest = text[: match.start()]
        return rest + (WORD_CLOSE if _is_open(rest) else "")
    words: list[str] = []
    end = verbs = 0
    trailing = True  # only fillers stand behind the last verb or colon
    for match in _WORDS.finditer(text, 0, MAX_LEAD_CHARS):
        token = match[0]
        if token in (WORD_OPEN, WORD_CLOSE):
            continue
        if token == ":":
            if not words:
                return None
            end, trailing = match.end(), True
        elif token[0].isalpha():
            lower = token.casefold()
            if lower in _WEAKENED:
                return None
            words.append(lower)
            if lower in _VERBS:
                verbs += lower != "equal"
                end, trailing = match.end(), True
            elif trailing and end and lower in _FILLERS:
                end = match.end()
            else:
                trailing = False
        elif token[0] not in " ,":
            break
    if not end or verbs > 1 or len(words[0]) < 2:
        return None
    rest = text[end:].lstrip(f" ,:{WORD_CLOSE}")
    if not rest.strip(f" {WORD_OPEN}{WORD_CLOSE}"):
        return None
    if _is_open(text[: len(text) - len(rest)]):  # what it opened ends in the rest
        number = _NUMBER_FIRST.match(rest)
        place = number.end() if number else 0
        inside = rest[place : rest.find(WORD_CLOSE)]
        mark = WORD_OPEN if any(map(str.isalpha, inside)) else ""
        rest = f"{rest[:place]}{mark}{rest[place:]}" if mark else rest.replace(WORD_CLOSE, "", 1)
    plain = rest.replace(WORD_OPEN, "").replace(WORD_CLOSE, "")
    # Words alone may be the subject of a sentence ("the triangle is isosceles"), which says more than its last word.
    is_formula = any(not (sign.isalpha() or sign in " ,.'-") for sign in plain) or len(plain.strip()) == 1
    return rest if is_formula or words[0] in _LEADS or words[:2] == ["final", "answer"] else None


def _is_open(text: str) -> bool:
    return text.count(WORD_OPEN) > text.count(WORD_CLOSE)
