"""The isolation level that this machine gives, tried once, and a pool of sandboxes at that level."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

from h1r.errors import UserError
from h1r.sandbox.answer import Answer, whole_answer
from h1r.sandbox.fusion import LANGUAGES as REMOTE_LANGUAGES
from h1r.sandbox.fusion import URL_VARIABLE, FusionServers, FusionSlot
from h1r.sandbox.gvisor import GvisorSandbox
from h1r.sandbox.limits import Isolation, Limits
from h1r.sandbox.programs import RUNNABLE, Program, prepare
from h1r.sandbox.runner import Sandbox
from h1r.sandbox.session import Ending, Outcome, SandboxError

LEVEL_VARIABLE = "H1R_SANDBOX"
"""Environment variable: a level by name, or "auto". Only naming it makes `rlimits` acceptable."""

CONFINING = (Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK)
"""The levels that keep tested code from everything outside, in the order in which they are tried."""

_PROBE = """
import os, socket
reached = []
def attempt(name, action):
    try:
        action()
        reached.append(name)
    except Exception:
        pass
attempt("read", lambda: open({secret!r}).read())
attempt("write", lambda: open({folder!r} + "/written", "w"))
attempt("network", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
attempt("fork", lambda: os.fork() or os._exit(0))
attempt("signal", lambda: os.kill({pid}, 0))
print(*reached, "probed")
"""


def make_sandbox(level: Isolation) -> Sandbox:
    """A sandbox at that level."""
    return GvisorSandbox() if level == Isolation.GVISOR else Sandbox(level)


@cache
def refusal(level: Isolation) -> str | None:
    """Why this machine does not give a level, found by trying to break out of it; None when it does."""
    try:
        with (
            make_sandbox(level) as sandbox,
            tempfile.TemporaryDirectory() as folder,
            socket.create_server(("127.0.0.1", 0)) as server,
        ):
            secret = Path(folder) / "secret"
            secret.write_text("secret")
            Path(folder).chmod(0o777)  # tested code may be another user, and it is the level that must keep it out
            port = server.getsockname()[1]
            code = _PROBE.format(secret=str(secret), folder=folder, port=port, pid=os.getpid())
            outcome = sandbox.run({"kind": "python", "code": code})
    except (SandboxError, OSError) as error:
        return str(error)
    reached = outcome.stdout.decode(errors="replace").split()
    if reached[-1:] != ["probed"]:
        return f"the probe did not run: {outcome.stderr.decode(errors='replace')[-300:]}"
    if level > Isolation.RLIMITS and reached[:-1]:
        return f"tested code could still {', '.join(reached[:-1])}"
    return None


def choose_level(name: str | None = None) -> Isolation:
    """The level of that name, or for "auto" the strongest that works here; `UserError` when it does not.

    `name` defaults to the environment variable `H1R_SANDBOX`, and that to "auto". "rlimits" is never chosen by itself.
    """
    name = (name or os.environ.get(LEVEL_VARIABLE) or "auto").lower()
    known = {level.name.lower(): level for level in (*CONFINING, Isolation.GVISOR, Isolation.RLIMITS)}
    if name != "auto" and name not in known:
        raise UserError(f"{LEVEL_VARIABLE}={name} is no isolation level; use auto, {', '.join(known)}")
    wanted = [known[name]] if name != "auto" else CONFINING
    reasons = []
    for level in wanted:
        why = refusal(level)
        if why is None:
            return level
        reasons.append(f"{level.name.lower()}: {why}")
    raise UserError(
        f"tested code cannot be confined on this machine ({'; '.join(reasons)}); "
        f"set {LEVEL_VARIABLE}=rlimits to run it with resource limits only, or use a SandboxFusion server"
    )


class Slot(Protocol):
    """What one verdict needs: runs of a program, a session of calls, and apart from them, where tested code never ran,
    a session of test code with assertions and runs of a problem's own programs."""

    level: Isolation

    def answer(self, limits: Limits) -> AbstractContextManager[Answer]: ...

    def program(self, code: str, language: str, limits: Limits) -> AbstractContextManager[Runnable]: ...

    def calls(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]: ...

    def checks(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]: ...

    def referee(
        self, code: str, language: str, limits: Limits, included: dict[str, str]
    ) -> AbstractContextManager[Program]: ...

    def close(self) -> None: ...


class Runnable(Protocol):
    """A program that was prepared, or the error that stopped it, and how its compilation then ended."""

    error: str | None
    ending: Ending

    def run(self, stdin: bytes, limits: Limits) -> Outcome: ...


class Talk(Protocol):
    """Frames to and from a job under way; see `session.Session`."""

    @property
    def spent_s(self) -> float: ...

    def send(self, message: dict[str, Any]) -> None: ...

    def receive(self, limit_s: float | None = None) -> tuple[dict[str, Any] | None, Ending]: ...

    def ask(self, message: dict[str, Any]) -> tuple[dict[str, Any] | None, Ending]: ...


class LocalSlot:
    """Two sandboxes of this machine: one for tested code, one for test code."""

    def __init__(self, level: Isolation) -> None:
        self.level = level
        self._tested = make_sandbox(level)
        self._checker = make_sandbox(level)

    def answer(self, limits: Limits) -> AbstractContextManager[Answer]:
        """The block is one answer, to which `answer_s` and `total_s` apply, and which is stopped when it is over."""
        return whole_answer((self._tested, self._checker), limits.answer_wall_s, limits.total_s)

    def program(self, code: str, language: str, limits: Limits) -> AbstractContextManager[Runnable]:
        return prepare(self._tested, code, language, limits)

    def calls(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]:
        return self._tested.open(job, limits)

    def checks(self, job: dict[str, Any], limits: Limits) -> AbstractContextManager[Talk]:
        return self._checker.open(job, limits)

    def referee(
        self, code: str, language: str, limits: Limits, included: dict[str, str]
    ) -> AbstractContextManager[Program]:
        return prepare(self._checker, code, language, limits, included)

    def close(self) -> None:
        self._tested.close()
        self._checker.close()


class SandboxPool:
    """Up to `workers` slots, lent to one thread each. Slots start when first needed and live until `close`.

    Whatever tested code does costs its own run: a fork server that dies is replaced at the next one. `url` is a
    SandboxFusion server, or several with commas between them, that run the tested code in place of this machine;
    `UserError` when this machine confines too little.
    """

    def __init__(self, workers: int = 1, level: str | None = None, url: str | None = None) -> None:
        if workers < 1:
            raise ValueError("SandboxPool needs workers >= 1")
        self.level = Isolation.REMOTE if url else choose_level(level)
        self.workers = workers
        self._make: Callable[[], Slot] = partial(LocalSlot, self.level)
        if url:
            addresses = [one.strip() for one in url.split(",") if one.strip()]
            if not all(one.startswith(("http://", "https://")) for one in addresses):
                raise UserError(f"{URL_VARIABLE}={url} holds no http:// address; give one, or several with commas")
            self._make = partial(FusionSlot, FusionServers(addresses), level)
        self._free: list[Slot] = []
        self._permits = threading.BoundedSemaphore(workers)
        self._closed = 0
        self._lock = threading.Lock()

    def runs(self, language: str) -> bool:
        """Whether programs of that language can be run, where its tools are installed."""
        known = REMOTE_LANGUAGES if self.level == Isolation.REMOTE else RUNNABLE
        return language in known or re.fullmatch(r"cpp\d\d", language) is not None

    @contextlib.contextmanager
    def lease(self) -> Iterator[Slot]:
        """A slot of one's own for the block; waits for one."""
        with self._permits:
            with self._lock:
                slot, closed = self._free.pop() if self._free else self._make(), self._closed
            try:
                yield slot
            finally:
                with self._lock:
                    if kept := closed == self._closed:
                        self._free.append(slot)
                if not kept:
                    slot.close()

    def close(self) -> None:
        """Ends every fork server, those on loan when they come back. The pool may be used again."""
        with self._lock:
            slots, self._free = self._free, []
            self._closed += 1
        for slot in slots:
            slot.close()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
