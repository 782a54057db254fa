"""What a response says of its options: a grammar of statements over classes of words.

Each list of letters (`lists`) is looked at with the words before and after it, one character of `words.CLASSES` a word:

    The correct option is not B, since ...      before "faocx"   after ","    denied
    Option C must be the right one.             before "o"       after "dcfaf"  stated

    claim     strength   example
    tag       3          <answer>C</answer>
    colon     3          **Answer:** C        {"answer": "C"}       答案：C
    boxed     3          \\boxed{\\text{C}}
    text      3          The answer is pure water.            where that is the text of option C
    is        3          The correct option must be (C)       La respuesta correcta es la C
    correct   3          C is the correct answer, C正确
    right     2          C is true.           Both A and C are right
    also      2          ... C is also right.   It could also be C        beside another option
    choose    2          I choose C           So it is C           Therefore, (C)       故选C
    line      1          C) Ohm's law         as the first or the last line, where no other line has a label
    bracket   1          ... c) or C) in the end              a letter and ")" with no capital after it
    last      1          ... in the end C                     a letter that ends the text
    stop      1          It was C. Checked twice.             a letter and a full stop, in the last sentence with one

What denies ("not B", "B is wrong", "rule out B", "rather than B") or supposes ("if it is B") states nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

from h1r.verify.choice.lists import BOX, TAG, TEXT, Letters, labelled_lines, letter_lists
from h1r.verify.choice.words import CLASSES, TOKEN

_BEFORE_CHARS, _AFTER_CHARS, _TOKENS = 140, 90, 16

_SHORT = 120
"""Characters of an answer whose one small letter is its option."""

_ELIMINATED = re.compile(r"e[fno]{0,5}\Z|y[fo]{0,3}\Z")
_DENIED = re.compile(
    r"w[^,.?/L]{0,4}v[fo]{0,3}\Z|wf?nc[fo]{0,3}\Z|[xs][by][fo]*\Z|x[focditvn]{0,6}\Z|(?<![xz])(?<![xz]f)u[fi]{1,4}c[fo]{0,3}\Z"
)
_NOT_BUT = re.compile(r"x[fo]*L(?:b|,b)[foci]*\Z")
_DENIED_OF = re.compile(r"x[^,.?/bkLu]{0,6}\Z")
_SUPPOSED = re.compile(r"q[^,.?/l]{0,14}\Z")
_BETWEEN = re.compile(r"m[fo]{0,3}\Z")
_COLON = re.compile(r"(?P<said>[noa][^.?/L]{0,8}?)[kj][fokal/n]{0,8}\Z")
_IS = re.compile(r"(?P<said>[no][^.?/Lx]{0,10}?)c(?:[focdlitk]|,(?:(?=l)|(?<=l,)))*+/{0,2}f*+\Z")
_RIGHT_IS = re.compile(r"(?:\A|[.,/l])(?P<said>f?a)c[fo]*\Z")
_HEADING = re.compile(r"(?:\A|/)f{0,4}a?(?P<said>n)f?/+[fo]*\Z")
_NAMED = re.compile(r"(?P<said>f?[af]n)[fo]?\Z")
_CHOOSE = re.compile(
    r"(?:v[fo]{0,3}k?[fo]{0,2}|i[dlf]{0,4}c[fodlta]{0,5}|l[,k]?[fo]{0,4}|l,?[fi]{0,2}[dc]{1,3}[fo]{0,4}|"
    r"(?:\A|[.,/])dc[fo]{0,3})\Z"
)
_STATING = (_COLON, _IS, _HEADING, _CHOOSE)
_IS_WRONG = re.compile(
    r"[k,]?[fo]{0,2}(?:[cd]{0,3}[ft]{0,3}w|[cdfz]{0,3}x(?!f{0,3}w)[fltdc]{0,4}(?:[agnoc./,]|\Z)|[cd]{1,3}f{0,2}e)"
)
_NOT_ANOTHER = r"(?:b?y[fo]{0,3}L|,x[fo]{0,3}L,?)?"
_IS_ANSWER = re.compile(rf"{_NOT_ANOTHER}(?:[cd]{{1,3}}[fltd]{{0,5}}(?:(?:a[fo]?){{0,2}}n|ao)|[cd]{{0,2}}an)")
_IS_RIGHT = re.compile(rf",?{_NOT_ANOTHER}(?:[cd]{{1,3}}[fltdi]{{0,4}}|f?)a")
_ALSO_IS = re.compile(
    r"\s(?:is|are|(?:c|w)ould\sbe|may\sbe|might\sbe)\s(?:also|equally|just\sas)\s[a-z]{4,12}\W{0,3}(?:\Z|\n)"
)
_ALSO_BE = re.compile(r"\b(?:could|can|may|might)\s(?:also|equally|well)\s(?:be|work:)\s(?:option\s|choice\s)?\W?\Z")
_UNREAL = re.compile(r"\b(?:would|could|might)\s(?:then\s|only\s)?(?:be|have\sbeen)\s(?:option\s|choice\s)?\W?\Z")
_ENDS = re.compile(r"f{0,2}c?(?:[.,/]|\Z)")
_ASKED = re.compile(r"f{0,2}\?")

_OWNED = re.compile(r"[zj]\Z|z.{0,16}c[fd]{0,3}\Z")
_MARKED = {BOX: "boxed", TAG: "tag", TEXT: "text"}
_CLAUSE_ENDS = re.compile("[.?/]")
_AGAINST = re.compile("[xeyqmw]")
_CAPITAL = re.compile("[A-Z]")
_STOP = re.compile(r"\s{0,8}\.(?![A-Za-z0-9])")
_LABEL = re.compile(
    r"(?:^|\n)[ \t#>•-]{0,6}(?:\(([A-Za-z])\)|(?i:option|choice)\s\(?([A-Za-z])(?![A-Za-z])"
    r"|([A-Z])(?:[).:!。]|选项|[项項]|\s?[-–—,]\s|(?=[ \t]{0,4}(?:\n|\Z))|(?=\s(?:because|since)\s)))"
    r"|\A\s{0,4}([a-z])[).]{0,2}(?=\s{0,4}\Z)"
)
_SENTENCE = re.compile(r"[.!?。]\s|\n")


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement about a list of letters, or a denial of it. `open`: it names several to choose from."""

    letters: str
    stage: str
    strength: int
    start: int
    open: bool = False
    denied: bool = False


