"""Workers and their answers as the parent sees them: what a worker has loaded, and how it is told what to do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from h1r.records import Problem, Verdict
from h1r.verify.registry import Verifier
from h1r.verify.workers.clock import Meter
from h1r.verify.workers.frames import Replies, packed, send_frame
from h1r.verify.workers.worker import CAN_FORK

START_LIMIT_S = 120.0
"""Seconds a worker may take to start, to import a verifier, or to fork; not charged to any answer."""
SEND_LIMIT_S = 5.0
_BOOTSTRAP = (
    "import sys, json; arguments = json.loads(sys.argv[1]); sys.path[:] = arguments.pop(); "
    "from h1r.verify.workers.worker import main; main(*arguments)"
)
_PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(slots=True, eq=False)
class Job:
    """An answer that is to be graded, and where its verdict goes; `retried` once its worker failed."""

    verifier: Verifier
    problem: Problem
    answer: str
    future: Future[Verdict] = field(default_factory=Future)
    retried: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """What a worker is for: verifiers that are `confined` or not, in a fork per answer or in itself."""

    confined: bool
    forks: bool


def kind_of(verifier: Verifier) -> Kind:
    """The kind of worker that a verifier needs here."""
    return Kind(verifier.confined, CAN_FORK and not verifier.keeps_state)


def origin_of(verifier: Verifier) -> tuple[str, str | None]:
    """What has to be imported and warmed for a verifier; others may have it too."""
    return str(verifier.grade).partition(":")[0], verifier.warm


class Grading:
    """An answer that is being graded: the socket to the process that does it, and what of its time is used."""

    def __init__(self, number: int, job: Job, limit_s: float) -> None:
        self.number = number
        self.job = job
        self.limit_s = limit_s
        problem = {item.name: getattr(job.problem, item.name) for item in dataclasses.fields(job.problem)}
        self._unsent = packed({"grade": job.verifier.grade, "problem": problem, "answer": job.answer})
        self._sent = 0
        self.connection, self.theirs = socket.socketpair()
        self.connection.setblocking(False)
        self.replies = Replies(self.connection)
        self.pid: int | None = None
        self.meter: Meter | None = None

    @property
    def is_sent(self) -> bool:
        return self._sent == len(self._unsent)

    def send(self) -> None:
        """Writes what fits; `OSError` when the process is gone."""
        with contextlib.suppress(BlockingIOError):
            self._sent += self.connection.send(memoryview(self._unsent)[self._sent :])

    def start(self) -> None:
        """Lets its time run, once it is known which process it is, and nothing more is to be sent to it."""
        if self.pid is not None and self.is_sent and self.meter is None:
            self.meter = Meter(self.pid)

    def close(self) -> None:
        self.connection.close()
        self.theirs.close()


class Worker:
    """A worker process; `loading` is the verifier it imports now, `job` what it grades now or will after that.

    `grading` is the answer at hand; `ending` one that has failed, while the worker finds out why. `closed` once it has
    been told to give up its rights, if it is confined.
    """

    def __init__(self, kind: Kind, isolation: str, memory_limit_bytes: int) -> None:
        """Starts the process; `isolation` is what a confined one is to reach before it grades."""
        self.kind = kind
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(SEND_LIMIT_S)
        wanted = isolation if kind.confined else None
        arguments = json.dumps([theirs.fileno(), memory_limit_bytes, os.getpid(), wanted, kind.forks, sys.path])
        environment = {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, arguments],
                stdin=subprocess.DEVNULL if CAN_FORK else subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,
            )
        self.replies = Replies(self.connection)
        self.closed = False
        self.loaded: set[str] = set()
        self.origins: set[tuple[str, str | None]] = set()
        self.served = 0
        self.job: Job | None = None
        self.loading: Verifier | None = None
        self.grading: Grading | None = None
        self.ending: Grading | None = None
        self.deadline = 0.0
        """When it has to have answered; an answer's process answers to its meter instead."""

    def is_ready(self, verifier: Verifier) -> bool:
        """Whether it can grade at once: it has the verifier, and has no more rights than that needs."""
        has = verifier.grade in self.loaded and self.kind == kind_of(verifier) and self.loading is None
        return has and (self.closed or not self.kind.confined)

    def can_take(self, verifier: Verifier) -> bool:
        """Whether it has the verifier, or can still load it."""
        return not self.closed or origin_of(verifier) in self.origins or verifier is self.loading

    @property
    def is_busy(self) -> bool:
        """Whether it owes somebody something."""
        return bool(self.job or self.loading or self.ending)

    def load(self, verifier: Verifier, seal: bool) -> None:
        """Tells it to import a verifier, and then to confine itself."""
        self.loading, self.closed = verifier, self.closed or seal
        self._tell({"load": verifier.grade, "warm": verifier.warm, "file": verifier.file, "seal": seal})

    def grade(self, grading: Grading) -> None:
        """Tells it to grade."""
        self.grading = grading
        message = {"id": grading.number, "processor_s": grading.limit_s}
        self._tell(message, (grading.theirs.fileno(),))
        grading.theirs.close()

    def end(self, wait_s: float = 0.0) -> Grading:
        """Tells it to end the process of the answer, if that does not end by itself."""
        grading, self.grading = self.grading, None
        assert grading is not None
        grading.close()
        self._tell({"id": grading.number, "end": True, "wait_s": wait_s})
        return grading

    def _tell(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        self.deadline = time.monotonic() + START_LIMIT_S
        try:
            send_frame(self.connection, message, descriptors)
        except OSError:
            self.deadline = 0.0  # it has ended, or reads nothing

    def kill(self) -> None:
        """Ends it, the answer in it, and what that started."""
        self.connection.close()
        if self.grading:
            self.grading.close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
