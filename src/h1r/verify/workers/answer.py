"""What grades one answer: in a process of its own, which knows nothing of any other answer.

It reads what to grade from the socket that the parent made for this answer, and writes the verdict there:

    {"grade": "module:function", "problem": {...}, "answer": text}     ->     {"verdict": {...}}

An answer that a scorer can be made to run as code holds this process and its socket. It can say of itself what it
likes; it cannot reach another answer's process, the worker that forked this one, or what these two exchange.
"""

from __future__ import annotations

import dataclasses
import fcntl
import math
import os
import resource
import socket
from typing import Any, NoReturn

from h1r.records import Problem, Verdict
from h1r.verify.registry import as_verdict, resolve
from h1r.verify.workers.frames import checked_verdict, receive_frame, send_frame
from h1r.verify.workers.isolation import WorkerIsolation, confine_answer, explained, limit

_SOCKET_AT = 200
"""A number that no file of the worker had, so that an object that closes its file late does not close the socket."""


def grade_and_exit(
    descriptor: int, worker: int, level: WorkerIsolation | None, processor_s: float, threads: int | None
) -> NoReturn:
    """The life of a fork of `worker`, whose user may have so many `threads`, if that is bounded.

    `level` is what the worker is confined by, None for one that keeps its rights.
    """
    status = 1
    try:
        if threads is not None:
            limit(resource.RLIMIT_NPROC, threads)
        if level is not None:
            descriptor = _close_all_but(descriptor)
        limit_processor_time(processor_s)
        confine_answer(level, worker)
        grade_from(socket.socket(fileno=descriptor), level)
        status = 0
    finally:
        os._exit(status)


def grade_from(connection: socket.socket, level: WorkerIsolation | None) -> None:
    """Reads one request, and writes its reply."""
    request = receive_frame(connection)
    send_frame(connection, {"verdict": dataclasses.asdict(_graded(request, level))})


def _graded(request: dict[str, Any], level: WorkerIsolation | None) -> Verdict:
    try:
        found = resolve(request["grade"])(Problem(**request["problem"]), request["answer"])
        return checked_verdict(dataclasses.asdict(as_verdict(found)))
    except BaseException as error:  # a scorer may raise anything, SystemExit too
        return Verdict(0.0, error=explained(error, level), reason="crash")


def _close_all_but(descriptor: int) -> int:
    """Closes all files but the standard ones, which lead nowhere, and this one, whose new number is returned."""
    most = os.sysconf("SC_OPEN_MAX")
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, min(_SOCKET_AT, most - 1))
    os.closerange(3, moved)
    os.closerange(moved + 1, most)
    return moved


def limit_processor_time(seconds: float, *, hard: bool = True) -> None:
    """The kernel's own end of this process, after so much more processor time; only the soft limit unless `hard`.

    Whole seconds, and one more: the parent's clock is the exact one (`clock`).
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    end = end if most == resource.RLIM_INFINITY else min(end, most)
    resource.setrlimit(resource.RLIMIT_CPU, (end, end if hard else most))