def claims(text: str, options: str) -> list[Claim]:
    """The statements and denials of a plain text (`text.plain`), in order."""
    lists = letter_lists(text, options)
    found = [claim for one in lists if (claim := _claim(text, one, options))]
    denied = {claim.start for claim in found if claim.denied}
    if not any(claim.strength == 3 and not claim.denied for claim in found):
        found += list(_weak(text, options, [one for one in lists if one.start not in denied]))
    return found


def _claim(text: str, one: Letters, options: str) -> Claim | None:
    before, after = _classes_before(text, one.start), _classes_after(text, one.end)
    asked = bool(_ASKED.match(after))
    ends_line = bool(_ENDS.match(after))

    def claim(stage: str, strength: int) -> Claim:
        return Claim(one.letters, stage, strength, one.start, is_open)

    is_open = one.open or bool(_BETWEEN.search(before))
    wrong = _IS_WRONG.match(after)
    if _ELIMINATED.search(before) or (_DENIED.search(before) and not _NOT_BUT.search(before)) or wrong:
        return Claim(one.letters, "denied", 3 if not wrong else 2, one.start, is_open, denied=True)
    if _SUPPOSED.search(before) and not one.mark:
        return None
    lead = text[max(0, one.start - 40) : one.start]
    if _UNREAL.search(lead) and after.lstrip(",").startswith("q"):
        return None
    if _ALSO_IS.match(text, one.end) or _ALSO_BE.search(lead):
        return claim("also", 2)
    if one.mark:
        return (
            claim({BOX: "boxed", TAG: "tag", TEXT: "text"}[one.mark], 3)
            if one.mark != TEXT or _states(before)
            else None
        )
    if one.compact and not (ends_line or one.mark):
        return None
    if one.lower and not (ends_line and (_COLON.search(before) or _IS.search(before) or before.endswith("o"))):
        return None
    if (match := _COLON.search(before) or _HEADING.search(before)) and not _denies(before, match):
        return _colon_claim(text, one, options, claim("colon", 3))
    if asked:
        return None
    for pattern in (_IS, _RIGHT_IS):
        if match := pattern.search(before):
            return None if _denies(before, match) else claim("is", 3)
    if _NOT_BUT.search(before):
        return claim("is", 3)
    if (match := _NAMED.search(before)) and ends_line and not _denies(before, match):
        return claim("is", 3)
    if _IS_ANSWER.match(after):
        return claim("correct", 3)
    if _IS_RIGHT.match(after):
        return claim("right", 2)
    if _CHOOSE.search(before):
        return claim("choose", 2)
    return None


