r"""Numbers as they are written: thousands set apart, repeating decimals, decimals counted."""

from __future__ import annotations

import re
from fractions import Fraction

COMMAS_IN_NUMBERS = re.compile(r"(?<![\d.,])([1-9]\d{0,2}(?:,\d{3})+)(?![\d,])")
SPACED_NUMBER = re.compile(r"-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?(?![\d])")
REPEATING = re.compile(r"(-?)(\d*)\.(\d*)\\(?:overline ?\{(\d+)\}|(?:bar|dot) ?(?:\{(\d+)\}|(\d)))")
DECIMALS = re.compile(r"\d\.(\d+)|(?<!\d)\.(\d+)")


def without_thousands(text: str) -> str:
    """The text without the commas, or blanks, that set thousands apart, where it has no others outside brackets."""
    if SPACED_NUMBER.fullmatch(text):
        return text.replace(" ", "")
    joined = COMMAS_IN_NUMBERS.sub(lambda match: match[1].replace(",", ""), text)
    return joined if "," not in joined and not joined.startswith(("(", "[", r"\{")) else text


def repeating(match: re.Match[str]) -> Fraction:
    whole, fixed, period = match[2] or "0", match[3], match[4] or match[5] or match[6]
    value = Fraction(int(whole + fixed), 10 ** len(fixed))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return -value if match[1] else value
