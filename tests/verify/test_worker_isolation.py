"""What code that runs in a worker may still do: what a scorer needs, and nothing that reaches outside.

The attacks are run by a grader that executes its answer, as a scorer with an `eval` in it would.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h1r.errors import UserError
from h1r.records import Problem, Verdict
from h1r.sandbox import confine, seccomp
from h1r.verify import Verifier, VerifierPool, register
from h1r.verify.workers.isolation import LEVEL_VARIABLE, WorkerIsolation
from h1r.verify.workers.probe import worker_isolation

HERE = Path(__file__).parent
REFUSED = {errno.EPERM: "EPERM", errno.EACCES: "EACCES", errno.ENOSYS: "ENOSYS"}
_NUMBERS = {  # of the x86-64 table and of the generic one
    "execve": (59, 221), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "io_uring_setup": (425, 425), "memfd_create": (319, 279), "execveat": (322, 281), "userfaultfd": (323, 282),
    "openat": (257, 56), "openat2": (437, 437), "socket": (41, 198), "kill": (62, 129), "tgkill": (234, 131),
    "clone": (56, 220), "clone3": (435, 435), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280),
    "perf_event_open": (298, 241), "add_key": (248, 217), "keyctl": (250, 219), "shmget": (29, 194),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "mount": (165, 40),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "truncate": (76, 45), "unlinkat": (263, 35),
    "inotify_init1": (294, 26), "mq_open": (180, 180), "setresuid": (117, 147), "kcmp": (312, 272),
    "process_madvise": (440, 440), "fanotify_init": (300, 262), "prlimit64": (302, 261), "mkdirat": (258, 34),
    "finit_module": (313, 273), "capset": (126, 91), "chroot": (161, 51), "personality": (135, 92),
    "seccomp": (317, 277), "sched_setaffinity": (203, 122), "setpriority": (141, 140), "msgget": (68, 186),
}  # fmt: skip


def raw(name: str, *arguments: Any) -> int:
    """The system call itself, past every wrapper; `OSError` when it fails."""
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    number = _NUMBERS[name][platform.machine() == "aarch64"]
    found = int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *wide))
    if found < 0:
        raise OSError(ctypes.get_errno(), name)
    return found


NAMES = {module.__name__: module for module in (ctypes, os, secrets, socket, subprocess, sys, threading, time)}
NAMES |= {"raw": raw, "here": HERE}


def execute(problem: Problem, answer: str) -> Verdict:
    """Runs the answer: 1 if nothing stopped it, else 0 and the name of what the kernel said."""
    try:
        exec(textwrap.dedent(answer), {**NAMES, **problem.metadata})
    except OSError as error:
        return Verdict(0.0, extracted=REFUSED.get(error.errno or 0, str(error.errno)), error=str(error))
    return Verdict(1.0)


def execute_bare(problem: Problem, answer: str) -> Verdict:
    """The same without a net."""
    exec(textwrap.dedent(answer), {**NAMES, **problem.metadata})
    return Verdict(1.0)


ATTACKS = {
    "a socket": "socket.socket()",
    "a connection": "socket.create_connection(('127.0.0.1', port), 1)",
    "a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', port))",
    "a local socket": "socket.socket(socket.AF_UNIX).connect(local)",
    "a pair that sends elsewhere": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', datagrams)",
    "a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a raw socket call": "raw('socket', 2, 1, 0)",
    "io_uring": "raw('io_uring_setup', 8, ctypes.create_string_buffer(256))",
    "a system command": "if os.system('true') != 0: raise PermissionError(1, 'no shell')",
    "a subprocess": "subprocess.run(['true'])",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "a fork": "os.fork() or os._exit(0)",
    "a forked terminal": "os.forkpty()[0] or os._exit(0)",
    "a clone": "raw('clone', 17, 0, 0, 0, 0) or os._exit(0)",
    "a clone that shares memory": "raw('clone', 0x100 | 17, 0, 0, 0, 0) or os._exit(0)",
    "clone3": "raw('clone3', ctypes.create_string_buffer(88), 88) or os._exit(0)",
    "another program": "os.execv('/bin/true', ['true'])",
    "another program, raw": "raw('execve', b'/bin/true', None, None)",
    "another Python": "os.execv(sys.executable, [sys.executable, '-c', ''])",
    "a program in memory": "raw('execveat', raw('memfd_create', b'x', 0), b'', None, None, 0x1000)",
    "a program by descriptor": "raw('execveat', os.open(os.__file__, os.O_RDONLY), b'', None, None, 0x1000)",
    "the parent's end": "os.kill(parent, 0)",
    "the parent's end, raw": "raw('kill', parent, 0)",
    "the parent's thread": "raw('tgkill', parent, parent, 0)",
    "every process's end": "os.kill(-1, 0)",
    "the group's end": "os.killpg(os.getpgid(parent), 0)",
    "the parent's end by handle": "raw('pidfd_send_signal', raw('pidfd_open', parent, 0), 0, None, 0)",
    "a signal by way of a file": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, parent)",
    "a trace of the parent": "raw('ptrace', 0x4206, parent, 0, 0)",
    "the parent's memory": "raw('process_vm_readv', parent, ctypes.create_string_buffer(16), 1, b'x' * 16, 1, 0)",
    "the parent's memory, to write": "raw('process_vm_writev', parent, ctypes.create_string_buffer(16), 1, b'', 0, 0)",
    "the parent's descriptor": "raw('pidfd_getfd', raw('pidfd_open', parent, 0), 0, 0)",
    "the parent's limits": "raw('prlimit64', parent, 7, None, ctypes.create_string_buffer(16))",
    "comparing with the parent": "raw('kcmp', parent, os.getpid(), 0, 0, 0)",
    "advice on the parent's memory": "raw('process_madvise', 0, None, 0, 0, 0)",
    "userfaultfd": "raw('userfaultfd', 0)",
    "a namespace": "raw('unshare', 0x10000000)",
    "another's namespace": "raw('setns', 0, 0)",
    "bpf": "raw('bpf', 0, ctypes.create_string_buffer(128), 128)",
    "performance events": "raw('perf_event_open', ctypes.create_string_buffer(128), 0, -1, -1, 0)",
    "a key": "raw('add_key', b'user', b'h1r', b'x', 1, -3)",
    "a key ring": "raw('keyctl', 0, -3, 0)",
    "shared memory": "raw('shmget', 0, 4096, 0o1600)",
    "a message queue": "raw('msgget', 0, 0o1600)",
    "memory that is a file": "raw('memfd_create', b'x', 0)",
    "a mount": "raw('mount', b'none', b'/', None, 1 << 18, None)",
    "a file handle": "raw('name_to_handle_at', -100, secret.encode(), ctypes.create_string_buffer(256), None, 0)",
    "a file by handle": "raw('open_by_handle_at', -100, ctypes.create_string_buffer(256), 0)",
    "watching folders": "raw('inotify_init1', 0)",
    "watching everything": "raw('fanotify_init', 0, 0)",
    "another user": "raw('setresuid', 0, 0, 0)",
    "another root": "raw('chroot', folder.encode())",
    "a capability": "raw('capset', ctypes.create_string_buffer(16), ctypes.create_string_buffer(24))",
    "a kernel module": "raw('finit_module', 0, b'', 0)",
    "a personality": "raw('personality', 0x0040000)",
    "a filter of its own": "raw('seccomp', 1, 0, None)",
    "the parent's processor": "raw('sched_setaffinity', parent, 8, ctypes.create_string_buffer(8))",
    "the parent's priority": "raw('setpriority', 0, parent, 19)",
    "to write a file": "open(secret, 'w')",
    "to write on": "os.open(secret, os.O_WRONLY | os.O_APPEND)",
    "to read and write": "open(secret, 'r+')",
    "to empty a file": "os.truncate(secret, 0)",
    "to empty a file, raw": "raw('truncate', secret.encode(), 0)",
    "to empty what it reads": "os.open(secret, os.O_RDONLY | os.O_TRUNC)",
    "to write to a module": "os.open(os.__file__, os.O_WRONLY | os.O_APPEND)",
    "a new file": "open(folder + '/new', 'x')",
    "a new file in /tmp": "os.close(os.open(f'/tmp/h1r-{os.getpid()}', os.O_CREAT | os.O_RDWR))",
    "a nameless file": "os.open(folder, os.O_TMPFILE | os.O_RDWR)",
    "a file in shared memory": "open('/dev/shm/h1r-worker', 'w')",
    "a module among the packages": "open(os.path.join(os.path.dirname(ctypes.__file__), 'h1r_new.py'), 'w')",
    "a folder": "os.mkdir(folder + '/new')",
    "a folder, raw": "raw('mkdirat', -100, (folder + '/new').encode(), 0o700)",
    "a pipe with a name": "os.mkfifo(folder + '/new')",
    "a link": "os.link(secret, folder + '/new')",
    "a symbolic link": "os.symlink(secret, folder + '/new')",
    "another name": "os.rename(secret, folder + '/new')",
    "the end of a file": "os.unlink(secret)",
    "the end of a file, raw": "raw('unlinkat', -100, secret.encode(), 0)",
    "the end of a folder": "os.rmdir(folder + '/empty')",
    "other permissions": "os.chmod(secret, 0o777)",
    "another owner": "os.chown(secret, 65534, 65534)",
    "another time": "os.utime(secret, (0, 0))",
    "an attribute": "os.setxattr(secret, 'user.h1r', b'x')",
}
READING = {
    "a secret": "open(secret).read()",
    "a secret, raw": "raw('openat', -100, secret.encode(), 0)",
    "a secret, a newer way": "raw('openat2', -100, secret.encode(), ctypes.create_string_buffer(24), 24)",
    "a secret on a detour": "open(os.path.join(os.path.dirname(os.__file__), *['..'] * 20) + secret).read()",
    "a secret by a thread": """
        from concurrent.futures import ThreadPoolExecutor
        ThreadPoolExecutor(1).submit(lambda: open(secret).read()).result()
        """,
    "a library that is a secret": "ctypes.CDLL(secret)",
    "a folder": "os.listdir(folder)",
    "the root": "os.listdir('/')",
    "the home": "os.listdir(os.path.expanduser('~'))",
    "the working folder": "os.listdir('.')",
    "beside a module": "(here / 'conftest.py').read_text()",
    "accounts": "open('/etc/passwd').read()",
    "its own memory": "open('/proc/self/mem', 'rb')",
    "its own environment": "open('/proc/self/environ', 'rb')",
    "its root": "open('/proc/self/root' + secret).read()",
    "the parent's environment": "open(f'/proc/{parent}/environ', 'rb')",
    "the parent's files": "os.listdir(f'/proc/{parent}/fd')",
    "the parent's pipe": "open(f'/proc/{parent}/fd/{pipe}', 'rb')",
    "the processes": "os.listdir('/proc')",
    "the machine": "os.listdir('/sys')",
    "devices": "open('/dev/full', 'rb')",
}
ENDS_THE_WORKER = {
    "the numbers of x32": "ctypes.CDLL(None).syscall(ctypes.c_long(0x40000000 | 41), 2, 1, 0)",
    "the numbers of 32 bits": """
        import mmap
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(bytes.fromhex('b814000000cd80c3'))  # mov eax, 20 (getpid); int 0x80; ret
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
        """,
}

register(Verifier("test-execute", f"{__name__}:execute"))
register(Verifier("test-execute-bare", f"{__name__}:execute_bare"))
register(Verifier("test-execute-free", f"{__name__}:execute", confined=False))


def _why_not() -> str | None:
    if sys.platform != "linux" or seccomp.architecture() is None:
        return "no system call filter for this machine"
    try:
        confine.landlock_abi()
    except OSError as error:
        return f"no Landlock: {error}"
    return None


needs_landlock = pytest.mark.skipif(_why_not() is not None, reason=str(_why_not()))
needs_filter = pytest.mark.skipif(
    sys.platform != "linux" or seccomp.architecture() is None, reason="no system call filter for this machine"
)


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Any]]:
    """A secret file in a folder, and servers that must not hear anything."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "secret").write_text(f"secret-{secrets.token_hex(8)}")
        (folder / "empty").mkdir()
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(str(folder / "local"))
        local.listen()
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(str(folder / "datagrams"))
        for one in (server, local, datagrams):
            one.setblocking(False)
        pipe = os.pipe()
        for descriptor in pipe:
            stack.callback(os.close, descriptor)
        yield {
            "folder": str(folder), "secret": str(folder / "secret"), "local": str(folder / "local"),
            "datagrams": str(folder / "datagrams"), "port": server.getsockname()[1],
            "parent": os.getpid(), "pipe": pipe[0],
        }  # fmt: skip
        for waits in (server.accept, local.accept, lambda: datagrams.recv(1)):
            with pytest.raises(BlockingIOError):
                waits()