def _colon_claim(text: str, one: Letters, options: str, claim: Claim) -> Claim | None:
    """What a colon announces may be several lines with labels: several options, or the list of all of them."""
    if "\n" not in text[max(0, one.start - 12) : one.start] or len(listed := labelled_lines(text, one.start)) < 2:
        return claim
    is_listing = (len(listed) > 3 and options.startswith(listed)) or listed == options
    return None if is_listing else dataclasses.replace(claim, letters=listed)


def _states(before: str) -> bool:
    """Whether the text of an option stands where an answer is stated, or is a line of its own."""
    return not before or before[-1] in "/." or any(pattern.search(before) for pattern in _STATING)


def _denies(before: str, match: re.Match[str]) -> bool:
    """Whether what leads to the answer denies it: "I do not think that the answer is B"."""
    return bool(_DENIED_OF.search(before[: match.start("said")] + match["said"].replace("n", "f").replace("o", "f")))


def _weak(text: str, options: str, lists: list[Letters]) -> Iterator[Claim]:
    """Letters that nothing announces, where the sentence holds no other."""
    is_short = len(text.strip()) <= _SHORT
    labels = [match for match in _LABEL.finditer(text) if match[match.lastindex or 1].upper() in options]
    labels = [match for match in labels if is_short or match[match.lastindex or 1].isupper()]  # (a) also counts parts
    if len({match[match.lastindex or 1].upper() for match in labels}) == 1:
        for match in (labels[0], labels[-1]):
            ends = text.find("\n", match.end())
            if not text[: match.start()].strip() or not text[ends if ends >= 0 else len(text) :].strip():
                one = next((one for one in lists if match.start() <= one.start <= match.end()), None)
                if one and not _said_against(text, one):
                    yield Claim(one.letters, "line", 1, one.start, one.open)
                    return
    last = next((one for one in reversed(lists) if not (one.lower or one.compact)), None)
    if last is None:
        return
    begin = max((match.end() for match in _SENTENCE.finditer(text, max(0, last.start - 400), last.start)), default=0)
    alone = {letter for one in lists if one.start >= begin for letter in one.letters} == set(last.letters)
    if not alone or _said_against(text, last):
        return
    rest = text[last.end :]
    if last.bracketed and not _CAPITAL.search(rest):
        yield Claim(last.letters, "bracket", 1, last.start, last.open)
    elif not rest.strip(" .)\n\t"):
        yield Claim(last.letters, "last", 1, last.start, last.open)
    elif _STOP.match(rest):
        yield Claim(last.letters, "stop", 1, last.start, last.open)


def _said_against(text: str, one: Letters) -> bool:
    """Whether a word before a letter in its clause denies or supposes it, or a word of another kind owns it."""
    before = _classes_before(text, one.start)
    clause = _CLAUSE_ENDS.split(before)[-1]
    is_owned = not one.bracketed and _OWNED.search(clause)
    return bool(is_owned or _AGAINST.search(clause)) or bool(_ASKED.match(_classes_after(text, one.end)))


def _classes_before(text: str, end: int) -> str:
    found = [_class(match[0]) for match in TOKEN.finditer(text, max(0, end - _BEFORE_CHARS), end)]
    return "".join(found[-_TOKENS:])


def _classes_after(text: str, start: int) -> str:
    found = [_class(match[0]) for match in TOKEN.finditer(text, start, start + _AFTER_CHARS)]
    return "".join(found[:_TOKENS])


def _class(token: str) -> str:
    if len(token) == 1 and "A" <= token <= "Z":
        return "L"
    return CLASSES.get(token.lower().replace("’", "'"), "z")
