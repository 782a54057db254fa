r"""Units of measure after an answer, and what a missing one means.

    3600\pi\,\text{cm}^2   ->   value `3600\pi`, unit {centimetre: 2}

Rules (`agree`), in this order:
    both state a unit      they must measure the same thing; known ones convert exactly (1 m = 100 cm, 12 m != 12 cm),
                           unknown words ("apples") must be the same words
    one states a unit      the other is read in it, since the question has named it: 12 = 12 m
    per cent               28 % equals 28 (the unit unstated) and 0.28 (the same number)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from h1r.verify.math.parse import WORD_CLOSE, WORD_OPEN


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of base units and a factor: cm^2 is ({metre: 2}, 1/10000). "Apples" are not `known`."""

    powers: frozenset[tuple[str, int]]
    factor: Fraction = Fraction(1)
    known: bool = True


MAX_UNIT_CHARS = 80
PERCENT = Unit(frozenset((("percent", 1),)), Fraction(1, 100))
DEGREE = Unit(frozenset((("degree", 1),)))
RADIAN = Unit(frozenset((("radian", 1),)))


def _table() -> dict[str, tuple[str, Fraction]]:
    names: dict[str, tuple[str, Fraction]] = {}

    def add(base: str, factor: Fraction | int, *spellings: str) -> None:
        for spelling in spellings:
            names[spelling] = (base, Fraction(factor))

    prefixes = (("", "", 1), ("k", "kilo", 1000), ("c", "centi", Fraction(1, 100)), ("m", "milli", Fraction(1, 1000)))
    for short, long, scale in (*prefixes, ("d", "deci", Fraction(1, 10)), ("n", "nano", Fraction(1, 10**9))):
        add("metre", scale, f"{short}m", f"{long}metre", f"{long}meter")
    for short, long, scale in prefixes:
        add("gram", scale, f"{short}g", f"{long}gram")
        add("litre", scale, f"{short}L", f"{short}l", f"{long}litre", f"{long}liter")
        add("watt", scale, f"{short}W", f"{long}watt")
        add("joule", scale, f"{short}J", f"{long}joule")
        add("newton", scale, f"{short}N", f"{long}newton")
    add("metre", Fraction(254, 10000), "inch", "inche")
    add("metre", Fraction(3048, 10000), "ft", "foot", "feet")
    add("metre", Fraction(9144, 10000), "yd", "yard")
    add("metre", Fraction(1609344, 1000), "mi", "mile")
    add("gram", Fraction(45359237, 100000), "lb", "pound")
    add("gram", Fraction(45359237, 1600000), "oz", "ounce")
    add("second", 1, "s", "sec", "second")
    add("second", 60, "min", "minute")
    add("second", 3600, "h", "hr", "hour")
    add("second", 86400, "day")
    add("second", 604800, "week")
    add("month", 1, "month")
    add("month", 12, "year", "yr")
    add("month", 120, "decade")
    add("dollar", 1, "dollar", "usd")
    add("dollar", Fraction(1, 100), "cent", "¢")
    add("euro", 1, "euro", "€")
    add("sterling", 1, "£")
    add("degree", 1, "degree", "deg")
    add("radian", 1, "radian", "rad")
    add("percent", Fraction(1, 100), "percent", "percentage", "pct", "%")
    add("kelvin", 1, "K", "kelvin")
    add("volt", 1, "V", "volt")
    add("ampere", 1, "A", "amp", "ampere")
    add("hertz", 1, "Hz", "hertz")
    add("pascal", 1, "Pa", "pascal")
    add("mole", 1, "mol", "mole")
    add("unit", 1, "unit")
    return names


_UNITS = _table()
_AMBIGUOUS = frozenset(("m", "g", "l", "s", "h", "L", "W", "J", "N", "K", "V", "A"))
"""Also names of unknowns: units only in upright type, or after a number and a blank (`12 m`)."""

_FRACTIONS = (
    *("third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "twelfth", "hundredth", "thousandth"),
    *("millionth", "billionth"),
)
NO_UNIT = frozenset(
    (
        *("not", "no", "non", "never", "isn't", "without", "except", "but", "than", "least", "most", "more", "less"),
        *("or", "if", "is", "are", "was", "were", "wrong", "incorrect", "false", "maybe", "perhaps", "probably"),
        *("plus", "minus", "divided", "factorial", "below", "under", "negative", "modulo", "mod", "half", "halves"),
        *(f"{name}{end}" for name in _FRACTIONS for end in ("", "s")),
        *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "zero"),
    )
)
"""Words that make of "5 ..." something else than five of a kind."""
_FILLER = frozenset(("the", "a", "an", "of", "in", "about", "total", "exactly", "each", "and"))
_BEFORE = {"square": 2, "sq": 2, "cubic": 3}
AFTER_UNIT = {"squared": 2, "cubed": 3}
_MARKED = f"{WORD_OPEN}[^{WORD_OPEN}{WORD_CLOSE}]*{WORD_CLOSE}"
_TAIL = re.compile(
    rf"(?:(?: ?[*/] ?| )?(?:{_MARKED}|(?<![A-Za-zµ¢€£\\])[A-Za-zµ¢€£]++(?!\()|\\?%|\\degree(?![A-Za-z]))"
    r"(?: ?\^ ?(?:\{ ?-?\d ?\}|\d))?)+ ?$"
)
_MARKED_TAIL = re.compile(rf"(?: ?{_MARKED}(?: ?\^ ?(?:\{{ ?-?\d ?\}}|\d))?)+ ?$")
_PIECE = re.compile(rf"({_MARKED})|( ?)([A-Za-zµ¢€£]+)|\\?(%)|\\(degree)|\^ ?\{{? ?(-?\d)|(/)")
NO_WORD = re.compile(r"[+=*^<>\\]|(?<!\w)-(?!\w)")
"""What no word has."""
_SQUARED = re.compile(r"([A-Za-zµ]*[A-Za-z])([23])")
_CURRENCY = re.compile(r"(-?) ?(\\\$|€|£)")
_NUMBER = re.compile(r"[-+]?[\d.,]+(?:/\d+)?")
_SYMBOLS = {r"\$": "dollar", "€": "euro", "£": "sterling"}


