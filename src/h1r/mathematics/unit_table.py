r"""The units that are known, as products of powers of base units: data, and how prefixes multiply it.

Each unit has a factor and the dimensions it measures; units of the same dimensions convert into each other. Names are
matched in their own case first, then in lower case, then without a plural s. Factors are exact where they are defined
so (SI brochure, 9th edition; international yard and pound), else the usual rounded value.

Left out: what a month is in days, money at a rate of exchange, decibels.
"""

from __future__ import annotations

from fractions import Fraction

Dimensions = tuple[tuple[str, int], ...]

_DECIMAL_PREFIXES = {
    "E": 18,
    "P": 15,
    "T": 12,
    "G": 9,
    "M": 6,
    "k": 3,
    "h": 2,
    "da": 1,
    "d": -1,
    "c": -2,
    "m": -3,
    "µ": -6,
    "n": -9,
    "p": -12,
    "f": -15,
    "a": -18,
}
PREFIX_NAMES = {
    "exa": "E",
    "peta": "P",
    "tera": "T",
    "giga": "G",
    "mega": "M",
    "kilo": "k",
    "hecto": "h",
    "deca": "da",
    "deci": "d",
    "centi": "c",
    "milli": "m",
    "micro": "µ",
    "nano": "n",
    "pico": "p",
    "femto": "f",
    "atto": "a",
}
_USUAL = ("k", "m", "µ", "n", "M", "G", "T", "p", "f")
_PARTS = frozenset(("m", "g", "L", "l"))
"""Units of which tenths and hundredths are in use."""

_METRE: Dimensions = (("metre", 1),)
_AREA: Dimensions = (("metre", 2),)
_VOLUME: Dimensions = (("metre", 3),)
_MASS: Dimensions = (("gram", 1),)
_TIME: Dimensions = (("second", 1),)
_FORCE: Dimensions = (("gram", 1), ("metre", 1), ("second", -2))
_ENERGY: Dimensions = (("gram", 1), ("metre", 2), ("second", -2))
_POWER: Dimensions = (("gram", 1), ("metre", 2), ("second", -3))
_PRESSURE: Dimensions = (("gram", 1), ("metre", -1), ("second", -2))
_SPEED: Dimensions = (("metre", 1), ("second", -1))
_VOLT: Dimensions = (("gram", 1), ("metre", 2), ("second", -3), ("ampere", -1))
_OHM: Dimensions = (("gram", 1), ("metre", 2), ("second", -3), ("ampere", -2))
_SIEMENS: Dimensions = tuple((base, -power) for base, power in _OHM)
_FARAD: Dimensions = (("gram", -1), ("metre", -2), ("second", 4), ("ampere", 2))

_SI: tuple[tuple[str, str, Fraction | int, Dimensions], ...] = (
    ("m", "metre meter", 1, _METRE),
    ("g", "gram gramme", 1, _MASS),
    ("s", "second", 1, _TIME),
    ("L l", "litre liter", Fraction(1, 1000), _VOLUME),
    ("N", "newton", 1000, _FORCE),
    ("J", "joule", 1000, _ENERGY),
    ("W", "watt", 1000, _POWER),
    ("Wh", "watt-hour watthour", 3_600_000, _ENERGY),
    ("Pa", "pascal", 1000, _PRESSURE),
    ("bar", "", 10**8, _PRESSURE),
    ("Hz", "hertz", 1, (("hertz", 1),)),  # of its own: rad/s is 1/s too
    ("Bq", "becquerel", 1, (("becquerel", 1),)),
    ("K", "kelvin", 1, (("kelvin", 1),)),
    ("A", "ampere amp", 1, (("ampere", 1),)),
    ("C", "coulomb", 1, (("ampere", 1), ("second", 1))),
    ("V", "volt", 1000, _VOLT),
    ("Ω", "ohm", 1000, _OHM),
    ("F", "farad", Fraction(1, 1000), _FARAD),
    ("H", "henry", 1000, (("gram", 1), ("metre", 2), ("second", -2), ("ampere", -2))),
    ("T", "tesla", 1000, (("gram", 1), ("second", -2), ("ampere", -1))),
    ("Wb", "weber", 1000, (("gram", 1), ("metre", 2), ("second", -2), ("ampere", -1))),
    ("S", "siemens", Fraction(1, 1000), _SIEMENS),
    ("mol", "mole", 1, (("mole", 1),)),
    ("M", "molar", 1000, (("mole", 1), ("metre", -3))),
    ("cd", "candela", 1, (("candela", 1),)),
    ("eV", "electronvolt electron-volt", Fraction(1602176634, 10**25), _ENERGY),
    ("cal", "calorie", 4184, _ENERGY),
    ("u Da amu", "dalton", Fraction(166053906660, 10**35), _MASS),
    ("pc", "parsec", 30856775814913673, _METRE),
    ("t", "tonne", 1_000_000, _MASS),
    ("bit", "", 1, (("bit", 1),)),
    ("B", "byte", 8, (("bit", 1),)),
)
"""Symbols, names, factor in grams, metres, seconds, and dimensions of units that take prefixes."""

