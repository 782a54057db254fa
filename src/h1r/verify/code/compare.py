"""Whether what came back from tested code is what was expected. Pure, and bounded for any input."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from h1r.sandbox.values import MAX_ITERATED, checked_set
from h1r.verify.code.problem_tests import Rule

RTOL = 1e-7
FLOAT_ATOL = 1e-6

_NUMBER = re.compile(r"[+-]?(\d{1,400}(\.\d{0,400})?|\.\d{1,400})([eE][+-]?\d{1,6})?", re.ASCII)


def same_output(actual: str, expected: str, tolerance: float | None = None) -> bool:
    """LiveCodeBench's rule: line by line, without surrounding white space, numbers by value where the text differs."""
    ours, theirs = (text.strip().split("\n") for text in (actual, expected))
    return len(ours) == len(theirs) and all(
        one.strip() == other.strip() or _same_numbers(one.split(), other.split(), tolerance)
        for one, other in zip(ours, theirs, strict=True)
    )


def _same_numbers(ours: list[str], theirs: list[str], tolerance: float | None) -> bool:
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if one == other and tolerance is not None:
            continue
        if not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)):
            return False
        if tolerance is not None:
            if not math.isclose(float(one), float(other), rel_tol=tolerance, abs_tol=tolerance):
                return False
        elif Decimal(one) != Decimal(other):
            return False
    return True


def same_value(actual: Any, expected: Any, atol: float, rule: Rule = "equal", arguments: Sequence[Any] = ()) -> bool:
    """Whether a result is right by a rule of `CallTests`; False, never an exception, for what cannot be compared."""
    try:
        if rule == "set":
            if isinstance(actual, range) and len(actual) > MAX_ITERATED:
                return False  # a range takes no room before somebody lists it
            return checked_set(list(actual)) == checked_set(list(expected))
        if rule == "not_none":
            return bool(actual == expected if isinstance(actual, bool) else expected == (actual is not None))
        if rule == "root":
            return abs(sum(c * math.pow(actual, power) for power, c in enumerate(arguments[0]))) <= atol
        return bool(actual == expected) or (atol > 0 and _close(actual, expected, atol))
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return False


def is_floats(expected: Any) -> bool:
    if isinstance(expected, (list, tuple)):
        return bool(expected) and all(isinstance(item, float) for item in expected)
    return isinstance(expected, float)


def _close(actual: Any, expected: Any, atol: float) -> bool:
    if isinstance(expected, (list, tuple)):
        same_shape = type(actual) is type(expected) and len(actual) == len(expected)
        return same_shape and all(_close(one, other, atol) for one, other in zip(actual, expected, strict=True))
    if isinstance(expected, dict):
        same_keys = isinstance(actual, dict) and actual.keys() == expected.keys()
        return same_keys and all(_close(actual[key], value, atol) for key, value in expected.items())
    if any(isinstance(value, bool) or not isinstance(value, (int, float, complex)) for value in (actual, expected)):
        return bool(actual == expected)
    if actual != actual and expected != expected:
        return True  # both not a number
    return actual == expected or abs(actual - expected) <= atol + RTOL * abs(expected)
