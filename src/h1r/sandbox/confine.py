"""How a process gives up its rights: namespaces, Landlock, capabilities, limits, the system call filter.

Thin wrappers of system calls, each raising `OSError` where the kernel refuses. Standard library only: this runs in
the fork server and in its forks. Sources: man pages unshare(2), pivot_root(2), mount_setattr(2), landlock(7),
capset(2), prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import struct
from collections.abc import Callable, Iterable
from typing import Any

from h1r.sandbox import seccomp
from h1r.sandbox.limits import THREADS, Limits

OWN_IDS, UNPRIVILEGED_ID = 0x70000000, 65534
"""Users that root becomes: one of its own for each fork server, from a range that no system gives to anybody (systemd's
UIDS-GIDS calls it unused), so that no process of another user's is counted with it or signalled by it; "nobody" where
the machine has no such number, as in a container with few."""
INSIDE_ID = 1000
SCRATCH = "/scratch"  # the name inside a mount namespace, which nothing readable has, as /tmp may
INPUT = ".stdin"
"""A run's input as a file of its folder, for programs that open it by one of `INPUT_PATHS`."""
INPUT_PATHS = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
"""Where a run finds its input. With a root of its own these lead to the file, elsewhere the kernel's do."""

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_NEW_WORLD = 0x10000000 | _CLONE_NEWNS | 0x40000000 | 0x08000000 | 0x04000000  # user, mount, net, ipc, uts
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 47, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
_SECCOMP_MODE_FILTER = 2
_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC = 1, 1
_SIGKILL, _SIGCHLD = 9, 17
_CAPABILITY_VERSION_3 = 0x20080522
_NUMBERS = {  # mount_setattr and the Landlock calls have the same numbers everywhere
    "mount_setattr": (442, 442), "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446), "clone": (56, 220), "pivot_root": (155, 41), "capset": (126, 91),
    "capget": (125, 90), "seccomp": (317, 277),
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(name: str, *arguments: Any) -> int:
    machine = seccomp.architecture()
    if machine is None:
        raise OSError(f"{name}: no system call numbers for this machine")
    number = _NUMBERS[name][machine == "aarch64"]
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(int(_libc.syscall(ctypes.c_long(number), *wide)), name)


def _prctl(option: int, *arguments: Any) -> int:
    wide = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    wide += [ctypes.c_ulong(0)] * (4 - len(wide))
    return _checked(int(_libc.prctl(option, *wide)), f"prctl {option}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    _checked(_libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def leave_root(keep_reading: bool = False) -> bool:
    """Root becomes a user of its own; another user stays who it is. Returns whether nobody else is this user.

    `keep_reading`: root's right to read what belongs to others stays, also in programs executed later, for an
    interpreter in a folder that only root may enter. File descriptors opened before keep what they can reach.
    """
    if os.geteuid() != 0:
        return False
    os.setgroups([])
    _prctl(_PR_SET_KEEPCAPS, int(keep_reading))
    user = OWN_IDS + os.getpid()
    try:
        _become(user)
    except OSError:
        user = UNPRIVILEGED_ID
        _become(user)
    if keep_reading:
        _set_capabilities(1 << CAP_DAC_READ_SEARCH, 1 << CAP_DAC_READ_SEARCH)
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)
    _prctl(_PR_SET_DUMPABLE, 1)  # else /proc/self belongs to root, and the id maps cannot be written
    return user != UNPRIVILEGED_ID


def _become(user: int) -> None:
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def enter_namespaces(readable: Iterable[str], writable: Iterable[str] = ()) -> None:
    """This process goes to a root of its own: `readable` read-only and `writable` folders under their own names, an
    empty scratch, no /proc.

    It stays in the host's process namespace, so that its forks can have one each. Root builds the new root first and
    leaves its rights then, since nobody may not reach what only root may read; another user needs its new user
    namespace to build anything.
    """
    proc = os.open("/proc/self", os.O_PATH)
    if os.geteuid() == 0:
        _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
        _build_root(readable, writable)
        leave_root()
        _new_world(proc)
    else:
        _new_world(proc)
        _build_root(readable, writable)
    os.close(proc)


def _new_world(proc: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _checked(_libc.unshare(_NEW_WORLD), "unshare")
    for name, line in (("setgroups", "deny"), ("uid_map", f"{INSIDE_ID} {uid} 1"), ("gid_map", f"{INSIDE_ID} {gid} 1")):
        handle = os.open(name, os.O_WRONLY, dir_fd=proc)
        os.write(handle, line.encode())
        os.close(handle)


def _build_root(readable: Iterable[str], writable: Iterable[str]) -> None:
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    root = "/tmp"  # any folder that exists serves as the mount point; the sources are opened before it is covered
    attributes = _ATTR_RDONLY | _ATTR_NOSUID
    shown = [(path, os.O_NOFOLLOW, attributes | _ATTR_NODEV) for path in readable]
    shown += [(path, 0, attributes) for path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/urandom")]
    shown += [(path, os.O_NOFOLLOW, _ATTR_NOSUID | _ATTR_NODEV) for path in writable]
    sources = [(os.open(path, os.O_PATH | flags), path, attributes) for path, flags, attributes in shown]
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,nr_inodes=4096,mode=755")
    os.mkdir(root + SCRATCH, 0o755)
    for descriptor, path, attributes in sources:
        _expose(descriptor, root + path, attributes)
        os.close(descriptor)
    for path in INPUT_PATHS:
        os.makedirs(os.path.dirname(root + path), mode=0o755, exist_ok=True)
        os.symlink(f"{SCRATCH}/{INPUT}", root + path)
    if not os.path.lexists(root + "/tmp"):
        os.symlink(SCRATCH, root + "/tmp")
    os.mkdir(root + "/.old")
    _syscall("pivot_root", root.encode(), f"{root}/.old".encode())
    os.chdir("/")
    _checked(_libc.umount2(b"/.old", _MNT_DETACH), "umount2")
    os.rmdir("/.old")
    _set_mount_attributes("/", _ATTR_RDONLY, recursive=False)


def _expose(descriptor: int, target: str, attributes: int) -> None:
    kind = os.fstat(descriptor).st_mode
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if stat.S_ISLNK(kind):
        os.symlink(os.readlink("", dir_fd=descriptor), target)
        return
    if stat.S_ISDIR(kind):
        os.makedirs(target, mode=0o755, exist_ok=True)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(f"/proc/self/fd/{descriptor}", target, None, _MS_BIND | _MS_REC)
    _set_mount_attributes(target, attributes, recursive=True)


def _set_mount_attributes(path: str, attributes: int, recursive: bool) -> None:
    record = struct.pack("QQQQ", attributes, 0, 0, 0)
    _syscall("mount_setattr", _AT_FDCWD, path.encode(), _AT_RECURSIVE if recursive else 0, record, len(record))


def fork_into_namespaces() -> int:
    """`os.fork`, with a process namespace (where the child is process 1) and a mount namespace of the child's own."""
    ctypes.pythonapi.PyOS_BeforeFork()
    machine = seccomp.architecture()
    number = _NUMBERS["clone"][machine == "aarch64"]
    pid = int(_forking_libc.syscall(ctypes.c_long(number), ctypes.c_long(_CLONE_NEWNS | _CLONE_NEWPID | _SIGCHLD),
                                    *[ctypes.c_long(0)] * 4))  # fmt: skip
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return _checked(pid, "clone")


_forking_libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter lock, which the child must own


def mount_scratch(size_bytes: int) -> None:
    """An empty folder of bounded size at `SCRATCH`; it is gone when the mount namespace is."""
    options = f"size={max(size_bytes, 4096)},nr_inodes=4096,mode=700"
    _mount("tmpfs", SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV, options)


_FILE_RIGHTS = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # execute, write, read, truncate, device ioctl
_EXECUTE_RIGHT = 1 << 0
_READ_RIGHTS = _EXECUTE_RIGHT | 1 << 2 | 1 << 3  # execute, read file, read folder
_RIGHTS_OF_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_LANDLOCK_VERSION, _PATH_BENEATH, _ANY_TCP, _SCOPES = 1, 1, 3, 3
FIRST_TRUNCATION_ABI = 3
"""Before it, a file that can be read can be cut to nothing."""
O_PATH_RULE = os.O_PATH | os.O_CLOEXEC


def landlock_abi() -> int:
    """The kernel's Landlock version; `OSError` without it."""
    return _syscall("landlock_create_ruleset", 0, 0, _LANDLOCK_VERSION)


def restrict_files(readable: Iterable[str], writable: Iterable[str] = (), *, executable: bool = True) -> None:
    """From here on only these paths, and what is below them, can be opened: to read and execute, or to do all.

    Of the calling thread, and of those that it starts later. Libraries can be loaded without `executable`.

    Needs `no_new_privileges` first. TCP (ABI 4), abstract sockets and signals to others (ABI 6) go too where Landlock
    knows them; the system call filter stands for the rest.
    """
    abi = landlock_abi()
    handled = (1 << _RIGHTS_OF_ABI[min(abi, 5)]) - 1
    record = struct.pack("QQQ", handled, _ANY_TCP, _SCOPES)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _syscall("landlock_create_ruleset", record, len(record), 0)
    reading = _READ_RIGHTS if executable else _READ_RIGHTS & ~_EXECUTE_RIGHT
    for paths, rights in ((readable, reading), (("/dev/null",), _FILE_RIGHTS), (writable, handled)):
        for path in paths:
            descriptor = os.open(path, O_PATH_RULE)
            given = rights if stat.S_ISDIR(os.fstat(descriptor).st_mode) else rights & _FILE_RIGHTS
            rule = struct.pack("=Qi", given & handled, descriptor)
            _syscall("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
            os.close(descriptor)
    _syscall("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def die_with_parent() -> None:
    """The kernel kills this process when the thread that forked it ends."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


CAP_DAC_READ_SEARCH = 2
"""Root's right to read what belongs to others."""


def drop_capabilities(keep: int | None = None) -> None:
    """No capability now, and none from any program executed later; `keep` stays if the process has it.

    Programs get `keep` only where it could be inherited before: the bounding set, now empty, lets none be added.
    """
    try:
        for capability in range(64):
            _prctl(_PR_CAPBSET_DROP, capability)
    except OSError:
        pass  # the last one is passed, or the process has none to begin with
    header, held = struct.pack("II", _CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    _syscall("capget", header, held)
    effective, _, inheritable = struct.unpack("6I", held.raw)[:3]
    wanted = 0 if keep is None else 1 << keep
    _set_capabilities(effective & wanted, inheritable & wanted)


def _set_capabilities(kept: int, inherited: int) -> None:
    """Of the first 32, by their bits, those that the process keeps, and those that programs may inherit."""
    header = struct.pack("II", _CAPABILITY_VERSION_3, 0)
    _syscall("capset", header, struct.pack("6I", kept, kept, inherited, 0, 0, 0))


def no_new_privileges() -> None:
    """Set-user-id programs lose their meaning; the two restrictions that follow need it."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def restrict_system_calls(grant: seccomp.Grant, *, all_threads: bool = False) -> None:
    """Installs the filter of `seccomp.build_filter` for good, in this thread or in all that there are."""
    _install(seccomp.filter_for_this_process(grant), all_threads=all_threads)


def narrow_system_calls() -> None:
    """Takes from a fork what a filter with `narrows` left it; see `seccomp.build_narrower`."""
    machine = seccomp.architecture()
    assert machine is not None
    _install(seccomp.build_narrower(machine, os.getpid()))


def _install(code: bytes, *, all_threads: bool = False) -> None:
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    if not all_threads:
        _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)
    elif _syscall("seccomp", _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, program):
        raise OSError("seccomp: another thread has a filter of its own")


def leave_no_core() -> None:
    """No memory image when this process dies; a program that it executes depends on `set_limits` for that."""
    _prctl(_PR_SET_DUMPABLE, 0)


def set_limits(limits: Limits, *, files_writable: bool, own_user: bool) -> None:
    """Resource limits that cannot be raised again. Processor time only backs up the parent's clock.

    A core size of 0 stops a file only: where the host hands images of dying processes to a program of its own, any
    limit but 1 starts that, with the tested code's memory as its input (core(5), `do_coredump` in the kernel).
    """
    memory = resource.RLIMIT_AS if limits.memory == "address_space" else resource.RLIMIT_DATA
    tasks = limits.processes + THREADS
    if not own_user:  # the kernel counts every task of this user then, those of the host too
        with open("/proc/loadavg") as handle:
            tasks += int(handle.read().split()[3].partition("/")[2])
    seconds = int(max(limits.time_s * 4, limits.total_s)) + 2
    for kind, value in (
        (resource.RLIMIT_CORE, 1),
        (resource.RLIMIT_FSIZE, limits.scratch_bytes if files_writable else 0),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_STACK, limits.stack_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NPROC, tasks),
        (memory, limits.memory_bytes),
    ):
        _lower(kind, value)


def _lower(kind: int, value: int, get: Callable[[int], tuple[int, int]] = resource.getrlimit) -> None:
    hard = get(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
