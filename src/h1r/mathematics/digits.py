r"""Numbers as they are written: digits only, thousands set apart, repeating decimals, decimals counted."""

from __future__ import annotations

import re
from fractions import Fraction

from h1r.mathematics.parse import Node
from h1r.mathematics.types import Value

_WRITTEN = re.compile(r"(-?)([0-9]{1,99})(?:\.([0-9]{1,99}))?")
_WRITTEN_FRACTION = re.compile(r"(-?)\\[dt]?frac\{([0-9]{1,99})\}\{([0-9]{1,99})\}")
COMMAS_IN_NUMBERS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
SPACED_NUMBER = re.compile(r"-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?(?![\d])")
_REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline ?\{(\d+)\}|(?:bar|dot) ?(?:\{(\d+)\}|(\d)))")
DECIMALS = re.compile(r"\d\.(\d+)|(?<!\d)\.(\d+)")


def written(latex: str) -> Value | None:
    r"""What the whole reader makes of a number in digits, 12, -0.5 or \frac{3}{4}, which most answers are."""
    node: Node
    if match := _WRITTEN.fullmatch(latex):
        whole, part = match[2], match[3] or ""
        text, decimals = latex, len(part)
        node = ("num", Fraction(int(whole + part), 10**decimals) if part else Fraction(int(whole)))
    elif match := _WRITTEN_FRACTION.fullmatch(latex):
        over, under = match[2], match[3]
        text, decimals = rf"{match[1]}\frac{{{over}}}{{{under}}}", 0
        node = ("div", ("num", Fraction(int(over))), ("num", Fraction(int(under))))
    else:
        return None
    return Value(text, ("neg", node) if match[1] else node, None, decimals)


def without_thousands(text: str) -> str:
    """The text without the commas, or blanks, that set thousands apart, where it has no others outside brackets."""
    if SPACED_NUMBER.fullmatch(text):
        return text.replace(" ", "")
    joined = COMMAS_IN_NUMBERS.sub(lambda match: match[1].replace(",", ""), text)
    return joined if "," not in joined and not joined.startswith(("(", "[", r"\{")) else text


def repeating(text: str) -> Fraction | None:
    """The value of a decimal with a period, as a whole; None for another text."""
    match = _REPEATING.fullmatch(text) if "." in text else None
    if match is None:
        return None
    whole, fixed, period = match[2] or "0", match[3], match[4] or match[5] or match[6]
    value = Fraction(int(whole + fixed), 10 ** len(fixed))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if match[1] else value
