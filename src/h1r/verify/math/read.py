"""The answer that a LaTeX or plain text states, by its type.

`read` never raises and takes time linear in the text (quadratic in the nesting, which `text.refusal` bounds).
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from functools import lru_cache

from h1r.verify.math.clean import OVER_REALS, clean
from h1r.verify.math.parse import WORD_CLOSE, WORD_OPEN, UnreadableError, parse, variables
from h1r.verify.math.quantities import compound
from h1r.verify.math.text import MAX_LIST_ITEMS, bracketed, refusal, split_top, split_with, squeeze
from h1r.verify.math.types import (
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
from h1r.verify.math.units import AFTER_UNIT, DEGREE, NO_UNIT, NO_WORD, split_unit
from h1r.verify.math.value import same_value

REALS = r"\mathbb{R}"
_MAX_RECURSION = 5
_CHOICE = re.compile(
    rf"[{WORD_OPEN} ]*\([{WORD_OPEN} ]*([A-Z])[{WORD_CLOSE} ]*\)[{WORD_CLOSE} ]*(.*)"
    rf"|{WORD_OPEN}?([A-J])[.):]{WORD_CLOSE}?(?: (.*)|$)|([A-J]) ([A-Z][a-z]+(?: .*)?)",
    re.DOTALL,
)
_MATRIX = re.compile(
    r"((?:[^\\]|\\(?!begin))*?) ?\\begin ?\{([pbBvV]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end ?\{\2\}", re.DOTALL
)
_COORDINATE = re.compile(r"\\?[A-Za-z]+(_\{?\w+\}?)?")
_MEMBER = re.compile(rf"\(?{_COORDINATE.pattern}(?: ?\([a-z]\))?(?: ?, ?{_COORDINATE.pattern})*\)?")
"""What is in a set: a name, a value of a function, or some names."""
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?|\\cr")
_BASED = re.compile(r"(-?[0-9A-F]+(?:\.[0-9A-F]+)?) ?_ ?(?:\{ ?\(?(\d\d?)\)? ?\}|(\d\d?))")
_CIRCLED = re.compile(rf"[①-⑳, {WORD_OPEN}{WORD_CLOSE}]+")
_DECIMALS = re.compile(r"\d\.(\d+)|(?<!\d)\.(\d+)")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline ?\{(\d+)\}|(?:bar|dot) ?(?:\{(\d+)\}|(\d)))")
_SIGN = r"\\(?:le|ge|ne|approx|in)(?![A-Za-z])|<=|>=|!=|==|<|>|="
_SIGNS = {r"\le": "<=", r"\ge": ">=", r"\ne": "!=", r"\approx": "=", "==": "=", "=>": ">=", "=<": "<="}
_FLIPPED = {">": "<", ">=": "<="}
_JOIN = (
    rf",? ?{WORD_OPEN} ?,?;? ?(?:and|or|AND|OR) ?{WORD_CLOSE} ?,?|[,;]? (?:and|or) |(?<=[\d)}}\]])(?:and|or)(?![a-z])"
    rf"|,? ?{WORD_OPEN}[,; ]+{WORD_CLOSE}|[;,]"
)
_SPACED_NUMBER = re.compile(r"-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?(?![\d])")
_ALL_REALS = frozenset((("all", "real", "numbers"), ("all", "reals"), ("real", "numbers"), ("all", "real")))
_SET_BUILDER = re.compile(r"\\?[A-Za-z](?:_\w)? ?(?:\\in ?(?:\\mathbb ?\{?R\}?|R) ?)?[|:] ?(.+)", re.DOTALL)
_OR = re.compile(r"or|OR|;")
_ALTERNATIVE = rf",? ?{WORD_OPEN} ?,?;? ?(?:or|OR) ?{WORD_CLOSE} ?,?|;|,? or "
"""What separates whole solutions, where each is a list of its own: p=5,q=2;p=7,q=2."""
_COMMAS_IN_NUMBERS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
_RUN = re.compile(r"(?<!\\)(?<![A-Za-z\\])[A-Za-z]{2,}")
_PROSE = re.compile(r"(?<![A-Za-z\\])(?=[a-z]*[aeiou])[a-z]{4,}")
_DIGITS_APART = re.compile(r"(?<![_\d])\d+ \d")
_MARKED = re.compile(f"{WORD_OPEN}[^{WORD_OPEN}{WORD_CLOSE}]*+{WORD_CLOSE}")
_ARITHMETIC = re.compile(r"(?:[\d.,+\-*/() ]|\\cdot|\\times|\\div)*")
_MARKS = str.maketrans("", "", WORD_OPEN + WORD_CLOSE)
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_CLOCK = re.compile(r"\d:\d\d[ \ue000]*[aApP]\.? ?[mM](?![A-Za-z])")
_HALF_OF_DAY = re.compile(r"\b([apAP])\.([mM])\b")
_ARTICLES = frozenset(("a", "an", "the"))
_LETTER = r"(?:[IVX]{2,4}|[A-Za-z]|\((?:[IVX]{2,4}|[A-Za-z])\))"
_LETTERS = re.compile(
    rf" *+{_LETTER}(?: *+(?:, *+(?:(?<= )(?:and|AND) ++)?{_LETTER}|(?<= )(?:and|AND) ++{_LETTER}))+ *+"
)
"""Letters or Roman numbers joined by commas or "and": choices of which several are right, or unknowns."""
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
        *("equals", "a", "an", "the"),
    )
)
_ELLIPSIS = re.compile(r"\\[lcd]?dots|\.\.\.|…|\\vdots")
_EMPTY_SETS = frozenset((r"\emptyset", r"\{\}", "{}", r"\{ \}"))


@lru_cache(maxsize=8192)
def read(latex: str) -> Answer:
    """The answer that a LaTeX or plain text states."""
    why = refusal(latex)
    if why is not None:
        return Opaque(latex, latex, readable=False)
    text = clean(latex)
    return _read(text, 0)


def _read(text: str, depth: int) -> Answer:
    flat = squeeze(text)
    if not flat or depth > _MAX_RECURSION:
        return Opaque(flat, text, readable=False)
    if flat in _EMPTY_SETS:
        return Group(flat, r"\{", (), r"\}")
    if _ELLIPSIS.search(text):
        return Opaque(flat, text, readable=False)
    if text.startswith(("=", r"\approx")):
        return _read(text.removeprefix("=").removeprefix(r"\approx").strip(), depth + 1)
    if _LETTERS.fullmatch(letters := text.translate(_MARKS)):
        text = letters
    elif match := _CHOICE.fullmatch(text):
        return _choice(text, flat, match, depth)
    if words := _words(text):
        return _reals() if words in _ALL_REALS else Words(flat, words)
    if quantity := compound(text):
        return Value(flat, *quantity)
    if "," in text or _SPACED_NUMBER.match(text):
        text = _without_thousands(text)
    if r"\begin" in text:
        return _matrix_sum(_without_brackets(text), flat, depth)
    if match := _BASED.fullmatch(text.replace(WORD_OPEN, "").replace(WORD_CLOSE, "")):
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
    if r"\cup" in text or r"\setminus" in text or r"\backslash" in text or REALS in text:
        return _union(text, flat, depth)
    pieces, signs = split_with(text, _SIGN)
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


def _choice(text: str, flat: str, match: re.Match[str], depth: int) -> Answer:
    """A choice with the text of it, if it is one: (A) 5, (B) 6 are two, and (A) or (B) is none."""
    letter, content = match[1] or match[3] or match[5], (match[2] or match[4] or match[6] or "").strip()
    if _DENIAL.match(content) or _NO_CONTENT.match(content):
        return Opaque(flat, text, readable=False)
    if not _OTHER_CHOICE.search(content) or len(content.translate(_MARKS)) == 1 or _ABOUT_OTHERS.match(content):
        return Choice(flat, letter, content)
    pieces, joints = split_with(text, _JOIN)
    items = [piece for piece in pieces if piece]
    if len(items) < 2 or any(re.search("or|OR", joint) for joint in joints):
        return Opaque(flat, text, readable=False)
    return _group(flat, "", items, "", depth)


def _based(text: str, flat: str, digits: str, base: int) -> Answer:
    highest = max(int(digit, 16) for digit in digits if digit.isalnum())
    return Based(flat, digits, base) if highest < base <= 36 else Opaque(flat, text, readable=False)


def _without_thousands(text: str) -> str:
    """The text without the commas, or blanks, that set thousands apart, where it has no others outside brackets."""
    if _SPACED_NUMBER.fullmatch(text):
        return text.replace(" ", "")
    joined = _COMMAS_IN_NUMBERS.sub(lambda match: match[1].replace(",", ""), text)
    return joined if "," not in joined and not joined.startswith(("(", "[", r"\{")) else text


def _words(text: str) -> tuple[str, ...]:
    r"""The words of a text that is prose: nothing but words, or at least three that are neither units nor names."""
    if "\\" in text and not text.startswith(("\\text", WORD_OPEN)):
        return ()
    letters = text.translate(_MARKS)
    if _CIRCLED.fullmatch(text):
        return tuple(sorted(sign for sign in text if sign >= "①"))
    if not any(sign in letters for sign in "=<>^_+*/\\|{}()[]0123456789"):
        return _read_words(letters) if _RUN.search(letters) and not _is_list_of_letters(letters) else ()
    runs = [run for run in _RUN.findall(letters) if len(run) > 2 and run not in ("and", "per")]
    return _read_words(letters) if len(runs) > 3 and "\\frac" not in text and "=" not in text else ()


def _is_list_of_letters(text: str) -> bool:
    if _LETTERS.fullmatch(text):
        return True
    return "," in text and all(len(piece.strip()) <= 2 for piece in text.split(","))


def _read_words(text: str) -> tuple[str, ...]:
    """The words but for articles. What no word follows is none (team a), nor is a capital inside (see Case A below)."""
    words = _WORD.findall(_HALF_OF_DAY.sub(r"\1\2", text.strip()))
    kept = [
        word
        for index, word in enumerate(words)
        if word.casefold() not in _ARTICLES or index == len(words) - 1 or (word == "A" and index)
    ]
    return tuple(word.casefold().lstrip("0") or "0" for word in kept)


def _value(text: str, flat: str) -> Answer:
    body, unit = split_unit(text)
    if unit == DEGREE and _TRIGONOMETRIC.search(body):  # there it belongs to the angle
        body, unit = text, None
    if WORD_OPEN in body:
        if body.startswith(WORD_OPEN) and body.endswith(WORD_CLOSE) and body.count(WORD_OPEN) == 1:
            return Words(flat, _read_words(body))
        if body.translate(_MARKS).replace(" ", "").isalpha():
            return Words(flat, _read_words(body.translate(_MARKS)))
        if _negates(body):
            return Opaque(flat, text, readable=False)
        body = _MARKED.sub(" ", body)  # 130 \\text{ trees} - 39 \\text{ trees}: each number has its unit
        if not _ARITHMETIC.fullmatch(body):
            return Opaque(flat, text, readable=False)
    if match := _REPEATING.fullmatch(body):
        return Value(flat, ("num", _repeating(match)), unit)
    if body.isalpha() and len(body) > 1 and body.isascii():
        return Words(flat, _read_words(body))
    if _PROSE.search(body) or _DIGITS_APART.search(body):
        return Opaque(flat, text, readable=False)
    joined = _COMMAS_IN_NUMBERS.sub(lambda match: match[1].replace(",", ""), body)
    try:
        node = parse(joined)
    except UnreadableError:
        return Opaque(flat, text)
    if unit and not unit.known and variables(node):
        return Opaque(flat, text, readable=False)  # "n even" is no quantity of n
    decimals = max((len(match[1] or match[2]) for match in _DECIMALS.finditer(body)), default=0)
    return Value(flat, node, unit, decimals)


def _negates(text: str) -> bool:
    """Whether words say more of a number than what it counts: only some may stand before it, and others behind it."""
    first = _MARKED.match(text)
    before = _read_words(first[0]) if first else ()
    if any(map(NO_WORD.search, _MARKED.findall(text))):
        return True
    behind = [word for marked in _MARKED.findall(text, first.end() if first else 0) for word in _read_words(marked)]
    return not (NO_UNIT | AFTER_UNIT.keys()).isdisjoint(behind) or not _BEFORE_NUMBER.issuperset(before)


def _repeating(match: re.Match[str]) -> Fraction:
    whole, fixed, period = match[2] or "0", match[3], match[4] or match[5] or match[6]
    value = Fraction(int(whole + fixed), 10 ** len(fixed))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if match[1] else value


def _group(flat: str, opening: str, items: list[str], closing: str, depth: int, either: bool = False) -> Answer:
    if len(items) > MAX_LIST_ITEMS:
        return Opaque(flat, flat, readable=False)
    answers = [_read(item, depth + 1) for item in items]
    if not opening:
        answers = [part for answer in answers for part in _spread(answer)]
    return Group(flat, opening, tuple(answers), closing, either=either)


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


def _matrix_sum(text: str, flat: str, depth: int) -> Answer:
    """A literal matrix, or a sum of multiples of them, entry by entry."""
    pieces, signs = split_with(text, r"[+-]")
    if pieces and not pieces[0]:
        pieces = pieces[1:]
    else:
        signs = ["+", *signs]
    total: list[list[str]] = []
    for sign, piece in zip(signs, pieces, strict=True):
        match = _MATRIX.fullmatch(piece)
        rows = _rows(match) if match else None
        if match is None or not rows or _RUN.search(match[1]) or (total and _shape(rows) != _shape(total)):
            return Opaque(flat, text)
        plain = sign == "+" and not match[1]
        factor = f"{sign}({match[1]})" if match[1] else sign
        terms = [[entry if plain else f"{factor}({entry})" for entry in row] for row in rows]
        pairs = zip(total or terms, terms, strict=True)
        total = [[f"{old}+({new})" for old, new in zip(*pair, strict=True)] for pair in pairs] if total else terms
    return Matrix(flat, tuple(tuple(_read(entry, depth + 1) for entry in row) for row in total))


def _without_brackets(text: str) -> str:
    """The one matrix that stands between brackets, as an array does, or the text itself."""
    inner = text[1:-1].strip()
    is_one = text[0] in "([" and text[-1] in ")]" and inner.startswith(r"\begin") and inner.count(r"\begin") == 1
    return inner if is_one and _MATRIX.fullmatch(inner) else text


def _shape(rows: list[list[str]]) -> list[int]:
    return [len(row) for row in rows]


def _rows(match: re.Match[str]) -> list[list[str]] | None:
    if match[2] in ("vmatrix", "Vmatrix") or r"\begin" in match[3] or match[3].count("&") > MAX_LIST_ITEMS:
        return None
    rows = [row for row in _ROW_END.split(match[3].replace(r"\hline", "")) if row.strip()]
    return [[entry.strip() for entry in row.split("&")] for row in rows] if len(rows) <= MAX_LIST_ITEMS else None


def _ratio(text: str, flat: str) -> Answer:
    pieces = [] if _CLOCK.search(text) else split_top(text, ":")
    if 1 < len(pieces) <= 4 and not any(re.fullmatch(r"0\d+", piece) for piece in pieces):
        parts = [_value(piece, piece) for piece in pieces]
        values = tuple(part for part in parts if isinstance(part, Value) and part.unit is None)
        if len(values) == len(parts):
            return Ratio(flat, values)
    return Words(flat, _read_words(text.translate(_MARKS)))
