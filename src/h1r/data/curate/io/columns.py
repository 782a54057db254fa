"""Values of a row by the names of its columns, as text, and the final answer in a worked solution."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
from collections.abc import Iterable
from datetime import date, time
from decimal import Decimal
from typing import Any

_NOWHERE = object()


class BadRowError(Exception):
    """One row cannot be used; the text says why."""


def reach(row: Any, column: str) -> Any:
    """The value that a dotted column name leads to: keys of objects, and numbers (from 0, or from the end) of lists.

    A key may hold dots itself: of several ways the one with the longest first key counts. Text on the way is read as
    JSON.
    """
    found = _reached(row, column)
    if found is _NOWHERE:
        raise BadRowError(f"no column `{column}`")
    return found


def _reached(row: Any, column: str) -> Any:
    if isinstance(row, str):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(row)
    if isinstance(row, dict):
        for key in prefixes(column):
            if key in row:
                found = row[key] if key == column else _reached(row[key], column[len(key) + 1 :])
                if found is not _NOWHERE:
                    return found
        return _NOWHERE
    part, dot, rest = column.partition(".")
    if isinstance(row, list) and re.fullmatch(r"-?\d+", part) and -len(row) <= int(part) < len(row):
        return _reached(row[int(part)], rest) if dot else row[int(part)]
    return _NOWHERE


def prefixes(column: str) -> list[str]:
    """The keys that a dotted name may begin with, the longest first."""
    parts = column.split(".")
    return [".".join(parts[:number]) for number in range(len(parts), 0, -1)]


def plain(value: Any) -> Any:
    """A value of a file as JSON has it: decimal numbers as whole ones or floats, dates and times as text."""
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {key: plain(one) for key, one in value.items()} if isinstance(value, dict) else value


def measure(value: Any) -> Any:
    """A number that is written as text, as all are in CSV, as a number; what is none stays, empty text is None."""
    if isinstance(value, str):
        if not value.strip():
            return None
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def only_one(value: Any) -> Any:
    """The value in a list of one, as data sets wrap an answer; another value as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list | dict) else value


def value_text(value: Any, column: str) -> str:
    """A column's value as text; None, and a number that is none (NaN), are empty. Decimal numbers keep their digits."""
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    if isinstance(value, Decimal):
        text = format(value, "f")  # `normalize` would round to the digits of whoever has set the context
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadRowError(f"column `{column}` is {type(value).__name__}, not text or a number")
    return str(value)


def final_answer(text: str, is_solution: bool) -> str:
    """What follows the last `####` (GSM8K's mark); of a whole solution without it, the last `\\boxed{...}`."""
    if "####" in text:
        return text.rpartition("####")[2].strip()
    if not is_solution:
        return text.strip()
    start = text.rfind("\\boxed{")
    depth = 0
    for match in re.finditer(r"[{}]", text[start:] if start >= 0 else ""):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return text[start + len("\\boxed{") : start + match.start()].strip()
    return ""


def nearest(name: str, known: Iterable[str]) -> str:
    """The mend for an unknown name: the known one most like it, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(known)}"