def pool_at(level: str) -> Iterator[VerifierPool]:
    with VerifierPool(time_limit_s=5.0) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(LEVEL_VARIABLE, level)
            assert pool.verify_many([Problem("p", "", "", "test-execute")], ["pass"])[0].reward == 1.0
        assert pool.isolation == level
        yield pool


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    yield from pool_at("landlock")


@pytest.fixture(scope="module")
def pool_of_calls() -> Iterator[VerifierPool]:
    yield from pool_at("calls")


def state(places: dict[str, Any]) -> list[tuple[str, int, int, float, int]]:
    found = [(path, path.lstat()) for path in sorted(Path(places["folder"]).iterdir())]
    return [(path.name, stat.st_mode, stat.st_size, stat.st_mtime, stat.st_nlink) for path, stat in found]


def tried(pool: VerifierPool, attack: str, places: dict[str, Any], verifier: str = "test-execute") -> Verdict:
    """The verdict on an attack; those before and after it must be right, and the files as they were."""
    owners = [Problem("p", "", "", verifier, metadata=places) for _ in range(3)]
    before = state(places)
    good, bad, after = pool.verify_many(owners, ["pass", attack, "assert 1 + 1 == 2"])
    assert (good.reward, after.reward) == (1.0, 1.0), (good.error, after.error)
    assert state(places) == before
    return bad


