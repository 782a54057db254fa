"""A worker: a process that has imported what grading needs, and forks itself once for every answer.

It takes requests from its parent over one socket (`frames`), one after the other:

    {"load": "module:function", "warm": ..., "file": its file or null, "seal": true or false}
                          -> {"loaded": true}, with "isolation": [level, why] when sealed; else {"error": text}
    {"id": n, "processor_s": seconds} with a descriptor
                          -> {"id": n, "pid": n}: a fork grades what the descriptor will say (`answer`)
                             {"id": n, "failed": text}: it could not fork
    {"id": n, "end": true, "wait_s": seconds}
                          -> {"id": n, "status": n, "killed": true or false, "processor_s": seconds}: the fork is gone

The worker itself never sees a problem, an answer or a verdict. So a fork inherits nothing of an earlier answer, and an
answer that runs as code in its fork finds nothing there that concerns another one; what bounds it is in `isolation`.

Two kinds grade by themselves instead of forking: those for verifiers that are registered with `keeps_state`, and all
where a fork of a process with system libraries is not safe (elsewhere than on Linux). There an answer that runs as code
can forge the verdicts that this worker gives from then on.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any

from h1r.verify.registry import resolve
from h1r.verify.workers.answer import grade_and_exit, grade_from, limit_processor_time
from h1r.verify.workers.frames import receive_with_descriptor, send_frame
from h1r.verify.workers.isolation import MAX_OPEN_FILES, WorkerIsolation, explained, give_up_rights, limit, thread_limit

CAN_FORK = sys.platform == "linux"
_POLL_S = 0.005
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


def main(descriptor: int, memory_limit_bytes: int, parent: int, isolation: str | None, forks: bool) -> None:
    """Serves requests until the parent closes the socket. `parent` is its process id.

    `isolation` is the level that sealing is to reach: a name, or "auto"; None for a worker that keeps its rights.
    """
    _die_with_parent(parent)
    if sys.platform != "darwin":  # which refuses to limit the address space
        limit(resource.RLIMIT_AS, memory_limit_bytes)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_CORE, 1)  # 0 would still start a host's handler of cores
    _Worker(socket.socket(fileno=descriptor), isolation, forks).serve()


class _Worker:
    """`level` is what the worker is confined by; None until it is sealed. `pid` is its fork's, if there is one."""

    def __init__(self, connection: socket.socket, isolation: str | None, forks: bool) -> None:
        self._connection = connection
        self._isolation = isolation
        self._forks = forks
        self._level: WorkerIsolation | None = None
        self._threads: int | None = None
        self._is_frozen = False
        self._pid: int | None = None

    def serve(self) -> None:
        while True:
            try:
                request, descriptor = receive_with_descriptor(self._connection)
            except EOFError:
                return
            if "load" in request:
                self._send(self._load(request))
            elif descriptor is None:
                self._send({"id": request["id"], **self._end(request["wait_s"])})
            elif self._forks:
                self._send({"id": request["id"], **self._fork(descriptor, request["processor_s"])})
                os.close(descriptor)
            else:
                self._send({"id": request["id"], "pid": os.getpid()})
                self._grade(descriptor, request["processor_s"])

    def _send(self, message: dict[str, Any]) -> None:
        send_frame(self._connection, message)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"loaded": True}
        gc.disable()  # a fifth of the time of an import, which makes no garbage to speak of
        try:
            resolve(request["load"], request["file"])
            if request["warm"]:
                resolve(request["warm"])()
        except Exception as error:
            return {"error": explained(error, self._level)}
        finally:
            gc.enable()
        if request["seal"] and self._level is None and self._isolation:
            try:
                limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
                self._threads = thread_limit()
                if not self._forks and self._threads is not None:
                    limit(resource.RLIMIT_NPROC, self._threads)
                self._level, why = give_up_rights(self._isolation, self._forks)
            except ValueError as error:
                return {"error": "no isolation", "refused": str(error)}
            reply["isolation"] = [self._level, why]
        self._is_frozen = False
        return reply

    def _fork(self, descriptor: int, processor_s: float) -> dict[str, Any]:
        if self._isolation and self._level is None:
            return {"failed": "a worker that was not confined refused to grade"}
        if not self._is_frozen:
            self._freeze()
        worker = os.getpid()
        try:
            self._pid = os.fork()
        except OSError as error:
            return {"failed": f"no process for an answer: {error}"}
        if self._pid == 0:
            self._connection.close()
            grade_and_exit(descriptor, worker, self._level, processor_s, self._threads)
        return {"pid": self._pid}

    def _freeze(self) -> None:
        """Takes what was imported from the collector, whose marks would copy the pages that forks share."""
        gc.collect()
        gc.freeze()
        self._is_frozen = True
        if self._level is None:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what an answer starts ends with it

    def _end(self, wait_s: float) -> dict[str, Any]:
        """Ends the fork, after `wait_s` in which it may end by itself, and all that it started."""
        if self._pid is None:
            return {"status": 0, "killed": False, "processor_s": 0.0}
        deadline, ended = time.monotonic() + wait_s, False
        flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while not (ended := os.waitid(os.P_PID, self._pid, flags) is not None) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        os.kill(self._pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._pid, 0)
        self._pid = None
        if self._level is None:
            _end_orphans()
        return {"status": status, "killed": not ended, "processor_s": usage.ru_utime + usage.ru_stime}

    def _grade(self, descriptor: int, processor_s: float) -> None:
        limit_processor_time(processor_s, hard=False)
        with socket.socket(fileno=descriptor) as connection:
            if not self._isolation or self._level is not None:
                grade_from(connection, self._level)


def _end_orphans() -> None:
    """Kills and reaps what an answer started; this process is the reaper of it all."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        with contextlib.suppress(OSError), open(f"/proc/self/task/{threading.get_native_id()}/children") as handle:
            for pid in handle.read().split():
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(_POLL_S)


def _die_with_parent(parent: int) -> None:
    """The kernel kills this process with its parent (Linux); elsewhere the end of standard input tells a thread.

    The thread comes too late while an answer holds the interpreter, hence the kernel. Nor can this process be traced,
    or its memory read, by others of its user.
    """
    if sys.platform != "linux":
        threading.Thread(target=_end_with_input, daemon=True).start()
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0 or os.getppid() != parent:
        os._exit(1)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
