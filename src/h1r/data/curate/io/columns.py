"""Values of a row by the names of its columns, as text, and the final answer in a worked solution."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Iterable
from typing import Any


class BadRowError(Exception):
    """One row cannot be used; the text says why."""


def reach(row: Any, column: str) -> Any:
    """The value that a dotted column name leads to: keys of objects, and numbers (from 0, or from the end) of lists.

    Text on the way is read as JSON.
    """
    for part in column.split("."):
        if isinstance(row, str):
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(row)
        if isinstance(row, dict) and part in row:
            row = row[part]
        elif isinstance(row, list) and re.fullmatch(r"-?\d+", part) and -len(row) <= int(part) < len(row):
            row = row[int(part)]
        else:
            raise BadRowError(f"no column `{column}`")
    return row


def value_text(value: Any, column: str) -> str:
    """A column's value as text; None is empty."""
    if value is None:
        return ""
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
