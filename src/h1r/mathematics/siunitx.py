r"""LaTeX's package siunitx: \SI{9.8}{\metre\per\second\squared} as `9.8 \text{m / s ^2}`, \num{1.5e3}, \ang{30}.

Numbers and units may be given as macros or as symbols; `\qty` and `\unit` are the names of its third version.
"""

from __future__ import annotations

import re

from h1r.mathematics.unit_table import PREFIX_NAMES

_GROUP = r" ?(?:\[[^\[\]{}]*+\] ?)?\{((?:[^{}]|\{[^{}]*+\})*+)\}"
_MACROS = re.compile(r"\\(?:SI|si\{|qty|unit|num|ang\{)")
_QUANTITY = re.compile(rf"\\(?:SI|qty){_GROUP}{_GROUP}")
_UNIT = re.compile(rf"\\(?:si|unit){_GROUP}")
_NUMBER = re.compile(rf"\\num{_GROUP}")
_ANGLE = re.compile(r"\\ang ?\{([-\d.]*+)\}")
_MACRO = re.compile(r"\\([A-Za-z]+)|\^ ?\{? ?(-?\d+) ?\}?|([^\\^{}~. ]++)|[~. {}]|\\.")
_SYMBOLS = {
    "metre": "m",
    "meter": "m",
    "gram": "g",
    "second": "s",
    "litre": "L",
    "liter": "L",
    "newton": "N",
    "joule": "J",
    "watt": "W",
    "pascal": "Pa",
    "hertz": "Hz",
    "kelvin": "K",
    "ampere": "A",
    "coulomb": "C",
    "volt": "V",
    "ohm": "Ω",
    "farad": "F",
    "henry": "H",
    "tesla": "T",
    "weber": "Wb",
    "siemens": "S",
    "mole": "mol",
    "candela": "cd",
    "electronvolt": "eV",
    "angstrom": "Å",
    "minute": "min",
    "hour": "h",
    "day": "day",
    "bar": "bar",
    "degree": "degree",
    "celsius": "°c",
    "degreeCelsius": "°c",
    "percent": "%",
    "radian": "rad",
    "tonne": "t",
    "bit": "bit",
    "byte": "B",
    "dalton": "Da",
    "hectare": "ha",
    "kilogram": "kg",
    "becquerel": "Bq",
    "cm": "cm",
    "mm": "mm",
    "km": "km",
    "kg": "kg",
    "Molar": "M",
    "molar": "M",
    "atm": "atm",
    "knot": "knot",
}
_POWERS = {"squared": "^2", "cubed": "^3"}
_POWERS_BEFORE = {"square": "^2", "cubic": "^3"}


def expand(latex: str) -> str:
    """The text with the macros of siunitx written out."""
    if not _MACROS.search(latex):
        return latex
    text = _QUANTITY.sub(lambda match: rf"{_number(match[1])} \text{{ {_units(match[2])} }}", latex)
    text = _UNIT.sub(lambda match: rf"\text{{ {_units(match[1])} }}", text)
    text = _NUMBER.sub(lambda match: _number(match[1]), text)
    return _ANGLE.sub(r"\1^\\circ", text)


def _number(text: str) -> str:
    return text.replace(" ", "")


def _units(text: str) -> str:
    """Unit macros or symbols as plain symbols: `kg m^2 / s^2`."""
    above: list[str] = []
    below: list[str] = []
    prefix, power, place, last = "", "", above, above
    for macro, exponent, symbol in _MACRO.findall(text):
        if exponent or macro in _POWERS:
            if last:
                last[-1] += f"^{exponent}" if exponent else _POWERS[macro]
        elif symbol:
            above.append(symbol)
            last = above
        elif macro in PREFIX_NAMES:
            prefix = PREFIX_NAMES[macro]
        elif macro == "per":
            place = below
        elif macro in _POWERS_BEFORE:
            power = _POWERS_BEFORE[macro]
        elif macro:
            place.append(f"{prefix}{_SYMBOLS.get(macro, macro)}{power}")
            prefix, power, place, last = "", "", above, place
    return " ".join((*above, *(f"/ {name}" for name in below)))
