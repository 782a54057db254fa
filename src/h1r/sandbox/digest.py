"""A digest in place of a value that is too large to be sent.

    digest = SHA-256 of the value as marshal (version 2) writes it, a stretch of its elements at a time

Two values of the kinds that have a digest are the same, bit by bit and with their types, exactly when their digests
are. These are texts, numbers, truth values and None, in lists and tuples, none of them of a derived class. What has an
order of its own (sets, mappings) has none, nor has a list of floats, to which a tolerance applies. Version 2 of marshal
writes every value by itself, whatever else refers to it, and the same in every version of Python.

The tested code's process computes this of what the tested code returned, and may be made to claim any digest, as it may
be made to send any value. It gains nothing: what is expected, or its digest, never enters that process.
"""

from __future__ import annotations

import hashlib
import itertools
import marshal
from types import NoneType
from typing import Any

PLAIN: frozenset[type] = frozenset((str, int, float, bool, NoneType, list, tuple))
_CONTAINERS: frozenset[type] = frozenset((list, tuple))
_STRETCH = 4096


def is_beyond(value: Any, limit_bytes: int) -> bool:
    """Whether a list or tuple surely takes more bytes as JSON; stops counting as soon as it does."""
    if type(value) not in _CONTAINERS:
        return False
    size, waiting = 0, [iter(value)]
    while waiting:
        for item in waiting[-1]:
            kind = type(item)
            size += len(item) + 3 if kind is str else 2
            if size > limit_bytes:
                return True
            if kind in _CONTAINERS:
                waiting.append(iter(item))
                break
        else:
            waiting.pop()
    return False


def digest(value: Any) -> str:
    """In hexadecimal; `ValueError` for a value that has none."""
    strange = _kinds(value) - PLAIN
    if strange:
        raise ValueError(f"too large to be sent, and with a {min(kind.__name__ for kind in strange)} in it")
    if type(value) is float or (type(value) in _CONTAINERS and value and set(map(type, value)) == {float}):
        raise ValueError("too large to be sent, and of floats")
    found = hashlib.sha256()
    if type(value) in _CONTAINERS:
        found.update(f"{type(value).__name__} of {len(value)}: ".encode())
        for start in range(0, len(value), _STRETCH):
            found.update(marshal.dumps(list(value[start : start + _STRETCH]), 2))
    else:
        found.update(marshal.dumps(value, 2))
    return found.hexdigest()


def _kinds(value: Any) -> set[type]:
    """The types of everything in a value."""
    found: set[type] = {type(value)}
    containers = [value] if type(value) in _CONTAINERS else []
    while containers:
        kinds = set(map(type, itertools.chain.from_iterable(containers)))
        found |= kinds
        if kinds.isdisjoint(_CONTAINERS):
            break
        inner = itertools.chain.from_iterable(containers)
        containers = [item for item in inner if type(item) in _CONTAINERS]
    return found
