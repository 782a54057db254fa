"""Values between processes that do not trust each other: plain data as JSON with tags, never pickle.

    frame = 4-byte length, then UTF-8 JSON

`None`, `bool`, `str`, finite or not `float`, and `int` below 2^63 stand for themselves, a list for a list; everything
else is an object with the key "!". A subclass (a named tuple, a `Counter`, an `IntEnum`) travels as its base, so
whatever it overrode stays behind. What is no data becomes `Opaque` (or, if the encoder is given a `keep`, a reference
by number).

Decoding is safe on any input: its cost is bounded by the frame's length, nesting is bounded, and sets and mappings with
crafted hash collisions are refused. It raises only `ValueError`.
"""

from __future__ import annotations

import collections
import datetime
import json
import os
import struct
from collections.abc import Callable, ItemsView, Iterable, KeysView, ValuesView
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

from h1r.sandbox.untrusted_json import read_object

MAX_DEPTH = 400
MAX_ITERATED = 1_000_000
MAX_CONTAINERS = 1 << 18
"""Of one frame from an untrusted side. A list is one; a tuple, a set and a mapping are two, and a pair in it one."""
_HEADER = struct.Struct("!I")
_PLAIN_INT = 1 << 63
_ENOUGH_TO_COLLIDE = 64

CHANNEL = 3
"""The descriptor of the frames between a run and its parent."""


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """A value that is no data. It equals nothing, itself included, so that no comparison can pass because of it."""

    kind: str

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class Digest:
    """What stands for a value that was too large to be sent; see `digest`."""

    text: str


class OneShot(list[Any]):
    """The items of a generator or another iterator. It equals no list, as an iterator would not."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None


def encode(value: Any, keep: Callable[[Any], dict[str, Any]] | None = None, depth: int = 0) -> Any:
    """The JSON form. `ValueError` when it is nested too deep; `keep` says what stands for an object that is no data."""
    kind: Any = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        return value if -_PLAIN_INT < value < _PLAIN_INT else {"!": "int", "v": hex(value)}
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    if kind is list:
        return [encode(item, keep, depth + 1) for item in value]
    tag = _BY_TYPE.get(kind)
    if tag is not None:
        return {"!": tag, "v": [encode(item, keep, depth + 1) for item in value]}
    if kind is dict:
        pairs = [[encode(name, keep, depth + 1), encode(item, keep, depth + 1)] for name, item in value.items()]
        return {"!": "dict", "v": pairs}
    return _encode_rare(value, keep, depth)


_SUBCLASSED_SCALARS: tuple[Any, ...] = (int, float, str)
_SUBCLASSED_CONTAINERS: tuple[Any, ...] = (list, tuple, set, frozenset, collections.deque)
_BY_TYPE: dict[Any, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", collections.deque: "deque"}


def _encode_rare(value: Any, keep: Callable[[Any], dict[str, Any]] | None, depth: int) -> Any:
    kind = type(value)
    for scalar in _SUBCLASSED_SCALARS:
        if isinstance(value, scalar):
            return encode(scalar.__getnewargs__(value)[0], keep, depth)
    if isinstance(value, dict):
        return encode(dict(dict.items(value)), keep, depth)
    if keep and isinstance(value, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
        return keep(value)
    for container in _SUBCLASSED_CONTAINERS:
        if isinstance(value, container):
            return encode(container(container.__iter__(value)), keep, depth)
    if isinstance(value, complex):
        return {"!": "complex", "v": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"!": "bytes", "v": bytes(value).hex()}
    if isinstance(value, range):
        return {"!": "range", "v": [value.start, value.stop, value.step]}
    if isinstance(value, (Decimal, Fraction)):
        return {"!": kind.__name__, "v": str(value)}
    for moment in _MOMENTS:
        if isinstance(value, moment):
            return {"!": moment.__name__, "v": _moment_parts(moment, value)}
    if keep and kind.__name__ == "ndarray":
        return keep(value)
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), keep, depth + 1)
    if isinstance(value, (KeysView, ValuesView, ItemsView)):
        return {"!": "iterator", "v": [encode(item, keep, depth + 1) for item in value]}
    if hasattr(value, "__next__") and hasattr(value, "__iter__"):
        if keep:
            return keep(value)
        return {"!": "iterator", "v": [encode(item, keep, depth + 1) for item in _bounded(value)]}
    return keep(value) if keep else {"!": "opaque", "v": kind.__name__[:100]}


_MOMENTS: tuple[Any, ...] = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone)
"""A datetime is a date as well, so it stands first."""


def _moment_parts(moment: Any, value: Any) -> list[int | None]:
    """The whole numbers that a date, a time or a duration is made of; a time zone is its offset in microseconds."""
    if moment is datetime.timedelta:
        return [value.days, value.seconds, value.microseconds]
    if moment is datetime.timezone:
        return [_offset(value.utcoffset(None))]
    date = [value.year, value.month, value.day] if moment is not datetime.time else []
    if moment is datetime.date:
        return date
    return [*date, value.hour, value.minute, value.second, value.microsecond, _offset(value.utcoffset())]


def _offset(zone: datetime.timedelta | None) -> int | None:
    return None if zone is None else zone // datetime.timedelta(microseconds=1)


def _moment(moment: Any, parts: list[int | None]) -> Any:
    if moment is datetime.timezone:
        return _zone(parts[0])
    if moment in (datetime.datetime, datetime.time):
        *clock, offset = parts
        return moment(*clock, tzinfo=_zone(offset))
    return moment(*parts)


def _zone(offset: int | None) -> datetime.timezone | None:
    return None if offset is None else datetime.timezone(datetime.timedelta(microseconds=offset))


def _bounded(items: Iterable[Any]) -> Iterable[Any]:
    for count, item in enumerate(items):
        if count == MAX_ITERATED:
            raise ValueError("an iterator without an end")
        yield item


def decode(form: Any, refer: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON form from an untrusted side. `refer` reads what `keep` wrote; without it, it is `Opaque`."""
    try:
        return _decode(form, refer, 0)
    except (TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"not a value: {type(error).__name__}") from None


