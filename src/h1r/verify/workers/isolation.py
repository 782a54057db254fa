"""How a worker gives up its rights before it sees the first answer, and the level that this reaches here.

    landlock   files: only what Python may still import is readable, nothing can be written or executed
               calls: no socket, no program, no second process, no signal or trace of another, no other kernel interface
    calls      the calls, and nothing can be written; files can be read (no Landlock, or a thread that escaped it)
    rlimits    neither: no Linux, an unknown machine, a kernel without system call filters, or asked for

A worker first imports, and warms, every verifier that its pool needs: trusted code, which may read its data and start
what it likes. Then it keeps: these readable folders (standard library, installed packages, the packages imported so
far, system libraries), its connection, memory, threads, and `fork`. It is root no longer in any sense but the name: the
one capability left is to read, within the folders. Metadata (`stat`) of other files stays visible, and so does time.

The fork that grades an answer then closes the connection, and gives up `fork` and signals too (`confine_answer`).

`H1R_WORKER_ISOLATION` names a level that is then that one or none; by default it is the strongest that works.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import site
import sys
import sysconfig
from enum import StrEnum
from functools import cache

LEVEL_VARIABLE = "H1R_WORKER_ISOLATION"
AUTO = "auto"
MAX_THREADS = 4096
"""More than are there, of all processes together; the kernel does not hold its root to that."""
MAX_OPEN_FILES = 256
"""A socket or a pipe holds kernel memory that no limit on the address space counts."""
_SYSTEM = (
    *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"),
    *("/usr/share/zoneinfo", "/etc/localtime", "/dev/urandom", "/dev/zero"),
)
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS)


class WorkerIsolation(StrEnum):
    """What bounds a worker beside its resource limits, weakest first; see the module."""

    RLIMITS = "rlimits"
    CALLS = "calls"
    LANDLOCK = "landlock"


def give_up_rights(wanted: str = AUTO, forks: bool = False) -> tuple[WorkerIsolation, str]:
    """Confines this process for good: the level reached, and why it is no stronger one ("" at the strongest).

    One that `forks` keeps that right, and passes it on to nobody (`confine_answer`). `ValueError` when a level is named
    and cannot be had.
    """
    known = [AUTO, *WorkerIsolation]
    if wanted not in known:
        raise ValueError(f"{LEVEL_VARIABLE}={wanted} is no level; use one of {', '.join(known)}")
    level, why = WorkerIsolation.RLIMITS, "as asked for"
    if wanted != WorkerIsolation.RLIMITS:
        level, why = _confine(wanted != WorkerIsolation.CALLS, forks)
    if wanted not in (AUTO, level):
        raise ValueError(f"{LEVEL_VARIABLE}={wanted} cannot be had here: {why}")
    return level, why


def thread_limit() -> int | None:
    """How many threads an answer's user may have; None where that cannot be known.

    A limit of the fork, not of the worker: that has to have a process left for the next answer.
    """
    with contextlib.suppress(OSError), open("/proc/loadavg", encoding="ascii") as handle:
        return MAX_THREADS + int(handle.read().split()[3].partition("/")[2])
    return None


def limit(kind: int, value: int) -> None:
    """Sets a soft and hard limit of this process, within the hard one that it has already."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def confine_answer(level: WorkerIsolation | None, worker: int) -> None:
    """What a fork of `worker` gives up beyond that before it reads an answer; `OSError` if it cannot."""
    if sys.platform != "linux":
        return
    from h1r.sandbox import confine

    confine.die_with_parent()
    if os.getppid() != worker:
        os._exit(1)  # it had ended before
    if level in (WorkerIsolation.CALLS, WorkerIsolation.LANDLOCK):
        confine.narrow_system_calls()


def _confine(with_files: bool, forks: bool) -> tuple[WorkerIsolation, str]:
    if sys.platform != "linux":
        return WorkerIsolation.RLIMITS, f"{sys.platform} has neither Landlock nor system call filters"
    from h1r.sandbox import confine, seccomp

    if seccomp.architecture() is None:
        return WorkerIsolation.RLIMITS, f"the system call numbers of {os.uname().machine} are not known"
    try:
        abi, why = (confine.landlock_abi(), "") if with_files else (0, "as asked for")
    except OSError as error:
        abi, why = 0, str(error)
    try:
        readable, threads = readable_paths(), _threads()
        _be_counted()
        confine.drop_capabilities(keep=confine.CAP_DAC_READ_SEARCH)
        confine.no_new_privileges()
        if abi:
            confine.restrict_files(readable, executable=False)
        changes = abi >= confine.FIRST_TRUNCATION_ABI and (threads == 1 or forks)
        grant = seccomp.Grant(processes=forks, executes=False, changes=changes, narrows=forks)
        confine.restrict_system_calls(grant, all_threads=threads > 1 and not forks)
    except OSError as error:
        return WorkerIsolation.RLIMITS, str(error)
    if abi and threads > 1 and not forks:
        return WorkerIsolation.CALLS, f"a verifier had started threads ({threads - 1}), which no file rule reaches"
    return (WorkerIsolation.LANDLOCK if abi else WorkerIsolation.CALLS), why


def _be_counted() -> None:
    """The kernel bounds the threads of no process whose real user is root; only rights that the effective user gives
    are used here. It counts them by user: each worker is one of its own, so that no answer takes another's threads."""
    from h1r.sandbox import confine

    if os.getuid() == os.geteuid() == 0:
        for user in (confine.OWN_IDS + os.getpid(), confine.UNPRIVILEGED_ID):
            try:
                os.setresuid(user, 0, 0)
            except OSError:  # a user namespace that does not know it
                continue
            return


def readable_paths() -> list[str]:
    """What may still be opened: installed packages, those imported so far wherever they are, and system libraries.

    Not what lies beside a module on `sys.path`: that may be a home folder.
    """
    wanted = {*_SYSTEM, os.path.join(sys.base_prefix, "lib"), *site.getsitepackages(), *_imported_packages()}
    wanted |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    if site.ENABLE_USER_SITE:
        wanted.add(site.getusersitepackages())
    wanted |= {path for path in sys.path if path.endswith((".zip", "-packages"))}
    wanted |= set(os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    found: list[str] = []
    for path in sorted({os.path.realpath(path) for path in wanted if os.path.isabs(path) and os.path.exists(path)}):
        if not any(path.startswith(outer + os.sep) for outer in found):
            found.append(path)
    return found


def _imported_packages() -> set[str]:
    found: set[str] = set()
    for name, module in list(sys.modules.items()):
        paths = getattr(module, "__dict__", {}).get("__path__") if "." not in name else None  # some import on demand
        found.update(path for path in paths or () if isinstance(path, str))
    return found


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


@cache
def note_level(level: WorkerIsolation, why: str) -> None:
    """One line on standard error, once in a process."""
    from h1r.common.progress import note  # not needed, and slow to import, in a worker

    note(f"answers are graded with isolation by {level}" + (f" ({why})" if why else ""))


def explained(error: BaseException, level: WorkerIsolation | None) -> str:
    """The error in 300 characters or so, and where a confined worker's missing rights may be its cause, that."""
    text = f"{type(error).__name__}: {error}"[:300]
    refused = isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno in _REFUSALS)
    if level in (None, WorkerIsolation.RLIMITS) or not refused:
        return text
    return f"{text[:200]} (workers grade without files, network and processes; see `confined` in h1r.verify.registry)"
