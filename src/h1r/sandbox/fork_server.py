"""The fork server: a small process that forks one confined process per run, and sees to its end.

The parent starts it with one socket (sequenced packets). It enters the isolation level once, has the interpreter and
the common modules loaded, and then holds nothing but that: code, arguments and results go from the parent to the fork
over descriptors that the fork server only hands on, so a fork inherits nothing of an earlier run.

    parent -> server   {"run": limits, "files": bool}  with 4 or 5 descriptors: stdin, stdout, stderr, channel, program
                       {"kill": true}                  end the run now
    server -> parent   {"ready": true} or {"error": text}, once
                       {"begun": true}                 the run has begun; with a descriptor of its first process
                       {"status": n, "seconds": s, "cpu_s": s, "memory": bytes}   it has ended, nothing of it is left

When the parent goes away, however it ends, the socket closes and the fork server kills the run and exits.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import random
import secrets
import select
import signal
import site
import socket
import sys
import tempfile
import time
from typing import Any, NoReturn

from h1r.sandbox import confine, inside, seccomp
from h1r.sandbox.limits import Isolation, Limits
from h1r.sandbox.prelude import prelude

MAX_MESSAGE_BYTES = 1 << 16
_PARENT_CHECK_S = 5.0
_PR_SET_CHILD_SUBREAPER = 36


def main(descriptor: int, level: int, readable: list[str], writable: list[str], import_paths: list[str]) -> None:
    """Serves runs until the parent closes the socket. `readable` is what a run may see of the file system, `writable`
    the folders that it may change and that outlive it."""
    connection = socket.socket(fileno=descriptor)
    _close_all_but({0, 1, 2, connection.fileno()})
    os.chdir("/")
    sys.path += import_paths
    site.setquit()  # programs call `exit()`, which `python -S` does not define
    prelude()
    __import__("h1r.sandbox.checks")
    fork_server = _ForkServer(connection, Isolation(level), readable, writable)
    try:
        fork_server.prepare()
    except Exception as error:
        connection.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    gc.collect()
    gc.freeze()  # forks then share these pages
    connection.send(json.dumps({"ready": True}).encode())
    fork_server.serve()


class _ForkServer:
    def __init__(self, connection: socket.socket, level: Isolation, readable: list[str], writable: list[str]) -> None:
        self._connection = connection
        self._level = level
        self._readable, self._writable = readable, writable
        self._parent = os.getppid()
        self._landlock_abi = 0
        self._own_user = level >= Isolation.BUBBLEWRAP
        self._kept_right: int | None = None

    def prepare(self) -> None:
        """Enters what all runs share; raises when the kernel refuses the level."""
        if self._level == Isolation.NAMESPACES:
            confine.enter_namespaces(self._readable, self._writable)
            return
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError("prctl PR_SET_CHILD_SUBREAPER")
        if self._level == Isolation.BUBBLEWRAP:
            with contextlib.suppress(OSError):
                self._landlock_abi = confine.landlock_abi()
            return
        if self._level == Isolation.LANDLOCK:
            self._landlock_abi = confine.landlock_abi()
        if os.geteuid() == 0:
            if not all(map(_anyone_may_read, self._readable)):
                self._kept_right = confine.CAP_DAC_READ_SEARCH  # Landlock says what it is good for
            self._own_user = confine.leave_root(keep_reading=self._kept_right is not None)

    def serve(self) -> None:
        while self._wait([self._connection.fileno()]):
            message, descriptors = self._receive()
            if message is None:
                return
            if "run" in message:
                self._run(message, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)

    def _receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        received = array.array("i")
        space = socket.CMSG_SPACE(5 * received.itemsize)
        data, ancillary, _, _ = self._connection.recvmsg(MAX_MESSAGE_BYTES, space)
        for _, _, body in ancillary:
            received.frombytes(body[: len(body) - len(body) % received.itemsize])
        return (json.loads(data) if data else None), list(received)

    def _wait(self, descriptors: list[int]) -> list[int]:
        """Those that can be read; none when the parent is gone."""
        poller = select.poll()
        for descriptor in descriptors:
            poller.register(descriptor, select.POLLIN)
        while os.getppid() == self._parent:
            if ready := poller.poll(_PARENT_CHECK_S * 1000):
                return [descriptor for descriptor, _ in ready]
        return []

    def _run(self, message: dict[str, Any], descriptors: list[int]) -> None:
        limits = Limits(**message["run"])
        scratch = None if self._level == Isolation.NAMESPACES else self._folder()
        started = time.monotonic()
        clean = True
        try:
            pid = confine.fork_into_namespaces() if scratch is None else os.fork()
            if pid == 0:
                self._become_tested(limits, bool(message["files"]), descriptors, scratch)
            process = os.pidfd_open(pid)
            began = json.dumps({"begun": True}).encode()
            socket.send_fds(self._connection, [began], [process])
            status, usage, alive = self._await_end(pid, process)
        finally:
            if scratch is not None:
                clean = self._clear(scratch)
        if not alive:
            sys.exit(0)
        report = {"status": status, "seconds": time.monotonic() - started, "cpu_s": usage.ru_utime + usage.ru_stime}
        self._connection.send(json.dumps({**report, "memory": usage.ru_maxrss * 1024}).encode())
        if not clean:
            sys.exit(0)  # the next run gets a new fork server, with a new scratch folder where it has one of its own

    def _folder(self) -> str:
        """A new folder for a run's files."""
        own = self._level == Isolation.BUBBLEWRAP
        return tempfile.mkdtemp(prefix="h1r-", dir=confine.SCRATCH if own else None)

    def _clear(self, scratch: str) -> bool:
        """Removes a run's files: its folder, and all of the scratch folder where the fork server has one of its own."""
        own = self._level == Isolation.BUBBLEWRAP
        try:
            for path in [entry.path for entry in os.scandir(confine.SCRATCH)] if own else [scratch]:
                remove_tree(path)
        except OSError:
            return False
        return True

    def _await_end(self, pid: int, handle: int) -> tuple[int, Any, bool]:
        """Waits for the run's first process, kills it on request, then whatever it left. False: the parent is gone."""
        alive = True
        while True:
            ready = self._wait([handle, self._connection.fileno()])
            if handle in ready:
                break
            if not ready or not self._connection.recv(MAX_MESSAGE_BYTES):
                alive = False
            os.kill(pid, signal.SIGKILL)
            if not alive:
                break
        os.close(handle)
        _, status, usage = os.wait4(pid, 0)
        if self._level != Isolation.NAMESPACES:
            _end_orphans(everything=self._level == Isolation.BUBBLEWRAP)
        return status, usage, alive

    def _become_tested(self, limits: Limits, files: bool, descriptors: list[int], scratch: str | None) -> NoReturn:
        """The fork's way from here to the job; whatever goes wrong, it never returns to the fork server's code."""
        try:
            confine.die_with_parent()
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for target, descriptor in enumerate(_above(descriptors, len(descriptors))):
                os.dup2(descriptor, target)
            _close_all_but(set(range(len(descriptors))))
            job, reader = inside.read_job()
            self._lock_down(limits, files, scratch, job)
            random.seed()
            inside.run(job, reader)
        except BaseException as error:
            os.write(2, f"sandbox: {type(error).__name__}: {error}\n".encode(errors="replace"))
        finally:
            os._exit(126)

    def _lock_down(self, limits: Limits, files: bool, scratch: str | None, job: dict[str, Any]) -> None:
        namespaces = self._level == Isolation.NAMESPACES
        own_files = self._level >= Isolation.BUBBLEWRAP  # in memory, bounded together, out of the host's sight
        given = inside.read_input() if job.get("stdin_file") else b""
        if namespaces:
            confine.mount_scratch(limits.scratch_bytes + len(given))
        os.chdir(scratch or confine.SCRATCH)
        inside.write_files(job)
        readable = list(self._readable)
        if job.get("stdin_file"):
            readable.append(f"{confine.SCRATCH if own_files else scratch}/{confine.INPUT}")
            inside.become_input(given, readable[-1])
        confine.leave_no_core()
        confine.set_limits(limits, files_writable=files or own_files, own_user=self._own_user)
        confine.drop_capabilities(keep=self._kept_right)
        confine.no_new_privileges()
        if self._landlock_abi and scratch is not None:
            own = [scratch] if files or own_files else []
            confine.restrict_files([*readable, scratch], [*own, *self._writable])
        changes = files or own_files or self._landlock_abi >= confine.FIRST_TRUNCATION_ABI
        confine.restrict_system_calls(seccomp.Grant(limits.processes > 1, strict=not namespaces, changes=changes))