_FOOT = Fraction(3048, 10000)
_POUND = Fraction(45359237, 100000)
_OTHER: tuple[tuple[str, Fraction | int, Dimensions], ...] = (
    ("inch inche", _FOOT / 12, _METRE),
    ("ft foot feet", _FOOT, _METRE),
    ("yd yard", 3 * _FOOT, _METRE),
    ("mi mile", 5280 * _FOOT, _METRE),
    ("nmi", 1852, _METRE),
    ("Å angstrom ångström ångstrom", Fraction(1, 10**10), _METRE),
    ("micron", Fraction(1, 10**6), _METRE),
    ("ly light-year lightyear", 9460730472580800, _METRE),
    ("AU au", 149597870700, _METRE),
    ("ha hectare", 10_000, _AREA),
    ("acre", 43560 * _FOOT**2, _AREA),
    ("cc", Fraction(1, 10**6), _VOLUME),
    ("gal gallon", 231 * (_FOOT / 12) ** 3, _VOLUME),
    ("qt quart", 231 * (_FOOT / 12) ** 3 / 4, _VOLUME),
    ("pt pint", 231 * (_FOOT / 12) ** 3 / 8, _VOLUME),
    ("cup", 231 * (_FOOT / 12) ** 3 / 16, _VOLUME),
    ("tbsp tablespoon", 231 * (_FOOT / 12) ** 3 / 256, _VOLUME),
    ("tsp teaspoon", 231 * (_FOOT / 12) ** 3 / 768, _VOLUME),
    ("lb lbs pound", _POUND, _MASS),
    ("oz ounce", _POUND / 16, _MASS),
    ("sec", 1, _TIME),
    ("min minute", 60, _TIME),
    ("h hr hour", 3600, _TIME),
    ("day", 86400, _TIME),
    ("week wk", 604800, _TIME),
    ("month mo", 1, (("month", 1),)),
    ("year yr", 12, (("month", 1),)),
    ("decade", 120, (("month", 1),)),
    ("century centurie", 1200, (("month", 1),)),
    ("mph", 5280 * _FOOT / 3600, _SPEED),
    ("kph kmh", Fraction(1000, 3600), _SPEED),
    ("knot kn kt", Fraction(1852, 3600), _SPEED),
    ("dyn dyne", Fraction(1, 100), _FORCE),
    ("lbf", _POUND * Fraction(980665, 100000), _FORCE),
    ("erg", Fraction(1, 10**4), _ENERGY),
    ("btu", 1055056, _ENERGY),
    ("hp horsepower", Fraction(7456998716, 10**4), _POWER),
    ("atm atmosphere", 101325000, _PRESSURE),
    ("mmhg torr", Fraction(101325000, 760), _PRESSURE),
    ("psi", Fraction(68947573, 10), _PRESSURE),
    ("gauss", Fraction(1, 10), (("gram", 1), ("second", -2), ("ampere", -1))),
    ("dollar usd buck", 1, (("dollar", 1),)),
    ("cent ¢", Fraction(1, 100), (("dollar", 1),)),
    ("euro eur €", 1, (("euro", 1),)),
    ("gbp £", 1, (("sterling", 1),)),
    ("rupee rs inr ₹", 1, (("rupee", 1),)),
    ("yen jpy ¥", 1, (("yen", 1),)),
    ("yuan rmb cny", 1, (("yuan", 1),)),
    ("degree deg", 1, (("degree", 1),)),
    ("radian rad", 1, (("radian", 1),)),
    ("revolution rev", 1, (("revolution", 1),)),
    ("rpm", Fraction(1, 60), (("revolution", 1), ("second", -1))),
    ("percent percentage pct %", Fraction(1, 100), (("percent", 1),)),
    ("celsius °c", 1, (("celsius", 1),)),
    ("fahrenheit °f", 1, (("fahrenheit", 1),)),
    ("ppm", Fraction(1, 10**6), (("fraction", 1),)),
    ("ppb", Fraction(1, 10**9), (("fraction", 1),)),
    ("unit", 1, (("unit", 1),)),
)


def _table() -> dict[str, tuple[Fraction, Dimensions]]:
    names: dict[str, tuple[Fraction, Dimensions]] = {}
    for symbols, words, factor, dimensions in _SI:
        for symbol in symbols.split():
            for prefix in (*_USUAL, "c", "d") if symbol in _PARTS else _USUAL:
                names[prefix + symbol] = (Fraction(factor) * Fraction(10) ** _DECIMAL_PREFIXES[prefix], dimensions)
        for word in words.split():
            for prefix, symbol in PREFIX_NAMES.items():
                names[prefix + word] = (Fraction(factor) * Fraction(10) ** _DECIMAL_PREFIXES[symbol], dimensions)
    for symbols, words, factor, dimensions in _SI:  # after the prefixed ones: min is a minute, cd a candela
        names.update(dict.fromkeys((*symbols.split(), *words.split()), (Fraction(factor), dimensions)))
    for spellings, factor, dimensions in _OTHER:
        names.update(dict.fromkeys(spellings.split(), (Fraction(factor), dimensions)))
    return names


UNITS = _table()
_UNLIKELY_UNKNOWNS = frozenset(
    (
        "cm",
        "mm",
        "km",
        "nm",
        "kg",
        "mg",
        "ft",
        "yd",
        "lb",
        "oz",
        "hr",
        "mL",
        "ml",
        "kJ",
        "kW",
        "Hz",
        "eV",
        "dm",
        "mi",
        "cc",
    )
)
AMBIGUOUS = frozenset(
    name for name in UNITS if len(name) <= 2 and name.isalpha() and name.isascii() and name not in _UNLIKELY_UNKNOWNS
)
"""Also names of unknowns: units only in upright type, or after a number and a blank (`12 m`)."""
