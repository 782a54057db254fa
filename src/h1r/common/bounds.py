"""Bounds of the numbers that a dataclass holds, told once at its fields, in the words of JSON Schema: what checks a
value and what tells a client of it read the same.

    @dataclass(frozen=True)
    class Loop:
        repeats: int = bounded(4, minimum=2, maximum=100)
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge, "exclusiveMinimum": operator.gt, "maximum": operator.le, "exclusiveMaximum": operator.lt,
}  # fmt: skip
"""When a value holds one."""
_WORDS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}


def bounded(default: Any = dataclasses.MISSING, **bounds: float) -> Any:
    """A field with bounds: `minimum`, `exclusiveMinimum`, `maximum`, `exclusiveMaximum`."""
    unknown = bounds.keys() - BOUNDS.keys()
    if unknown:
        raise TypeError(f"no words of JSON Schema for a bound: {', '.join(sorted(unknown))}")
    return dataclasses.field(default=default, metadata=bounds)


def same_as(kind: Any, name: str) -> Any:
    """A field with the default and the bounds of another dataclass's."""
    return bounded(_field(kind, name).default, **bounds_of(kind, name))


def bounds_of(kind: Any, name: str) -> dict[str, float]:
    """Those of a field of a dataclass, or of an instance; none where it was given none."""
    metadata = _field(kind, name).metadata
    return {word: metadata[word] for word in BOUNDS if word in metadata}


def out_of_bounds(instance: Any) -> dict[str, str]:
    """The fields whose values lie outside their bounds, with the bounds in words. None lies within any, what is no
    number (NaN) in none."""
    found = {}
    for field in dataclasses.fields(instance):
        bounds, value = bounds_of(instance, field.name), getattr(instance, field.name)
        if value is not None and not all(BOUNDS[word](value, bound) for word, bound in bounds.items()):
            found[field.name] = " and ".join(f"{_WORDS[word]} {bound:g}" for word, bound in bounds.items())
    return found


def _field(kind: Any, name: str) -> dataclasses.Field[Any]:
    return next(one for one in dataclasses.fields(kind) if one.name == name)
