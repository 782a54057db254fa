r"""Quantities of several units, 5 ft 4 in or 2 h 30 min: sums in the smallest of them, 64 in and 150 min.

The units measure the same thing and grow smaller. What only a comma or an "and" joins may be two lengths as well, so
that counts for units that are usually written side by side: of time, angle, money, and feet and inches, pounds and
ounces.
"""

from __future__ import annotations

import re
from fractions import Fraction

from h1r.mathematics.parse import WORD_CLOSE, WORD_OPEN, Node, UnreadableError, parse
from h1r.mathematics.units import Unit, read_unit

_MAX_PARTS = 4
_PART = re.compile(
    rf"(\d++(?:\.\d++)?(?:\\frac\{{\d+\}}\{{\d+\}})?|\\frac\{{\d+\}}\{{\d+\}}) ?"
    rf"({WORD_OPEN}[^{WORD_OPEN}{WORD_CLOSE}]*+{WORD_CLOSE}|[A-Za-zµ]++|\\degree(?![A-Za-z])|''?)"
    rf" ?(,|and\b|,? ?{WORD_OPEN} ?,? ?and {WORD_CLOSE}|)[ ,]*+"
)
_MARKS = str.maketrans("", "", WORD_OPEN + WORD_CLOSE)
_JOINED_INSIDE = re.compile(r"(?:,|,? ?\band)[ ]*+\Z")
_OF_ANGLES = {"'": Fraction(1, 60), "''": Fraction(1, 3600)}
_WITH_AND = frozenset(("second", "month", "dollar", "degree"))
_WITH_AND_FACTORS = frozenset(
    read.factor
    for name in ("ft", "in", "lb", "oz", "yd", "mi")
    if (read := read_unit(f"{WORD_OPEN}{name}{WORD_CLOSE}")) is not None
)


def compound(text: str) -> tuple[Node, Unit] | None:
    """The sum of a quantity that is given in two to four units, as a tree and the smallest unit; None for another."""
    sign = text.startswith("-")
    position = int(sign)
    total: Node | None = None
    units: list[Unit] = []
    joined = False
    while position < len(text) and len(units) < _MAX_PARTS:
        match = _PART.match(text, position)
        unit, inside = _unit(match[2]) if match else (None, False)
        if match is None or unit is None:
            return None
        if units and (unit.powers != units[-1].powers or unit.factor >= units[-1].factor):
            return None
        joined = joined or (bool(match[3] or inside) and match.end() < len(text))
        try:
            part: Node = ("mul", parse(match[1]), ("num", unit.factor))
        except UnreadableError:
            return None
        total = part if total is None else ("add", total, part)
        units.append(unit)
        position = match.end()
    if position < len(text) or len(units) < 2 or total is None:
        return None
    if joined and units[0].powers[0][0] not in _WITH_AND and not _WITH_AND_FACTORS.issuperset(u.factor for u in units):
        return None
    total = ("div", total, ("num", units[-1].factor))
    return (("neg", total) if sign else total), units[-1]


def _unit(text: str) -> tuple[Unit | None, bool]:
    """The unit that a text names, if it is known, and whether an "and" or a comma stands behind it."""
    if text in _OF_ANGLES:
        return Unit((("degree", 1),), _OF_ANGLES[text]), False
    words = text.translate(_MARKS)
    name = _JOINED_INSIDE.sub("", words).strip(" .")
    if not name or " " in name:
        return None, False
    unit = read_unit(name if name.startswith("\\") else f"{WORD_OPEN}{name}{WORD_CLOSE}")
    return (unit, name != words.strip(" .")) if unit and unit.known and len(unit.powers) == 1 else (None, False)