def split_unit(text: str) -> tuple[str, Unit | None]:
    """(value, unit) of a cleaned answer; the whole text and None when what stands at its end is no unit."""
    if match := _CURRENCY.match(text):
        value, unit = split_unit(text[match.end() :].strip())
        return f"{match[1]}{value}", unit or Unit(frozenset(((_SYMBOLS[match[2]], 1),)))
    for tail in (_TAIL, _MARKED_TAIL):
        match = tail.search(text, max(0, len(text) - MAX_UNIT_CHARS))
        if match and (value := text[: match.start()].rstrip()):
            unit = read_unit(match[0], _NUMBER.fullmatch(value) is not None)
            if unit:
                return value, unit
    return text, None


@lru_cache(maxsize=1024)
def read_unit(text: str, after_number: bool = True) -> Unit | None:
    """The unit that a text names; None when bare letters in it are more likely unknowns.

    Words that are no units count only where no unit stands beside them: "10 inches tall" is a length.
    """
    known, unknown = _Product(), _Product()
    product, sign, power = known, 1, 1
    for marked, blank, bare, percent, degree, exponent, slash in _PIECE.findall(text):
        if exponent:
            product.raise_last(int(exponent))
        words = marked.strip(WORD_OPEN + WORD_CLOSE) or bare or percent or degree or slash
        for piece in words.replace("/", " / ").split():
            word = piece.strip(".,()")
            lower = word.lower()
            if lower in NO_UNIT:
                return None
            if lower in ("per", "/"):
                sign = -1
            elif lower in _BEFORE:
                power = _BEFORE[lower]
            elif lower in AFTER_UNIT:
                if not product.powers:
                    return None  # a number squared
                product.raise_last(AFTER_UNIT[lower])
            elif word and lower not in _FILLER:
                if NO_WORD.search(word):
                    return None
                if match := _SQUARED.fullmatch(word):  # cm2
                    word, lower, power = match[1], match[1].lower(), power * int(match[2])
                name = next((name for name in (word, lower, lower.removesuffix("s")) if name in _UNITS), None)
                if bare and not _is_word(bare, name, bool(blank), after_number, beside=bool(known.powers)):
                    return None
                product = known if name else unknown
                base, factor = _UNITS[name] if name else (lower.removesuffix("s"), Fraction(1))
                product.multiply(base, factor, power * sign)
                power = 1
    product = known if known.powers else unknown
    if len(product.powers) > 1:
        product.powers.pop("radian", None)  # rad/s is 1/s
    return Unit(frozenset(product.powers.items()), product.factor, product is known) if product.powers else None


def _is_word(bare: str, name: str | None, blank: bool, after_number: bool, beside: bool) -> bool:
    """Whether bare letters are a word or a unit, and no unknowns; `beside` another unit any unit is one."""
    if name is None:
        return blank and len(bare) > 2
    return beside or name not in _AMBIGUOUS or (blank and after_number)


class _Product:
    def __init__(self) -> None:
        self.powers: dict[str, int] = {}
        self.factor = Fraction(1)
        self.last: tuple[str, Fraction, int] | None = None

    def multiply(self, base: str, factor: Fraction, power: int) -> None:
        self.powers[base] = self.powers.get(base, 0) + power
        self.factor *= factor**power
        self.last = base, factor, power

    def raise_last(self, exponent: int) -> None:
        """What was multiplied last was meant to this power."""
        if self.last:
            base, factor, power = self.last
            self.multiply(base, factor, power * (exponent - 1))
            self.last = None


def agree(left: Unit | None, right: Unit | None) -> list[tuple[Fraction, Fraction]]:
    """The factors (of the left value, of the right value) under which two values are to be equal; none: they differ."""
    if left is None and right is None:
        return [(Fraction(1), Fraction(1))]
    if left is None or right is None:
        stated = left or right
        if stated != PERCENT:
            return [(Fraction(1), Fraction(1))]
        scaled = (Fraction(1), Fraction(1, 100)) if left is None else (Fraction(1, 100), Fraction(1))
        return [(Fraction(1), Fraction(1)), scaled]
    return [(left.factor, right.factor)] if left.powers == right.powers else []
