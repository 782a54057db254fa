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
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache

from h1r.mathematics.parse import WORD_CLOSE, WORD_OPEN
from h1r.mathematics.unit_table import AMBIGUOUS, UNITS, Dimensions


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of powers of base units and a factor: cm^2 is ((metre, 2),) and 1/10000. "Apples" are not `known`."""

    powers: Dimensions
    factor: Fraction = Fraction(1)
    known: bool = True
    angular: bool = field(default=False, compare=False)
    """Radians were counted, which are left out of `powers` beside other units."""


MAX_UNIT_CHARS = 80
PERCENT = Unit((("percent", 1),), Fraction(1, 100))
DEGREE = Unit((("degree", 1),))
RADIAN = Unit((("radian", 1),))


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
_PIECE = re.compile(
    rf"(?P<marked>{WORD_OPEN}[^{WORD_OPEN}{WORD_CLOSE}]*+{WORD_CLOSE})|(?P<bare>[A-Za-zµ¢€£₹¥ΩÅ]++)|(?P<sign>\\?%)"
    r"|(?P<degree>\\degree(?![A-Za-z]))|\^ ?\{? ?(?P<exponent>-?\d) ?\}?(?!\d)|(?P<slash>/)"
    r"|(?P<times>\*|\\cdot(?![A-Za-z]))|(?P<blank> ++)|(?P<other>\\(?:[A-Za-z]++|.)|.)",
    re.DOTALL,
)
NO_WORD = re.compile(r"[+=*^<>\\]|(?<!\w)-(?!\w)")
"""What no word has."""
_POWER = re.compile(r"([A-Za-zµΩÅ]++)(?:([23])|\^\{?(-?\d)\}?)")
_JOINT_AT_END = re.compile(r" ?(?:\*|\\cdot)\Z")
_BELOW = re.compile(r"/ ?\(([^()/]*+)\)")
_CURRENCY = re.compile(
    rf"(-?) ?(?:(US ?\\\$|\\\$|€|£|₹|¥)|{WORD_OPEN}? ?(Rs|INR|USD|EUR|GBP)\b\.? ?{WORD_CLOSE}? ?(?=[-\d\\]))"
)
_NUMBER = re.compile(r"[-+]?[\d.,]++(?:/\d+)?+(?: ?(?:\\cdot|\\times|\*) ?10\^(?:\{-?\d+\}|\d))?+")
_SYMBOLS = {
    r"\$": "dollar",
    r"US\$": "dollar",
    r"US \$": "dollar",
    "€": "euro",
    "£": "sterling",
    "₹": "rupee",
    "¥": "yen",
    "Rs": "rupee",
    "INR": "rupee",
    "USD": "dollar",
    "EUR": "euro",
    "GBP": "sterling",
}
_SCALES_OF_MONEY = re.compile(rf"\A(-?[\d.,]++) ?{WORD_OPEN}? ?(k|K|m|M|mn|b|B|bn|T|tn) ?{WORD_CLOSE}?")
_MONEY = {"k": 3, "m": 6, "b": 9, "t": 12}
_TEMPERATURES: dict[str, tuple[Fraction, Fraction]] = {
    "kelvin": (Fraction(1), Fraction(0)),
    "celsius": (Fraction(1), Fraction(27315, 100)),
    "fahrenheit": (Fraction(5, 9), Fraction(45967, 180)),
}
"""Scales of temperature: kelvins = factor * value + shift."""


def split_unit(text: str) -> tuple[str, Unit | None]:
    """(value, unit) of a cleaned answer; the whole text and None when what stands at its end is no unit."""
    if match := _CURRENCY.match(text):
        rest = text[match.end() :].strip()
        if scaled := _SCALES_OF_MONEY.fullmatch(rest):
            rest = rf"{scaled[1]} \cdot 10^{{{_MONEY[scaled[2][0].lower()]}}}"
        value, unit = _split_end(rest)
        return f"{match[1]}{value}", unit or Unit(((_SYMBOLS[match[2] or match[3]], 1),))
    return _split_end(text)


def _split_end(text: str) -> tuple[str, Unit | None]:
    if not (text and (text[-1].isalpha() or text[-1] in _LAST_OF_UNIT or "^" in text[-_MAX_POWER_CHARS:])):
        return text, None
    window = max(0, len(text) - MAX_UNIT_CHARS)
    pieces = list(_PIECE.finditer(text, window))
    for kinds in (_ANY, _IN_TEXT):
        first = _first_of_unit(pieces, kinds)
        if first is not None and (value := text[: pieces[first].start()].rstrip()):
            tail = text[pieces[first].start() :]
            unit = read_unit(tail, _NUMBER.fullmatch(value) is not None, value != text[: pieces[first].start()])
            if unit and pieces[first].lastgroup == "marked":
                value = _JOINT_AT_END.sub("", value)
            if unit:
                return value, unit
    return text, None


_LAST_OF_UNIT = frozenset((WORD_CLOSE, " ", "%", *"¢€£₹¥"))
"""With letters and powers, what a unit ends with."""
_MAX_POWER_CHARS = len("^ { -2 }")
_ANY = frozenset(("marked", "bare", "sign", "degree"))
_IN_TEXT = frozenset(("marked",))
_JOINTS = frozenset(("slash", "times"))


def _first_of_unit(pieces: list[re.Match[str]], kinds: frozenset[str]) -> int | None:
    """The index of the first of the pieces at the end that may be one unit: names, powers, and what joins them."""
    first = None
    index = len(pieces) - 1
    while index >= 0:
        kind = pieces[index].lastgroup or ""
        if kind in kinds:
            first = index
        elif kind in _JOINTS:
            if first is None or kinds is _IN_TEXT:
                break
            first = index if kind == "slash" else first
        elif kind not in ("blank", "exponent"):
            break
        index -= 1
    if first == 0 and pieces[0].start() > 0:
        return None  # it may begin before what is looked at
    return first


@lru_cache(maxsize=1024)
def read_unit(text: str, after_number: bool = True, blank: bool = False) -> Unit | None:
    """The unit that a text names; None when bare letters in it are more likely unknowns.

    `blank`: one stood before it. Words that are no units count only where no unit stands beside them: "10 inches
    tall" is a length.
    """
    known, unknown = _Product(), _Product()
    product, sign, power, times = known, 1, 1, False
    for match in _PIECE.finditer(_BELOW.sub(_all_below, text)):
        kind = match.lastgroup or ""
        if kind == "exponent":
            product.raise_last(int(match["exponent"]))
            continue
        if kind == "blank":
            blank = True
            continue
        bare = match[0] if kind == "bare" else ""
        words = match[0].strip(WORD_OPEN + WORD_CLOSE).replace("·", " ").replace(r"\cdot", " ").lstrip("\\")
        if kind == "times":
            continue
        pieces = words.replace("/", " / ").split()
        for place, piece in enumerate(pieces):
            word = piece.strip(".,()")
            lower = word.lower()
            if lower == "in" and place == len(pieces) - 1 and not (known.powers or unknown.powers):
                if bare and not (blank and after_number):
                    return None
                word = lower = "inch"
            if lower in NO_UNIT or (times and lower):
                return None  # "5 times that" is no five of a kind
            times = lower == "times"
            if lower in ("per", "/"):
                sign = -1
            elif lower in _BEFORE:
                power = _BEFORE[lower]
            elif lower in AFTER_UNIT:
                if not product.powers:
                    return None  # a number squared
                product.raise_last(AFTER_UNIT[lower])
            elif word == "A" or (word and lower not in _FILLER):
                if raised := _POWER.fullmatch(word):  # cm2, s^-2
                    power *= int(raised[2] or raised[3])
                    word, lower = raised[1], raised[1].lower()
                if NO_WORD.search(word):
                    return None
                name = next((name for name in (word, lower, lower.removesuffix("s")) if name in UNITS), None)
                if bare and not _is_word(bare, name, blank, after_number, beside=bool(known.powers)):
                    return None
                product = known if name else unknown
                factor, dimensions = UNITS[name] if name else (Fraction(1), ((lower.removesuffix("s"), 1),))
                product.multiply(dimensions, factor, power * sign)
                power = 1
        blank = False
    product = known if known.powers else unknown
    angular = len(product.powers) > 1 and product.powers.pop("radian", None) is not None  # rad/s is 1/s
    if product.powers.get("degree") == 1 and not product.powers.keys().isdisjoint(_TEMPERATURES):
        product.powers.pop("degree")
    unit = product.unit(product is known)
    return replace(unit, angular=True) if unit and angular else unit


def _all_below(match: re.Match[str]) -> str:
    """What stands in brackets under a fraction bar is all below it: J/(mol K) is J/mol/K."""
    return "/" + match[1].replace(r"\cdot", "*").strip()


def _is_word(bare: str, name: str | None, blank: bool, after_number: bool, beside: bool) -> bool:
    """Whether bare letters are a word or a unit, and no unknowns; `beside` another unit any unit is one."""
    if name is None:
        return blank and len(bare) > 2
    return beside or name not in AMBIGUOUS or (blank and after_number)


class _Product:
    def __init__(self) -> None:
        self.powers: dict[str, int] = {}
        self.factor = Fraction(1)
        self.last: tuple[Dimensions, Fraction, int] | None = None

    def multiply(self, dimensions: Dimensions, factor: Fraction, power: int) -> None:
        for base, exponent in dimensions:
            self.powers[base] = self.powers.get(base, 0) + exponent * power
            if not self.powers[base]:
                del self.powers[base]
        self.factor *= factor**power
        self.last = dimensions, factor, power

    def raise_last(self, exponent: int) -> None:
        """What was multiplied last was meant to this power."""
        if self.last:
            dimensions, factor, power = self.last
            self.multiply(dimensions, factor, power * (exponent - 1))
            self.last = None

    def unit(self, known: bool) -> Unit | None:
        return Unit(tuple(sorted(self.powers.items())), self.factor, known) if self.powers else None


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
    if DEGREE in (left, right) and (is_temperature(left) or is_temperature(right)):
        return [(Fraction(1), Fraction(1))]  # which degrees has not been said
    return [(left.factor, right.factor)] if _powers(left, right) == _powers(right, left) else []


def _powers(unit: Unit, other: Unit) -> Dimensions:
    """The powers of a unit; hertz as 1/s beside what counts seconds, and no radians."""
    powers = dict(unit.powers)
    if "hertz" not in powers or "hertz" in dict(other.powers) or other.angular:
        return unit.powers
    power = powers.pop("hertz")
    powers["second"] = powers.get("second", 0) - power
    return tuple(sorted((base, power) for base, power in powers.items() if power))


def is_temperature(unit: Unit | None) -> bool:
    return unit is not None and len(unit.powers) == 1 and unit.powers[0][1] == 1 and unit.powers[0][0] in _TEMPERATURES


def in_kelvin(unit: Unit) -> tuple[Fraction, Fraction]:
    """(factor, shift) with kelvins = factor * value + shift, of a unit of temperature."""
    factor, shift = _TEMPERATURES[unit.powers[0][0]]
    return factor * unit.factor, shift
