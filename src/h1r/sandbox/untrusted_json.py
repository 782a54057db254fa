"""JSON from a process that is not trusted: what reading it may cost is known before it is read.

A text of n bytes can hold n/3 containers, each of which takes a microsecond and a hundred bytes of memory, or n/2 other
values. Both are counted by their signs first, in C: `[`, `{` and `,`. Signs inside of strings count only if there are
too many with them.
"""

from __future__ import annotations

import json
from typing import Any


def read_object(body: bytes, max_containers: int, max_values: int) -> dict[str, Any]:
    """The object that a text is; `ValueError` for any other text, or one of more lists and objects, or more values."""
    if exceeds(body, max_containers, max_values):
        raise ValueError("more values than the limit")
    try:
        message = json.loads(body.decode())  # no other encoding, in which the signs would be other bytes
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(message, dict):
        raise ValueError("a frame holds an object")
    return message


def exceeds(body: bytes, max_containers: int, max_values: int) -> bool:
    """Whether a text of JSON holds more lists and objects, or more values in all, than so many; False for some that
    are no JSON, but never for one with too many before its first error."""
    if not _has_more(body, max_containers, max_values):
        return False
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    return _has_more(b"".join(plain.split(b'"')[::2]), max_containers, max_values)


def _has_more(body: bytes, max_containers: int, max_values: int) -> bool:
    containers = body.count(b"[") + body.count(b"{")
    return containers > max_containers or containers + body.count(b",") > max_values
