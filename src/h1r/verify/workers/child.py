"""A worker process as its parent sees it: what it has loaded, what it grades, and how it is started and ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import dataclass, field

from h1r.records import Problem, Verdict
from h1r.verify.registry import Verifier
from h1r.verify.workers.worker import Replies

LOAD_LIMIT_S = 120.0
"""Seconds a worker may take to start and to import a verifier; not charged to any answer."""
_BOOTSTRAP = (
    "import sys, json; arguments = json.loads(sys.argv[1]); sys.path[:] = arguments.pop(); "
    "from h1r.verify.workers.worker import main; main(*arguments)"
)
_PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(slots=True, eq=False)
class Job:
    """An answer that a worker is to grade, and where its verdict goes."""

    verifier: Verifier
    problem: Problem
    answer: str
    future: Future[Verdict] = field(default_factory=Future)
    retried: bool = False


@dataclass(slots=True, eq=False)
class Child:
    """A child process; `loading` is the verifier it imports now, `job` what it grades now or will after that.

    `closed` once it has been told to give up its rights, if it is `confined`.
    """

    process: subprocess.Popen[bytes]
    connection: socket.socket
    replies: Replies
    confined: bool
    closed: bool = False
    loaded: set[str] = field(default_factory=set)
    origins: set[tuple[str, str | None]] = field(default_factory=set)
    served: int = 0
    job: Job | None = None
    loading: Verifier | None = None
    request: int = 0
    started: float = 0.0
    deadline: float = 0.0
    limit_s: float = LOAD_LIMIT_S

    def is_ready(self, verifier: Verifier) -> bool:
        """Whether it can grade at once: it has the verifier, and has no more rights than that needs."""
        has = verifier.grade in self.loaded and verifier.confined == self.confined and self.loading is None
        return has and (self.closed or not self.confined)

    def can_take(self, verifier: Verifier) -> bool:
        """Whether it has the verifier, or can still load it."""
        return not self.closed or origin_of(verifier) in self.origins or verifier is self.loading

    def kill(self) -> None:
        self.connection.close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


def start_child(confined: bool, isolation: str, memory_limit_bytes: int) -> Child:
    """A new process; `isolation` is what a confined one is to reach before it grades."""
    ours, theirs = socket.socketpair()
    wanted = isolation if confined else None
    arguments = json.dumps([theirs.fileno(), memory_limit_bytes, os.getpid(), wanted, sys.path])
    environment = {name: os.environ[name] for name in _PASSED_ENVIRONMENT if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,
        )
    return Child(process, ours, Replies(ours), confined)


def origin_of(verifier: Verifier) -> tuple[str, str | None]:
    """What has to be imported and warmed for a verifier; others may have it too."""
    return str(verifier.grade).partition(":")[0], verifier.warm