@needs_landlock
@pytest.mark.parametrize("name", [*ATTACKS, *(f"reading {name}" for name in READING)])
def test_an_attack_in_a_worker_is_refused_by_the_kernel(name, pool, places):
    attack = ATTACKS.get(name) or READING[name.removeprefix("reading ")]
    verdict = tried(pool, attack, places)
    assert verdict.reward == 0.0
    if name == "reading a library that is a secret":
        assert "ermission denied" in (verdict.error or "")
    else:
        assert verdict.extracted in REFUSED.values(), verdict


@needs_filter
@pytest.mark.parametrize("name", ATTACKS)
def test_the_filter_alone_refuses_all_but_reading(name, pool_of_calls, places):
    verdict = tried(pool_of_calls, ATTACKS[name], places)
    assert (verdict.reward, verdict.extracted in REFUSED.values()) == (0.0, True), verdict


@needs_landlock
@pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of other architectures exist on x86-64 only")
@pytest.mark.parametrize("name", ENDS_THE_WORKER)
def test_other_tables_of_system_calls_end_the_worker(name, pool, places):
    assert tried(pool, ENDS_THE_WORKER[name], places).error == "worker died (SIGSYS)"


def test_the_attacks_would_succeed_in_a_worker_that_keeps_its_rights(places):
    names = ("a connection", "a local socket", "a subprocess", "a fork", "the parent's end", "a system command",
             "memory that is a file", "a pair that sends elsewhere", "another time")  # fmt: skip
    attacks = [*(ATTACKS[name] for name in names), READING["a secret"], READING["a folder"], READING["a secret, raw"]]
    if sys.platform != "linux":
        attacks = [ATTACKS["a connection"], READING["a secret"]]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "secret").write_text("x")
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind(str(folder / "local"))
        local.listen()
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(str(folder / "datagrams"))
        here = {"secret": str(folder / "secret"), "folder": str(folder), "local": str(folder / "local"),
                "datagrams": str(folder / "datagrams"), "port": server.getsockname()[1]}  # fmt: skip
        pool = stack.enter_context(VerifierPool())
        owner = Problem("p", "", "", "test-execute-free", metadata={**places, **here})
        found = pool.verify_many([owner] * len(attacks), attacks)
    assert [verdict.reward for verdict in found] == [1.0] * len(attacks), [verdict.error for verdict in found]


def test_the_level_in_force_is_known_and_true():
    level, reached = worker_isolation()
    expected = {WorkerIsolation.LANDLOCK: [], WorkerIsolation.CALLS: ["read"]}
    assert reached == expected.get(level, reached)
    if _why_not() is None:
        assert level == WorkerIsolation.LANDLOCK


@needs_filter
@pytest.mark.parametrize("level", ["calls", "rlimits"])
def test_a_level_that_is_named_is_the_one_in_force(level, monkeypatch):
    monkeypatch.setenv(LEVEL_VARIABLE, level)
    assert worker_isolation()[0] == level


def test_a_level_that_cannot_be_had_is_refused_with_the_known_ones(monkeypatch):
    monkeypatch.setenv(LEVEL_VARIABLE, "fortress")
    with pytest.raises(UserError, match="H1R_WORKER_ISOLATION=fortress is no level; use one of auto, rlimits"):
        worker_isolation()
