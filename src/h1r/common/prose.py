"""Numbers and lists in sentences."""

from __future__ import annotations

from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """`1 row`, `1,234 rows`, `2 replies`."""
    return f"{number:,} {noun if number == 1 else plural_of(noun)}"


def plural_of(noun: str) -> str:
    """Of a regular noun: `rows`, `processes`, `replies`."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return noun + ("es" if noun.endswith("s") else "s")


def size(number: float) -> str:
    """Bytes in the largest unit of which there is one, in three figures: `1 byte`, `1010 KiB`, `1.75 GiB`."""
    if round(number) < 1024:
        return counted(round(number), "byte")
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        number /= 1024
        if round(number) < 1024 or unit == "TiB":
            break
    return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"


def listing(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""
