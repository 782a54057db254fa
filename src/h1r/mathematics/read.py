"""The answer that a LaTeX or plain text states, by its type.

`read` never raises and takes time linear in the text (quadratic in the nesting, which `text.refusal` bounds).
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from functools import lru_cache

from h1r.mathematics.clean import OVER_REALS, clean
from h1r.mathematics.digits import COMMAS_IN_NUMBERS, DECIMALS, SPACED_NUMBER, repeating, without_thousands, written
from h1r.mathematics.layouts import cases, determinant_rows, matrix_sum, system
from h1r.mathematics.names import is_quantity, labelled_parts, names
from h1r.mathematics.notations import plainer
from h1r.mathematics.numerals import number_in_words
from h1r.mathematics.parse import WORD_CLOSE, WORD_OPEN, UnreadableError, parse, variables
from h1r.mathematics.phrases import NONE, without_lead_in
from h1r.mathematics.prose import LETTERS, MARKS, RUN, read_words, words_of
from h1r.mathematics.quantities import compound
from h1r.mathematics.text import MAX_LIST_ITEMS, bracketed, refusal, split_top, split_with, squeeze
from h1r.mathematics.types import (
    Answer,
    Based,
    Choice,
    Group,
    Matrix,
    Opaque,
    Ratio,
    Relation,
    Union,
    Value,
    Words,
)
from h1r.mathematics.units import AFTER_UNIT, DEGREE, NO_UNIT, NO_WORD, split_unit
from h1r.mathematics.value import same_value
from h1r.mathematics.vectors import components, determinant

REALS = r"\mathbb{R}"
_MAX_RECURSION = 5
_CHOICE = re.compile(
    rf"[{WORD_OPEN} ]*\([{WORD_OPEN} ]*([A-Z])[{WORD_CLOSE} ]*\)[{WORD_CLOSE} ]*(.*)"
    rf"|{WORD_OPEN}?([A-J])[.):]{WORD_CLOSE}?(?: (.*)|$)|([A-J]) ([A-Z][a-z]+(?: .*)?)",
    re.DOTALL,
)
_COORDINATE = re.compile(r"\\?[A-Za-z]+(_\{?\w+\}?)?")
_MEMBER = re.compile(rf"\(?{_COORDINATE.pattern}(?: ?\([a-z]\))?(?: ?, ?{_COORDINATE.pattern})*\)?")
"""What is in a set: a name, a value of a function, or some names."""
_BASED = re.compile(r"(-?[0-9A-F]+(?:\.[0-9A-F]+)?) ?_ ?(?:\{ ?\(?(\d\d?)\)? ?\}|(\d\d?))")
_SIGN = r"\\(?:le|ge|ne|approx|in)(?![A-Za-z])|<=|>=|!=|==|<|>|="
_HAS_SIGN = re.compile(r"[<>=]|\\(?:le|ge|ne|approx|in)(?![A-Za-z])")
_SIGNS = {r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\approx": "=", "==": "=", "=>": ">=", "=<": "<="}
_FLIPPED = {">": "<", ">=": "<="}
_JOIN = (
    rf",? ?{WORD_OPEN} ?,?;? ?(?:and|or|AND|OR) ?{WORD_CLOSE} ?,?|[,;]? (?:and|or) |(?<=[\d)}}\]])(?:and|or)(?![a-z])"
    rf"|,? ?{WORD_OPEN}[,; ]+{WORD_CLOSE}|[;,]"
)
_ALL_REALS = frozenset((("all", "real", "numbers"), ("all", "reals"), ("real", "numbers"), ("all", "real")))
_SET_BUILDER = re.compile(r"\\?[A-Za-z](?:_\w)? ?(?:\\in ?(?:\\mathbb ?\{?R\}?|R) ?)?[|:] ?(.+)", re.DOTALL)
_OR = re.compile(r"or|OR|;")
_ALTERNATIVE = rf",? ?{WORD_OPEN} ?,?;? ?(?:or|OR) ?{WORD_CLOSE} ?,?|;|,? or "
"""What separates whole solutions, where each is a list of its own: p=5,q=2;p=7,q=2."""
_PROSE = re.compile(r"(?<![A-Za-z\\])(?=[a-z]*[aeiou])[a-z]{4,}")
_DIGITS_APART = re.compile(r"(?<![_\d])\d+ \d")
_MARKED = re.compile(f"{WORD_OPEN}[^{WORD_OPEN}{WORD_CLOSE}]*+{WORD_CLOSE}")
_ARITHMETIC = re.compile(r"(?:[\d.,+\-*/() ]|\\cdot|\\times|\\div)*")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_CLOCK = re.compile(r"\d:\d\d[ \ue000]*[aApP]\.? ?[mM](?![A-Za-z])")
_OTHER_CHOICE = re.compile(
    rf"(?<![A-Za-z\\])\([{WORD_OPEN} ]*[A-J][{WORD_CLOSE} ]*\)|(?:^|[ ,;{WORD_OPEN}])[A-J][.):]"
    rf"|\A(?:[{WORD_OPEN}{WORD_CLOSE} ,;/]|and|or)*[A-J]\Z"
)
"""A second choice behind the first; not the letters in what is said of it (D. it can't be A or B)."""
_ABOUT_OTHERS = re.compile(rf"[{WORD_OPEN} ]*(?:both|neither|all|none|only|either)\b", re.IGNORECASE)
_NO_CONTENT = re.compile(
    rf"[{WORD_OPEN}{WORD_CLOSE} ]*(?:(?:or|and|but|vs|unless)\b|\\(?:ne|to|in|cup|pm|rightarrow)(?![A-Za-z])|[+&|<>])"
)
_DENIAL = re.compile(rf"[{WORD_OPEN} ]*is[{WORD_OPEN}{WORD_CLOSE} ]+(?:not|wrong|false|incorrect)\b", re.IGNORECASE)
_BEFORE_NUMBER = frozenset(
    (
        *("about", "approximately", "exactly", "answer", "is", "are", "value", "total", "of", "number", "area"),
        *(
            "equals",
            "a",
            "an",
            "the",
            "both",
            "only",
            "just",
            "simply",
            "equal",
            "to",
            "therefore",
            "thus",
            "so",
            "hence",
        ),
    )
)
_ELLIPSIS = re.compile(r"\\[lcd]?dots|\.\.\.|…|\\vdots")
CASES = r"\cases"
_SIGN_IN_WORDS = re.compile(r"[ ]*+(minus|negative|positive|plus)\b", re.IGNORECASE)
_NUMBER_AND_UNIT_IN_WORDS = re.compile(r"([A-Za-z -]{1,80}?) {1,4}((?:(?:square|cubic|sq) )?[A-Za-z]{1,40}+)")
_EMPTY_SETS = frozenset((r"\emptyset", r"\{\}", "{}", r"\{ \}"))


@lru_cache(maxsize=8192)
def read(latex: str) -> Answer:
    """The answer that a LaTeX or plain text states."""
    if (number := written(latex)) is not None:
        return number
    if refusal(latex) is not None:
        return Opaque(latex, latex, readable=False)
    return _read(clean(latex), 0)


def _read(text: str, depth: int) -> Answer:
    flat = squeeze(text)
    if not flat or depth > _MAX_RECURSION:
        return Opaque(flat, text, readable=False)
    if flat in _EMPTY_SETS:
        return Group(flat, r"\{", (), r"\}")
    if (plain := plainer(text, text.translate(MARKS))) is not None:
        return dataclasses.replace(_read(plain, depth + 1), text=flat)
    if _ELLIPSIS.search(text):
        return Opaque(flat, text, readable=False)
    if text.startswith(("=", r"\approx")):
        return _read(text.removeprefix("=").removeprefix(r"\approx").strip(), depth + 1)
    if LETTERS.fullmatch(letters := text.translate(MARKS)):
        text = letters
    elif match := _CHOICE.fullmatch(text):
        return _choice(text, flat, match, depth)
    if (found := _in_words(text, flat, letters, depth)) is not None:
        return found
    if words := words_of(text):
        return _reals() if words in _ALL_REALS else Words(flat, words)
    if quantity := compound(text):
        return Value(flat, *quantity)
    if "," in text or SPACED_NUMBER.match(text):
        text = without_thousands(text)
    if r"\begin" in text:
        return _layout(text, flat, depth)
    if parts := labelled_parts(text):
        return Group(flat, "", tuple(_part(label, _read(part, depth + 1)) for label, part in parts), "")
    if "_" in text and (match := _BASED.fullmatch(text.translate(MARKS))):
        return _based(text, flat, match[1], int(match[2] or match[3]))
    if "," in text or ";" in text or "and" in text.lower() or "or" in text.lower():
        alternatives = [piece for piece in split_top(text, _ALTERNATIVE) if piece]
        if len(alternatives) > 1 and all(len(split_top(piece, ",")) > 1 and "=" in piece for piece in alternatives):
            return Group(flat, "", tuple(_read(piece, depth + 1) for piece in alternatives), "")
        pieces, joints = split_with(text, _JOIN)
        items = [piece for piece in pieces if piece]
        if len(items) > 1:
            return _group(flat, "", items, "", depth, either=any(map(_OR.search, joints)))
    if text.startswith(r"\{") and (group := bracketed(text)) and (match := _SET_BUILDER.fullmatch(group[1])):
        return _read(OVER_REALS.sub("", match[1]), depth + 1)
    pieces, signs = split_with(text, _SIGN) if _HAS_SIGN.search(text) else ([], [])
    if signs == ["="] and is_quantity(pieces[0]) and all(pieces):
        return _relation(text, flat, pieces, signs, depth)
    if r"\cup" in text or r"\setminus" in text or r"\backslash" in text or REALS in text:
        return _union(text, flat, depth)
    if signs:
        return _relation(text, flat, pieces, signs, depth)
    if (group := bracketed(text)) and (group[0] != "(" or len(split_top(group[1], "[,;]")) > 1):
        items = split_top(group[1], "[,;]")
        if len(items) > 1 or group[0] == r"\{":
            return _group(flat, group[0], items, group[2], depth)
    if r"\pm" in text or r"\mp" in text:
        return _both_signs(text, flat, depth)
    if ":" in text:
        return _ratio(text, flat)
    return _value(text, flat)


def _in_words(text: str, flat: str, letters: str, depth: int) -> Answer | None:
    """A number in words, one with its sign in words, or what stands behind a lead-in."""
    if not RUN.search(letters):
        return None
    if (number := number_in_words(letters)) is not None:
        return Value(flat, ("num", number))
    if match := _SIGN_IN_WORDS.match(letters):
        rest = text[match.end() + text.startswith(WORD_OPEN) :].lstrip(f" {WORD_CLOSE}")
        if rest[:1].isdigit() or rest.startswith((r"\frac", r"\sqrt", r"\pi", ".")):
            return _read(f"-{rest}" if match[1].lower() in ("minus", "negative") else rest, depth + 1)
    if match := _NUMBER_AND_UNIT_IN_WORDS.fullmatch(letters):
        number, (_, unit) = number_in_words(match[1]), split_unit(f"1 {WORD_OPEN}{match[2]}{WORD_CLOSE}")
        if number is not None and unit is not None and unit.known:
            return Value(flat, ("num", number), unit)
    stated = without_lead_in(text)
    if stated is None:
        return None
    answer = _read(stated, depth + 1)
    return None if isinstance(answer, Opaque) or (isinstance(answer, Words) and answer.words != NONE) else answer


def _part(label: str, answer: Answer) -> Answer:
    """An answer of several parts: named by the letter of its part."""
    return Relation(answer.text, (Words(label, (label,)), answer), ("=",))


def _layout(text: str, flat: str, depth: int) -> Answer:
    """A matrix, a determinant, a system, or values by cases."""
    if (rows := determinant_rows(text)) is not None:
        entries = [[_read(entry, depth + 1) for entry in row] for row in rows]
        nodes = [[entry.node for entry in row if isinstance(entry, Value) and not entry.unit] for row in entries]
        node = determinant(nodes) if [*map(len, nodes)] == [*map(len, entries)] else None
        return Opaque(flat, text) if node is None else Value(flat, node)
    if (relations := system(text)) is not None:
        return _group(flat, "", relations, "", depth)
    if (rows := matrix_sum(text)) is not None:
        return Matrix(flat, tuple(tuple(_read(entry, depth + 1) for entry in row) for row in rows))
    if (pairs := cases(text)) is not None:
        rows_by_case = (
            Group(flat, "(", (_read(value, depth + 1), _read(when, depth + 1)), ")") for value, when in pairs
        )
        return Group(flat, CASES, tuple(rows_by_case), CASES)
    return Opaque(flat, text)


def _choice(text: str, flat: str, match: re.Match[str], depth: int) -> Answer:
    """A choice with the text of it, if it is one: (A) 5, (B) 6 are two, and (A) or (B) is none."""
    letter, content = match[1] or match[3] or match[5], (match[2] or match[4] or match[6] or "").strip()
    if _DENIAL.match(content) or _NO_CONTENT.match(content):
        return Opaque(flat, text, readable=False)
    if not _OTHER_CHOICE.search(content) or len(content.translate(MARKS)) == 1 or _ABOUT_OTHERS.match(content):
        return Choice(flat, letter, content)
    pieces, joints = split_with(text, _JOIN)
    items = [piece for piece in pieces if piece]
    if len(items) < 2 or any(re.search("or|OR", joint) for joint in joints):
        return Opaque(flat, text, readable=False)
    return _group(flat, "", items, "", depth)


def _based(text: str, flat: str, digits: str, base: int) -> Answer:
    highest = max(int(digit, 16) for digit in digits if digit.isalnum())
    return Based(flat, digits, base) if highest < base <= 36 else Opaque(flat, text, readable=False)


def _value(text: str, flat: str) -> Answer:
    body, unit = split_unit(text)
    if unit == DEGREE and _TRIGONOMETRIC.search(body):  # there it belongs to the angle
        body, unit = text, None
    if WORD_OPEN in body:
        if body.startswith(WORD_OPEN) and body.endswith(WORD_CLOSE) and body.count(WORD_OPEN) == 1:
            return Words(flat, read_words(body))
        if body.translate(MARKS).replace(" ", "").isalpha():
            return Words(flat, read_words(body.translate(MARKS)))
        if _negates(body):
            return Opaque(flat, text, readable=False)
        body = _MARKED.sub(" ", body)  # 130 \\text{ trees} - 39 \\text{ trees}: each number has its unit
        if not _ARITHMETIC.fullmatch(body):
            return Opaque(flat, text, readable=False)
    if (number := repeating(body)) is not None:
        return Value(flat, ("num", number), unit)
    if body.isalpha() and len(body) > 1 and body.isascii():
        return Words(flat, read_words(body))
    if _PROSE.search(body) or _DIGITS_APART.search(body):
        return Opaque(flat, text, readable=False)
    joined = COMMAS_IN_NUMBERS.sub(lambda match: match[1].replace(",", ""), body)
    try:
        node = parse(joined)
    except UnreadableError:
        return Opaque(flat, text)
    if unit and not unit.known and variables(node):
        return Opaque(flat, text, readable=False)  # "n even" is no quantity of n
    if "!" in body and (vector := components(node)):  # it stands in the names of unit vectors
        return Group(flat, "(", tuple(Value(f"{flat}[{place}]", part) for place, part in enumerate(vector)), ")")
    decimals = max((len(match[1] or match[2]) for match in DECIMALS.finditer(body)), default=0)
    return Value(flat, node, unit, decimals)


def _negates(text: str) -> bool:
    """Whether words say more of a number than what it counts: only some may stand before it, and others behind it."""
    first = _MARKED.match(text)
    before = read_words(first[0]) if first else ()
    if any(map(NO_WORD.search, _MARKED.findall(text))):
        return True
    behind = [word for marked in _MARKED.findall(text, first.end() if first else 0) for word in read_words(marked)]
    return (
        "times" in behind[:-1]
        or not (NO_UNIT | AFTER_UNIT.keys()).isdisjoint(behind)
        or not _BEFORE_NUMBER.issuperset(before)
    )


def _group(flat: str, opening: str, items: list[str], closing: str, depth: int, either: bool = False) -> Answer:
    if len(items) > MAX_LIST_ITEMS:
        return Opaque(flat, flat, readable=False)
    answers = [_read(item, depth + 1) for item in items]
    if not opening:
        answers = [part for answer in answers for part in _spread(answer)]
        if solutions := _solutions(answers):
            return Group(flat, "", tuple(Group(flat, "", solution, "") for solution in solutions), "", either=either)
    named = names(answers) if opening == r"\{" else None
    if named and len(set(named)) == len(named) > 1:
        opening = closing = ""  # a system in braces
    return Group(flat, opening, tuple(answers), closing, either=either)


def _solutions(answers: list[Answer]) -> list[tuple[Answer, ...]]:
    """Whole solutions in a row, r=4, s=7, r=7, s=4: the same names again and again in the same order."""
    found = names(answers) if len(answers) > 3 else None
    if not found or not all(isinstance(answer, Relation) for answer in answers):
        return []
    period = found.index(found[0], 1) if found[0] in found[1:] else 0
    if period < 2 or len(found) % period or found != found[:period] * (len(found) // period):
        return []
    return [tuple(answers[start : start + period]) for start in range(0, len(answers), period)]


def _spread(answer: Answer) -> tuple[Answer, ...]:
    r"""A bare list inside a bare list (1 \pm \sqrt2, 3) is one list."""
    return answer.items if isinstance(answer, Group) and not answer.opening else (answer,)


def _both_signs(text: str, flat: str, depth: int) -> Answer:
    if text.count(r"\pm") + text.count(r"\mp") > 4:
        return Opaque(flat, text)
    upper = re.sub(r"\\mp(?![A-Za-z])", "-", re.sub(r"\\pm(?![A-Za-z])", "+", text))
    lower = re.sub(r"\\mp(?![A-Za-z])", "+", re.sub(r"\\pm(?![A-Za-z])", "-", text))
    items = tuple(part for half in (upper, lower) for part in _spread(_read(half.strip(), depth + 1)))
    return Group(flat, "", items, "")


def _relation(text: str, flat: str, pieces: list[str], signs: list[str], depth: int) -> Answer:
    if r"\in" in signs:
        named = signs == [r"\in"] and len(pieces) == 2 and _MEMBER.fullmatch(pieces[0])
        return _read(pieces[-1], depth + 1) if named else Opaque(flat, text, readable=False)
    if not all(pieces):
        return Opaque(flat, text, readable=False)
    if set(signs) == {"="} and len(pieces) == 2 and (names := _tuple_of_names(pieces[0])):
        value = _read(pieces[1], depth + 1)
        if not isinstance(value, Group) or not value.opening:
            return value
        if len(value.items) == len(names):
            return dataclasses.replace(value, text=flat, names=names)
    if signs == [r"\approx"] and len(pieces) == 2:  # \frac43 \approx 1.33, with no name before it
        nearly = _rounded(_read(pieces[0], depth + 1), _read(pieces[1], depth + 1))
        if nearly is not None and nearly.decimals:  # 0.4 is not stated to be 0
            pieces, signs = [pieces[0], *pieces], ["=", *signs]
    rounded = None
    if len(signs) > 1 and signs[-1] == r"\approx" and signs[-2] == "=":
        rounded = _rounded(_read(pieces[-2], depth + 1), _read(pieces[-1], depth + 1))
        signs, pieces = signs[:-1], pieces[:-1]
    plain = [_SIGNS.get(sign, sign) for sign in signs]
    if any(sign in _FLIPPED for sign in plain) and all(sign in (">", ">=", "=") for sign in plain):
        plain = [_FLIPPED.get(sign, sign) for sign in reversed(plain)]
        pieces = pieces[::-1]
    if any(sign in _FLIPPED for sign in plain):
        return Opaque(flat, text)
    sides = tuple(_read(piece, depth + 1) for piece in pieces)
    if any(isinstance(side, Group) and not side.opening for side in sides) and set(plain) == {"="} and len(sides) == 2:
        sides_of = sides[1].items if isinstance(sides[1], Group) else ()
        if sides_of:  # x = 1 \pm \sqrt{2}
            return Group(flat, "", tuple(Relation(flat, (sides[0], side), ("=",)) for side in sides_of), "")
    return Relation(flat, sides, tuple(plain), rounded)


def _rounded(exactly: Answer, nearly: Answer) -> Value | None:
    if not (isinstance(exactly, Value) and isinstance(nearly, Value)):
        return None
    half = Fraction(1, 2 * 10**nearly.decimals)
    return nearly if same_value(exactly.node, nearly.node, half, Fraction(1)) else None


def _tuple_of_names(text: str) -> tuple[str, ...]:
    group = bracketed(text)
    if not group or group[0] != "(":
        return ()
    names = tuple(split_top(group[1], ","))
    return names if len(names) > 1 and all(map(_COORDINATE.fullmatch, names)) else ()


def _union(text: str, flat: str, depth: int) -> Answer:
    whole = split_top(text, r"(?:\\setminus|\\backslash)(?![A-Za-z])")
    pieces = split_top(text, r"\\(?:cup|in)(?![A-Za-z])") if len(whole) == 1 else [whole[0]]
    if r"\in" in text and (after := split_top(text, r"\\in(?![A-Za-z])"))[1:]:
        return _read(after[-1], depth + 1) if _MEMBER.fullmatch(after[0]) else Opaque(flat, text, readable=False)
    if len(whole) > 2 or not all(pieces):
        return Opaque(flat, text)
    parts = tuple(_reals() if piece == REALS else _read(piece, depth + 1) for piece in pieces)
    if len(parts) == 1 and len(whole) == 1:
        return parts[0] if text == REALS else _value(text, flat)
    return Union(flat, parts, _read(whole[1], depth + 1) if len(whole) == 2 else None)


def _reals() -> Group:
    ends = (Value(r"-\infty", ("neg", ("const", "infty"))), Value(r"\infty", ("const", "infty")))
    return Group(REALS, "(", ends, ")")


def _ratio(text: str, flat: str) -> Answer:
    pieces = [] if _CLOCK.search(text) else split_top(text, ":")
    if 1 < len(pieces) <= 4 and not any(re.fullmatch(r"0\d+", piece) for piece in pieces):
        parts = [_value(piece, piece) for piece in pieces]
        values = tuple(part for part in parts if isinstance(part, Value) and part.unit is None)
        if len(values) == len(parts):
            return Ratio(flat, values)
    return Words(flat, read_words(text.translate(MARKS)))
