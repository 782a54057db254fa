"""Whether what came back from tested code is what was expected. Pure, and bounded for any input.

The options are the problem's. None makes more of an answer than it is: a tolerance holds between finite numbers, an
order that does not matter is one of lists, tuples and sets, and what is no data equals nothing.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from h1r.sandbox.values import MAX_ITERATED, OneShot, checked_set, dump_frame, encode
from h1r.verify.code.kinds import Layout, Rule

RTOL = 1e-7
FLOAT_ATOL = 1e-6

_NUMBER = re.compile(r"\A[+-]?(?:\d{1,400}+(?:\.\d{0,400}+)?|\.\d{1,400}+)(?:[eE][+-]?\d{1,6}+)?", re.ASCII)


def same_output(
    actual: str, expected: str, tolerance: float | None = None, layout: Layout = "lines", ignore_case: bool = False
) -> bool:
    """LiveCodeBench's rule: line by line, without surrounding white space, numbers by value where the text differs.

    "tokens" knows no lines, "unordered_lines" no order of them.
    """
    if ignore_case:
        actual, expected = actual.casefold(), expected.casefold()
    if layout == "tokens":
        return _same_numbers(actual.split(), expected.split(), tolerance)
    ours, theirs = ([line.strip() for line in text.strip().split("\n")] for text in (actual, expected))
    if layout == "unordered_lines":
        ours, theirs = sorted(ours), sorted(theirs)
    return len(ours) == len(theirs) and all(
        one == other or _same_numbers(one.split(), other.split(), tolerance)
        for one, other in zip(ours, theirs, strict=True)
    )


def _same_numbers(ours: list[str], theirs: list[str], tolerance: float | None) -> bool:
    """Token by token: the same text, or the same number."""
    if len(ours) != len(theirs):
        return False
    for one, other in zip(ours, theirs, strict=True):
        if one == other:
            continue
        if not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)):
            return False
        if tolerance is None:
            if Decimal(one) != Decimal(other):
                return False
        elif not _within(float(one), float(other), tolerance):
            return False
    return True


def _within(one: float, other: float, tolerance: float) -> bool:
    """Finite numbers, close absolutely or relatively."""
    finite = math.isfinite(one) and math.isfinite(other)
    return finite and math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)


class _Limits(NamedTuple):
    atol: float
    float_atol: float
    tolerance: float | None


def same_value(
    actual: Any,
    expected: Any,
    atol: float,
    rule: Rule = "equal",
    arguments: Sequence[Any] = (),
    tolerance: float | None = None,
    float_atol: float = 0.0,
) -> bool:
    """Whether a result is right by a rule of `CallTests`; False, never an exception, for what cannot be compared.

    `atol` is for all numbers but two integers, `float_atol` where a float is expected; `tolerance` is the problem's.
    """
    limits = _Limits(atol, max(atol, float_atol), tolerance)
    try:
        if rule == "set":
            return _same_set(actual, expected)
        if rule == "unordered":
            return _same_in_any_order(actual, expected, limits)
        if rule == "not_none":
            return bool(actual == expected if isinstance(actual, bool) else expected == (actual is not None))
        if rule == "root":
            value = sum(c * math.pow(actual, power) for power, c in enumerate(arguments[0]))
            return math.isfinite(actual) and abs(value) <= atol
        return bool(actual == expected) or _close(actual, expected, limits)
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        return False


_WITHOUT_ORDER = (list, tuple, set, frozenset, range, collections.deque, OneShot)


def _same_set(actual: Any, expected: Any) -> bool:
    if not isinstance(actual, _WITHOUT_ORDER) and type(actual) is not type(expected):
        return False
    if isinstance(actual, range) and len(actual) > MAX_ITERATED:
        return False  # a range takes no room before somebody lists it
    return checked_set(list(actual)) == checked_set(list(expected))


def _same_in_any_order(actual: Any, expected: Any, limits: _Limits) -> bool:
    if not isinstance(actual, (list, tuple)) or not isinstance(expected, (list, tuple)) or len(actual) != len(expected):
        return False
    order: Callable[[Any], bytes] = lambda item: dump_frame({"item": encode(item)})  # noqa: E731
    pairs = zip(sorted(actual, key=order), sorted(expected, key=order), strict=True)
    return all(one == other or _close(one, other, limits) for one, other in pairs)


def is_floats(expected: Any) -> bool:
    if isinstance(expected, (list, tuple)):
        return bool(expected) and all(isinstance(item, float) for item in expected)
    return isinstance(expected, float)


def _close(actual: Any, expected: Any, limits: _Limits) -> bool:
    if isinstance(expected, (list, tuple)):
        same_shape = type(actual) is type(expected) and len(actual) == len(expected)
        return same_shape and all(_close(one, other, limits) for one, other in zip(actual, expected, strict=True))
    if isinstance(expected, dict):
        same_keys = isinstance(actual, dict) and actual.keys() == expected.keys()
        return same_keys and all(_close(actual[key], value, limits) for key, value in expected.items())
    if actual == expected:
        return True
    if any(isinstance(value, bool) or not isinstance(value, (int, float, complex)) for value in (actual, expected)):
        return False
    if isinstance(actual, complex) or isinstance(expected, complex):
        parts = zip(*((complex(value).real, complex(value).imag) for value in (actual, expected)), strict=True)
        return all(_close(one, other, limits) for one, other in parts)
    if actual != actual and expected != expected:
        return limits.float_atol > 0 or limits.tolerance is not None  # both not a number
    whole = isinstance(actual, int) and isinstance(expected, int)
    if whole or not (math.isfinite(actual) and math.isfinite(expected)):
        return False
    if limits.tolerance is not None:
        return _within(float(actual), float(expected), limits.tolerance)
    atol = limits.float_atol if isinstance(expected, float) else limits.atol
    return bool(atol > 0 and abs(actual - expected) <= atol + RTOL * abs(expected))


def as_json(value: Any) -> Any:
    """A result as JSON would hold it: tuples are lists, and keys are texts."""
    if isinstance(value, (list, tuple)) and not isinstance(value, OneShot):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        names = {key: key if isinstance(key, str) else str(key) for key in value}
        if len(set(names.values())) == len(names):
            return {names[key]: as_json(item) for key, item in value.items()}
    return value
