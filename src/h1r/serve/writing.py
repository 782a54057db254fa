"""A stream's events as bytes: chunks of JSON, each a server-sent event.

Most chunks differ in their text alone. They are written by one that was made with a mark in its place.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from h1r.serve.jobs import Delta, Event

_MARK = "\0"
_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_quoted = json.encoder.encode_basestring


class Chunks(Protocol):
    """How an interface streams. alike: whether chunks of a choice differ in their text alone, after its first."""

    alike: bool

    def chunks(self, event: Event) -> list[dict[str, Any]]: ...


class Writing:
    """Of one stream."""

    def __init__(self, shape: Chunks) -> None:
        self._shape = shape
        self._around: dict[tuple[int, str], tuple[str, str]] = {}

    def write(self, events: Sequence[Event]) -> bytes:
        """What is sent of events that come together; nothing of some."""
        return "".join([self._written(event) for event in events]).encode()

    def _written(self, event: Event) -> str:
        if not (isinstance(event, Delta) and self._shape.alike) or event.tokens:
            return "".join(map(sse, self._shape.chunks(event)))
        key = event.index, event.name
        if key in self._around:
            before, after = self._around[key]
            return f"{before}{_one_line(_quoted(event.text))}{after}"
        first = "".join(map(sse, self._shape.chunks(event)))
        marked = "".join(map(sse, self._shape.chunks(Delta(event.index, event.name, _MARK))))
        before, _, after = marked.partition(_json(_MARK))
        self._around[key] = before, after
        return first


def sse(chunk: dict[str, Any]) -> str:
    """A chunk as a server-sent event, one line, whatever a model writes."""
    name = f"event: {chunk['type']}\n" if "sequence_number" in chunk else ""
    return f"{name}data: {_one_line(_json(chunk))}\n\n"


def _one_line(text: str) -> str:
    """JSON without the characters that it may hold and that clients in Python take for the end of a line."""
    if text.isascii():
        return text
    return text.replace("\x85", r"\u0085").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029")
