"""What workers and their parent say to each other: frames of a 4-byte length and a JSON object, over local sockets.

What a process that is not trusted sends is bounded before it is read: in bytes, in values, and to one frame at a time.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from typing import Any, get_args

from h1r.records import Reason, Verdict
from h1r.sandbox.untrusted_json import read_object

MAX_FRAME_BYTES = 64 << 20
MAX_REPLY_BYTES = 16 << 20
"""What the parent takes: above the longest answer in JSON."""
MAX_REPLY_VALUES = 1 << 14
"""Of a reply: a verdict has a dozen, and one for each of its parts."""
_CHUNK_BYTES = 1 << 16  # a larger buffer would be mapped and given back for each reply
_HEADER = struct.Struct("!I")


def packed(message: dict[str, Any]) -> bytes:
    """The frame of a message; `TypeError` or `ValueError` for what is no JSON."""
    body = json.dumps(message).encode()
    return _HEADER.pack(len(body)) + body


def send_frame(connection: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """Writes one frame, and hands descriptors on with it; honours the socket's timeout."""
    frame = packed(message)
    sent = socket.send_fds(connection, [frame], descriptors) if descriptors else 0
    connection.sendall(memoryview(frame)[sent:])


def receive_frame(connection: socket.socket) -> dict[str, Any]:
    """Reads one frame; `EOFError` when the other side is gone, `ValueError` for what is no frame."""
    return receive_with_descriptor(connection)[0]


def receive_with_descriptor(connection: socket.socket) -> tuple[dict[str, Any], int | None]:
    """The same, and the descriptor that came with it, if one did."""
    header, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, 1)
    if not header:
        raise EOFError
    header += _receive(connection, _HEADER.size - len(header))
    (length,) = _HEADER.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise ValueError("frame too long")
    message = json.loads(_receive(connection, length))
    if not isinstance(message, dict):
        raise ValueError("a frame holds an object")
    return message, descriptors[0] if descriptors else None


def _receive(connection: socket.socket, count: int) -> bytes:
    chunks = []
    while count:
        chunk = connection.recv(min(count, 1 << 20))
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


class Replies:
    """Frames of another process, read as they arrive: one that comes byte by byte, or never ends, holds nobody up."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def read(self) -> None:
        """Takes what is there, which must not block; `EOFError` when the other side is gone."""
        chunk = self._connection.recv(_CHUNK_BYTES)
        if not chunk:
            raise EOFError
        self._received += chunk

    def next(self) -> dict[str, Any] | None:
        """The next frame of what was read; None while some of it is to come. `ValueError` for what is no frame."""
        if len(self._received) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._received)
        if length > MAX_REPLY_BYTES:
            raise ValueError("a reply that is too long")
        if len(self._received) < _HEADER.size + length:
            return None
        body = bytes(self._received[_HEADER.size : _HEADER.size + length])
        del self._received[: _HEADER.size + length]
        return read_object(body, MAX_REPLY_VALUES, MAX_REPLY_VALUES)


def checked_verdict(values: Any) -> Verdict:
    """A verdict from untrusted JSON: `ValueError` unless every field has its type and the reward is in [0, 1]."""
    try:
        verdict = Verdict(
            reward=float(values["reward"]),
            parts={str(name): float(value) for name, value in values["parts"].items()},
            extracted=values["extracted"],
            error=values["error"],
            reason=values["reason"],
        )
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a verdict: {error!r}") from None
    texts_ok = all(text is None or isinstance(text, str) for text in (verdict.extracted, verdict.error))
    texts_ok = texts_ok and (verdict.reason is None or verdict.reason in get_args(Reason))
    if not (texts_ok and 0.0 <= verdict.reward <= 1.0 and all(map(math.isfinite, verdict.parts.values()))):
        raise ValueError("not a verdict: a field is out of range")
    return verdict
