"""The process in which answers are graded: it may be killed at any moment, and ends with its parent.

One request at a time over a socket, each frame a 4-byte length and a JSON object:

    {"load": "module:function", "warm": ..., "seal": true or false}
                                  -> {"loaded": true}, with "isolation": [level, why] when sealed; else {"error": text}
    {"id": n, "grade": "module:function", "problem": {...}, "answer": text, "time_limit_s": seconds}
                                  -> {"id": n, "verdict": {...}}, or with "exhausted": true

What bounds a hostile answer here: address space and no file writes (rlimits), processor time per answer (the kernel
ends a loop that never releases the interpreter), no terminal, an environment without secrets, and its own session so
that it is killed with whatever it started. Once sealed, which a worker is before its first answer unless its verifier
is registered with `confined=False`, also what `isolation` says: no files but packages, no sockets, programs, processes
or signals; a refused call is an exception in the scorer, and its name the verdict's error.

What does not: an answer that a scorer can be made to run as code holds this process. It can forge the verdicts that
this worker gives from then on, use its time limit up, and see that a file exists. It is still no place to run code that
an answer contains: that is what `sandbox` is for.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import math
import os
import resource
import signal
import socket
import struct
import sys
import threading
from typing import Any, get_args

from h1r.records import Problem, Reason, Verdict
from h1r.sandbox.untrusted_json import read_object
from h1r.verify.registry import resolve
from h1r.verify.workers.isolation import MAX_OPEN_FILES, WorkerIsolation, explained, give_up_rights, kernel_limits

MAX_FRAME_BYTES = 64 << 20
MAX_REPLY_BYTES = 16 << 20
"""What the parent takes of a worker: above the longest answer in JSON."""
MAX_REPLY_VALUES = 1 << 14
"""Of a reply: a verdict has a dozen, and one for each of its parts."""
_CHUNK_BYTES = 1 << 16  # a larger buffer would be mapped and given back for each reply
_HEADER = struct.Struct("!I")


def send_frame(connection: socket.socket, message: dict[str, Any]) -> None:
    """Writes one frame; honours the socket's timeout."""
    body = json.dumps(message).encode()
    connection.sendall(_HEADER.pack(len(body)) + body)


def receive_frame(connection: socket.socket) -> dict[str, Any]:
    """Reads one frame; `EOFError` when the other side is gone, `ValueError` for what is no frame."""
    (length,) = _HEADER.unpack(_receive(connection, _HEADER.size))
    if length > MAX_FRAME_BYTES:
        raise ValueError("frame too long")
    message = json.loads(_receive(connection, length))
    if not isinstance(message, dict):
        raise ValueError("a frame holds an object")
    return message


class Replies:
    """A worker's frames, read as they arrive: one that it sends byte by byte, or never ends, holds nobody up."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = bytearray()

    def take(self) -> dict[str, Any] | None:
        """The frame that is there after one read, which must not block; None while some of it is to come.

        `EOFError` when the worker is gone, `ValueError` for what is no frame, or is more than the one that was due.
        """
        chunk = self._connection.recv(_CHUNK_BYTES)
        if not chunk:
            raise EOFError
        self._received += chunk
        if len(self._received) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._received)
        if length > MAX_REPLY_BYTES or len(self._received) > _HEADER.size + length:
            raise ValueError("a reply that is too long, or two")
        if len(self._received) < _HEADER.size + length:
            return None
        body, self._received = bytes(self._received[_HEADER.size :]), bytearray()
        return read_object(body, MAX_REPLY_VALUES, MAX_REPLY_VALUES)


def _receive(connection: socket.socket, count: int) -> bytes:
    chunks = []
    while count:
        chunk = connection.recv(min(count, 1 << 20))
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


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


def main(descriptor: int, memory_limit_bytes: int, parent: int, isolation: str | None) -> None:
    """Serves requests until the parent closes the socket. `parent` is its process id.

    `isolation` is the level that sealing is to reach: a name, or "auto"; None for a worker that keeps its rights.
    """
    _die_with_parent(parent)
    if sys.platform != "darwin":  # which refuses to limit the address space
        _limit(resource.RLIMIT_AS, memory_limit_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 1)  # 0 would still start a host's handler of cores
    _Worker(socket.socket(fileno=descriptor), isolation).serve()


class _Worker:
    """`level` is what the worker is confined by; None until it is sealed."""

    def __init__(self, connection: socket.socket, isolation: str | None) -> None:
        self._connection = connection
        self._isolation = isolation
        self._level: WorkerIsolation | None = None

    def serve(self) -> None:
        while True:
            try:
                request = receive_frame(self._connection)
            except EOFError:
                return
            if "load" in request:
                reply = self._load(request)
            else:
                _limit_processor_time(request["time_limit_s"])
                reply = self._grade(request)
            send_frame(self._connection, reply)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"loaded": True}
        try:
            resolve(request["load"])
            if request["warm"]:
                resolve(request["warm"])()
        except Exception as error:
            return {"error": explained(error, self._level)}
        if request["seal"] and self._level is None and self._isolation:
            try:
                for kind, value in kernel_limits().items():
                    _limit(kind, value)
                self._level, why = give_up_rights(self._isolation)
            except ValueError as error:
                return {"error": "no isolation", "refused": str(error)}
            reply["isolation"] = [self._level, why]
        return reply

    def _grade(self, request: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"id": request["id"]}
        try:
            if self._isolation and self._level is None:
                raise RuntimeError("a worker that was not confined refused to grade")
            verdict = resolve(request["grade"])(Problem(**request["problem"]), request["answer"])
            reply["verdict"] = dataclasses.asdict(checked_verdict(dataclasses.asdict(verdict)))
        except BaseException as error:  # a scorer may raise anything, SystemExit too
            reply["verdict"] = dataclasses.asdict(Verdict(0.0, error=explained(error, self._level), reason="crash"))
            reply["exhausted"] = isinstance(error, MemoryError)
        if self._level is not None and not _has_descriptors():
            reply["exhausted"] = True  # the next answer is not to pay for what this one left open
        return reply


def _has_descriptors() -> bool:
    """Whether the lowest free descriptor leaves half of the permitted ones."""
    try:
        free = os.dup(0)
    except OSError:
        return False
    os.close(free)
    return free < MAX_OPEN_FILES // 2


def _die_with_parent(parent: int) -> None:
    """The kernel kills this process with its parent (Linux); elsewhere the end of standard input tells a thread.

    The thread comes too late while an answer holds the interpreter, hence the kernel (prctl(2), PR_SET_PDEATHSIG = 1).
    And where the kernel has file rules they would not reach a thread that was there before them.
    """
    if sys.platform != "linux":
        threading.Thread(target=_end_with_input, daemon=True).start()
        return
    if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL) != 0 or os.getppid() != parent:
        os._exit(1)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


def _limit(kind: int, value: int) -> None:
    """Sets a soft and hard limit, within the hard one that the parent already has."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _limit_processor_time(time_limit_s: float) -> None:
    """The kernel's own end of this answer: a soft limit only, since the next answer moves it on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + time_limit_s) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
