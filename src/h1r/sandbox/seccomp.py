"""The system calls that tested code may make: an allow list in the kernel's own filter language.

What is not listed fails with ENOSYS, which a C library takes for an old kernel and works around; what is listed with a
condition fails with EPERM. Four things follow from the list alone, at every isolation level:

    no socket that could leave the process        `socket` is absent, `socketpair` makes connected AF_UNIX ones
    no memory outside the address-space limit     `memfd_create`, System V shared memory and `io_uring` are absent
    no second process, unless `processes` is set  `fork` and `vfork` fail, `clone` makes threads only
    no waiting on purpose                         `sched_yield` does nothing; priorities and processors cannot be set

`strict` is for the level without namespaces: signals go to the caller only, and file metadata cannot be changed
(Landlock does not watch `chmod` and its relatives).

A process that only computes has no use for more, and says so with a `Grant`: no program is executed, and where nothing
else watches (no Landlock, or one before ABI 3, which lets every file that can be opened be cut to nothing) no call that
changes a file or a folder is made. One that forks others, which are to have fewer rights, gets `narrows`; each of these
then adds the filter of `build_narrower`, which leaves it what `narrows` and `processes` had given beyond the rest.

Numbers: Linux `asm/unistd_64.h` and `asm-generic/unistd.h`. Filter format: `linux/seccomp.h`, `linux/bpf_common.h`.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from dataclasses import dataclass

# fmt: off
SYSCALLS: dict[str, dict[str, int]] = {
    "x86_64": {
        "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
        "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14,
        "rt_sigreturn": 15, "ioctl": 16, "pread64": 17, "pwrite64": 18, "readv": 19, "writev": 20, "access": 21,
        "pipe": 22, "select": 23, "sched_yield": 24, "mremap": 25, "msync": 26, "mincore": 27, "madvise": 28,
        "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35, "getitimer": 36, "alarm": 37, "setitimer": 38,
        "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48, "getsockname": 51,
        "getpeername": 52, "socketpair": 53, "setsockopt": 54, "getsockopt": 55, "clone": 56, "fork": 57,
        "vfork": 58, "execve": 59, "exit": 60, "wait4": 61, "kill": 62, "uname": 63, "fcntl": 72, "flock": 73,
        "fsync": 74, "fdatasync": 75, "truncate": 76, "ftruncate": 77, "getdents": 78, "getcwd": 79, "chdir": 80,
        "fchdir": 81, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85, "link": 86, "unlink": 87, "symlink": 88,
        "readlink": 89, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "umask": 95,
        "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102,
        "getgid": 104, "geteuid": 107, "getegid": 108, "setpgid": 109, "getppid": 110, "getpgrp": 111,
        "setsid": 112, "getgroups": 115, "getresuid": 118, "getresgid": 120, "getpgid": 121, "getsid": 124,
        "capget": 125, "rt_sigpending": 127, "rt_sigtimedwait": 128, "rt_sigsuspend": 130, "sigaltstack": 131,
        "utime": 132, "statfs": 137, "fstatfs": 138, "getpriority": 140, "sched_getparam": 143,
        "sched_getscheduler": 145, "sched_get_priority_max": 146, "sched_get_priority_min": 147, "prctl": 157,
        "arch_prctl": 158, "setrlimit": 160, "gettid": 186, "tkill": 200, "time": 201, "futex": 202,
        "sched_getaffinity": 204, "epoll_create": 213, "getdents64": 217, "set_tid_address": 218,
        "restart_syscall": 219, "fadvise64": 221, "timer_create": 222, "timer_settime": 223, "timer_gettime": 224,
        "timer_getoverrun": 225, "timer_delete": 226, "clock_gettime": 228, "clock_getres": 229,
        "clock_nanosleep": 230, "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "tgkill": 234,
        "utimes": 235, "waitid": 247, "openat": 257, "mkdirat": 258, "fchownat": 260, "futimesat": 261,
        "newfstatat": 262, "unlinkat": 263, "renameat": 264, "linkat": 265, "symlinkat": 266, "readlinkat": 267,
        "fchmodat": 268, "faccessat": 269, "pselect6": 270, "ppoll": 271, "set_robust_list": 273,
        "get_robust_list": 274, "sync_file_range": 277, "utimensat": 280, "epoll_pwait": 281, "signalfd": 282,
        "timerfd_create": 283, "eventfd": 284, "fallocate": 285, "timerfd_settime": 286, "timerfd_gettime": 287,
        "signalfd4": 289, "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "preadv": 295,
        "pwritev": 296, "prlimit64": 302, "getcpu": 309, "renameat2": 316, "getrandom": 318, "execveat": 322,
        "membarrier": 324, "statx": 332, "rseq": 334, "clone3": 435, "close_range": 436, "faccessat2": 439,
        "epoll_pwait2": 441,
    },
    "aarch64": {
        "getcwd": 17, "eventfd2": 19, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "dup": 23,
        "dup3": 24, "fcntl": 25, "ioctl": 29, "flock": 32, "mkdirat": 34, "unlinkat": 35, "symlinkat": 36,
        "linkat": 37, "renameat": 38, "statfs": 43, "fstatfs": 44, "truncate": 45, "ftruncate": 46, "fallocate": 47,
        "faccessat": 48, "chdir": 49, "fchdir": 50, "fchmod": 52, "fchmodat": 53, "fchownat": 54, "fchown": 55,
        "openat": 56, "close": 57, "pipe2": 59, "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv": 65,
        "writev": 66, "pread64": 67, "pwrite64": 68, "preadv": 69, "pwritev": 70, "pselect6": 72, "ppoll": 73,
        "signalfd4": 74, "readlinkat": 78, "newfstatat": 79, "fstat": 80, "fsync": 82, "fdatasync": 83,
        "sync_file_range": 84, "timerfd_create": 85, "timerfd_settime": 86, "timerfd_gettime": 87, "utimensat": 88,
        "capget": 90, "exit": 93, "exit_group": 94, "waitid": 95, "set_tid_address": 96, "futex": 98,
        "set_robust_list": 99, "get_robust_list": 100, "nanosleep": 101, "getitimer": 102, "setitimer": 103,
        "timer_create": 107, "timer_gettime": 108, "timer_getoverrun": 109, "timer_settime": 110,
        "timer_delete": 111, "clock_gettime": 113, "clock_getres": 114, "clock_nanosleep": 115,
        "sched_getscheduler": 120, "sched_getparam": 121, "sched_getaffinity": 123, "sched_yield": 124,
        "sched_get_priority_max": 125, "sched_get_priority_min": 126, "restart_syscall": 128, "kill": 129,
        "tkill": 130, "tgkill": 131, "sigaltstack": 132, "rt_sigsuspend": 133, "rt_sigaction": 134,
        "rt_sigprocmask": 135, "rt_sigpending": 136, "rt_sigtimedwait": 137, "rt_sigreturn": 139,
        "getpriority": 141, "getresuid": 148, "getresgid": 150, "times": 153, "setpgid": 154, "getpgid": 155,
        "getsid": 156, "setsid": 157, "getgroups": 158, "uname": 160, "getrlimit": 163, "setrlimit": 164,
        "getrusage": 165, "umask": 166, "prctl": 167, "getcpu": 168, "gettimeofday": 169, "getpid": 172,
        "getppid": 173, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179,
        "socketpair": 199, "getsockname": 204, "getpeername": 205, "sendto": 206, "recvfrom": 207,
        "setsockopt": 208, "getsockopt": 209, "shutdown": 210, "sendmsg": 211, "recvmsg": 212, "brk": 214,
        "munmap": 215, "mremap": 216, "clone": 220, "execve": 221, "mmap": 222, "fadvise64": 223, "mprotect": 226,
        "msync": 227, "mincore": 232, "madvise": 233, "wait4": 260, "prlimit64": 261, "renameat2": 276,
        "getrandom": 278, "execveat": 281, "membarrier": 283, "statx": 291, "rseq": 293, "clone3": 435,
        "close_range": 436, "faccessat2": 439, "epoll_pwait2": 441,
    },
}
# fmt: on
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

_METADATA = frozenset(
    (
        "chmod",
        "fchmod",
        "fchmodat",
        "chown",
        "fchown",
        "lchown",
        "fchownat",
        "utime",
        "utimes",
        "futimesat",
        "utimensat",
    )
)
_FORKS = frozenset(("fork", "vfork"))
_EXECUTES = frozenset(("execve", "execveat"))
_CHANGES = frozenset(
    (
        *("creat", "truncate", "fallocate", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat"),
        *("renameat2", "link", "linkat", "symlink", "symlinkat"),
    )
)
_OPEN_FLAGS_AT = {"open": 1, "openat": 2}
_OPEN_CHANGES = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC and what O_TMPFILE has beside O_DIRECTORY (`asm-generic/fcntl.h`)."""
_SIGNALS = frozenset(("kill", "tkill", "tgkill"))
_CLONE_THREAD = 0x10000
_CLONE_NAMESPACES = 0x7E020080
_FCNTL_DENIED = (8, 10, 15, 1024, 1026)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: make the kernel signal another process; F_SETLEASE, F_NOTIFY: make others wait."""
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_PRCTLS = (15, 16, 0x53564D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA
_NARROWING_PRCTLS = (1, 22)  # PR_SET_PDEATHSIG, PR_SET_SECCOMP
_SESSIONS = frozenset(("setsid", "setpgid"))
_AF_UNIX, _SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPES = 1, 1, 5, 0xF
"""A pair of SOCK_DGRAM could send to any socket that has a name."""

_LOAD, _EQUAL, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NOTHING = 0x00050000
"""The call is not made, and its caller told that it was."""
_EPERM, _ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4


def architecture() -> str | None:
    """The key of `SYSCALLS` for this machine; None when its numbers are not known here."""
    machine = platform.machine()
    return machine if machine in SYSCALLS and struct.calcsize("P") == 8 else None


@dataclass(frozen=True, slots=True)
class Grant:
    """What the filter permits beyond computing: `fork`, programs, changed files. For the others see the module."""

    processes: bool = False
    strict: bool = True
    executes: bool = True
    changes: bool = True
    narrows: bool = False


def build_filter(machine: str, grant: Grant, pid: int) -> bytes:
    """The filter as an array of `struct sock_filter`; `pid` is the only process that `strict` lets signal (itself)."""
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [(_ANY_BIT, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL)]
    for name, number in SYSCALLS[machine].items():
        body = _rule(name, grant, pid)
        program += [(_EQUAL, 0, len(body), number), *body]
    program.append((_RETURN, 0, 0, _ENOSYS))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def build_narrower(machine: str, pid: int) -> bytes:
    """A filter to add to one with `processes` and `narrows`: no process, no signal but to `pid`, no further filter.

    It stays in the session that its creator can end. The numbers of other tables are ended by the first filter.
    """
    program = [(_LOAD, 0, 0, _NUMBER_AT)]
    bodies = {
        **{name: [(_RETURN, 0, 0, _EPERM)] for name in sorted(_FORKS | _SESSIONS)},
        **{name: _if_argument(0, (pid,), _ALLOW, _EPERM) for name in sorted(_SIGNALS)},
        "clone": _clone_rule(processes=False),
        "prctl": _if_argument(0, _PRCTLS, _ALLOW, _EPERM),
    }
    for name, body in bodies.items():
        if name in SYSCALLS[machine]:
            program += [(_EQUAL, 0, len(body), SYSCALLS[machine][name]), *body]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _rule(name: str, grant: Grant, pid: int) -> list[tuple[int, int, int, int]]:
    if name == "clone3":  # its flags are behind a pointer; without it the C library calls `clone`
        return [(_RETURN, 0, 0, _ENOSYS)]
    if name == "sched_yield":  # who gives its turns away would pass for one whom the machine let wait (`meter`)
        return [(_RETURN, 0, 0, _NOTHING)]
    if name in _FORKS:
        return [(_RETURN, 0, 0, _ALLOW if grant.processes else _EPERM)]
    if name == "clone":
        return _clone_rule(grant.processes)
    if grant.strict and name in _METADATA:
        return [(_RETURN, 0, 0, _EPERM)]
    if (not grant.executes and name in _EXECUTES) or (not grant.changes and name in _CHANGES):
        return [(_RETURN, 0, 0, _EPERM)]
    if not grant.changes and name in _OPEN_FLAGS_AT:
        load = (_LOAD, 0, 0, _argument(_OPEN_FLAGS_AT[name]))
        return [load, (_ANY_BIT, 0, 1, _OPEN_CHANGES), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    if grant.strict and name in _SIGNALS and not grant.processes:
        return _if_argument(0, (pid,), _ALLOW, _EPERM)
    if name == "socketpair":
        return _socketpair_rule()
    conditions = {
        "fcntl": (1, _FCNTL_DENIED, _EPERM, _ALLOW),
        "ioctl": (1, _IOCTLS, _ALLOW, _EPERM),
        "prctl": (0, (*_PRCTLS, *_NARROWING_PRCTLS) if grant.narrows else _PRCTLS, _ALLOW, _EPERM),
        "prlimit64": (0, (0,), _ALLOW, _EPERM),
    }
    return _if_argument(*conditions[name]) if name in conditions else [(_RETURN, 0, 0, _ALLOW)]


def _clone_rule(processes: bool) -> list[tuple[int, int, int, int]]:
    load = (_LOAD, 0, 0, _argument(0))
    if processes:
        return [load, (_ANY_BIT, 0, 1, _CLONE_NAMESPACES), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    mask = (_AND, 0, 0, _CLONE_NAMESPACES | _CLONE_THREAD)
    return [load, mask, (_EQUAL, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)]


def _socketpair_rule() -> list[tuple[int, int, int, int]]:
    family = [(_LOAD, 0, 0, _argument(0)), (_EQUAL, 1, 0, _AF_UNIX), (_RETURN, 0, 0, _EPERM)]
    kind = [(_LOAD, 0, 0, _argument(1)), (_AND, 0, 0, _SOCK_TYPES)]
    return [*family, *kind, (_EQUAL, 1, 0, _SOCK_STREAM), (_EQUAL, 0, 1, _SOCK_SEQPACKET), (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _EPERM)]  # fmt: skip


def _if_argument(index: int, values: tuple[int, ...], then: int, otherwise: int) -> list[tuple[int, int, int, int]]:
    rule = [(_LOAD, 0, 0, _argument(index))]
    for value in values:
        rule += [(_EQUAL, 0, 1, value & 0xFFFFFFFF), (_RETURN, 0, 0, then)]
    return [*rule, (_RETURN, 0, 0, otherwise)]


def _argument(index: int) -> int:
    """Where the low half of an argument stands in `struct seccomp_data` of a little-endian machine."""
    return 16 + 8 * index


def filter_for_this_process(grant: Grant) -> bytes:
    """`build_filter` for the caller; `OSError` on a machine whose system call numbers are not known."""
    machine = architecture()
    if machine is None:
        raise OSError(errno.ENOSYS, f"no system call numbers for {platform.machine()}")
    return build_filter(machine, grant, os.getpid())