def _decode(form: Any, refer: Callable[[dict[str, Any]], Any] | None, depth: int) -> Any:
    if form is None or isinstance(form, (bool, str, int, float)):
        return form
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    if isinstance(form, list):
        return _decode_items(form, refer, depth)
    tag, body = form["!"], form.get("v")
    if tag == "dict":
        pairs = [(_decode(name, refer, depth + 1), _decode(item, refer, depth + 1)) for name, item in body]
        checked_set([name for name, _ in pairs])
        return dict(pairs)
    if tag in _CONTAINERS:
        items = _decode_items(body, refer, depth)
        if tag in ("set", "frozenset"):
            checked_set(items)
        return _CONTAINERS[tag](items)
    if tag in _SCALARS:
        return _SCALARS[tag](body)
    if refer is not None:
        return refer(form)
    return Opaque(str(body)[:100])


_PLAIN: frozenset[type] = frozenset((type(None), bool, str, int, float))


def _decode_items(forms: Any, refer: Callable[[dict[str, Any]], Any] | None, depth: int) -> list[Any]:
    if _PLAIN.issuperset(map(type, forms)):
        return list(forms)
    return [_decode(item, refer, depth + 1) for item in forms]


_CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "iterator": OneShot,
}
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "bytes": bytes.fromhex,
    "range": lambda parts: range(*map(int, parts)),
    "Decimal": Decimal,
    "Fraction": lambda text: Fraction(text) if len(text) < 10_000 and "e" not in text.lower() else Opaque("Fraction"),
    **{moment.__name__: partial(_moment, moment) for moment in _MOMENTS},
}


def checked_set(items: list[Any]) -> set[Any]:
    """The set of values from an untrusted side; `ValueError` for crafted keys of one hash: n take n^2 steps."""
    if len(items) > _ENOUGH_TO_COLLIDE:
        hashes = collections.Counter(map(hash, items))
        alike: dict[int, set[Any]] = {number: set() for number, n in hashes.items() if n > _ENOUGH_TO_COLLIDE}
        for item in items if alike else ():
            if (group := alike.get(hash(item))) is not None:
                group.add(item)
                if len(group) > _ENOUGH_TO_COLLIDE:
                    raise ValueError("colliding keys")
    return set(items)


def dump_frame(message: dict[str, Any]) -> bytes:
    """One frame. Strings keep lone surrogates; integers are never printed in decimal beyond 2^63."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return _HEADER.pack(len(body)) + body


class FrameReader:
    """Frames out of the bytes of a stream.

    `ValueError` for a frame over `max_bytes`, with more than `max_containers` lists and objects, or that is no object.
    """

    def __init__(self, max_bytes: int, max_containers: int = MAX_CONTAINERS) -> None:
        self._max_bytes = max_bytes
        self._max_containers = max_containers
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> dict[str, Any] | None:
        """The next whole frame, or None until more bytes come."""
        if len(self._buffer) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._buffer)
        if length > self._max_bytes:
            raise ValueError("more output than the limit")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        return read_object(body, self._max_containers, self._max_bytes)


def read_frame(descriptor: int, reader: FrameReader) -> dict[str, Any] | None:
    """Blocks for the next frame from a descriptor; None at its end."""
    while (message := reader.next()) is None:
        data = os.read(descriptor, 1 << 16)
        if not data:
            return None
        reader.feed(data)
    return message


def write_all(descriptor: int, data: bytes) -> None:
    """Writes everything to a blocking descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
