"""Numbers and lists in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal


def counted(number: int, noun: str) -> str:
    """`1 row`, `1,234 rows`, `2 replies`."""
    return f"{number:,} {noun if number == 1 else plural_of(noun)}"


def plural_of(noun: str) -> str:
    """Of a regular noun: `rows`, `processes`, `replies`."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith("s") else "s")


def figures(number: float, most: int = 3) -> str:
    """A number in so many figures, never as a power of ten: `0.000054`, `17.2`; one with more digits before the point
    has all of these: `8,704`."""
    if not math.isfinite(number):
        return str(number)
    short = Decimal(f"{number:.{most}g}")
    return f"{number:,.0f}" if abs(short) >= 10**most else f"{short:f}"


def size(number: float) -> str:
    """Bytes in the largest unit of which there is one, in three figures: `1 byte`, `1,010 KiB`, `1.75 GiB`."""
    if round(number) < 1024:
        return counted(round(number), "byte")
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        number /= 1024
        if round(number) < 1024 or unit == "TiB":
            break
    return f"{figures(number)} {unit}"


def listing(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; cells are of one line each."""
    lines = (f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines])