def _above(descriptors: list[int], lowest: int) -> list[int]:
    """The descriptors, moved out of the way of the numbers they are to get."""
    return [fcntl.fcntl(descriptor, fcntl.F_DUPFD, lowest) for descriptor in descriptors]


def _close_all_but(kept: set[int]) -> None:
    first = 0
    for descriptor in [*sorted(kept), os.sysconf("SC_OPEN_MAX")]:
        if first < descriptor:  # CPython reads an empty range as one without an end
            os.closerange(first, descriptor)
        first = descriptor + 1


def _anyone_may_read(path: str) -> bool:
    while True:
        mode = os.stat(path).st_mode
        if not mode & 0o001 and os.path.isdir(path):
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)


def _end_orphans(everything: bool) -> None:
    """Kills and reaps every child that the run left: the fork server is their reaper, whatever session they made.

    `everything`: all processes that the fork server may signal, which it does only in a process namespace of its own.
    """
    while True:
        try:
            if everything:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                for pid in [] if everything else _children():
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as handle:
                if int(handle.read().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found


def remove_tree(path: str) -> None:
    """Removes a file, or a folder with all that is in it, however deep and whatever its permissions; `OSError` if not.

    Folders within folders are moved up to the first, so that neither the stack nor the length of a name can run out.
    """
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        return
    mark, moved = secrets.token_hex(8), 0
    os.chmod(path, 0o700)
    while entries := list(os.scandir(path)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    os.chmod(inner.path, 0o700)  # a folder that moves must be writable itself: its `..` changes
                    os.rename(inner.path, os.path.join(path, f"{mark}{moved}"))
                    moved += 1
                else:
                    os.unlink(inner.path)
            os.rmdir(entry.path)
    os.rmdir(path)
