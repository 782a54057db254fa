"""Control groups (cgroup v2) around a fork server and its runs, where the machine lets this user make them.

Resource limits hold for each process; a group bounds all of them together: the memory of a compiler's processes and of
files in memory, the number of tasks, the processors used at once. It is a second wall: no level depends on it. Runs
cannot leave their group, since they can open nothing below `/sys`. Source: the kernel's Documentation/admin-guide/
cgroup-v2.rst. Groups are made below the folder that `H1R_SANDBOX_CGROUP` names (one that is delegated to this user,
`systemd-run --user --scope -p Delegate=yes` and its like), else below the nearest one above this process that hands its
controllers on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from functools import cache
from pathlib import Path

from h1r.sandbox.limits import THREADS, Limits

VARIABLE = "H1R_SANDBOX_CGROUP"
NEEDED = frozenset(("memory", "pids"))
PROCESSORS = 4
"""That a run may use at once, where the group can say so."""
_FORK_SERVER_BYTES, _FORK_SERVER_TASKS = 256 << 20, 8
"""Of the fork server, its interpreter and what wraps them."""
_PERIOD_US = 100_000
_REMOVAL_S = 2.0


class ControlGroup:
    """One group. `enter` is the command that a process starts with to be in it from its first instruction on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: dict[str, str] = {}

    @classmethod
    def below(cls, parent: Path) -> ControlGroup:
        """A new group there; `OSError` when the kernel refuses."""
        folder = parent / f"h1r-sandbox-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
        return cls(folder)

    def enter(self, command: list[str]) -> list[str]:
        """The command, run in this group, or not at all."""
        return ["/bin/sh", "-c", 'echo 0 > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]

    def limit(self, limits: Limits) -> None:
        """What a run under these limits, its files and its fork server may use together, by the controllers at hand."""
        self._write("pids.max", str(limits.processes + THREADS + _FORK_SERVER_TASKS))
        self._write("memory.max", str(limits.memory_bytes + limits.scratch_bytes + _FORK_SERVER_BYTES))
        self._write("memory.swap.max", "0")
        self._write("cpu.max", f"{PROCESSORS * _PERIOD_US} {_PERIOD_US}")

    def _write(self, name: str, text: str) -> None:
        if self._written.get(name) != text and (self.folder / name).exists():
            (self.folder / name).write_text(text)
            self._written[name] = text

    def close(self) -> None:
        """Kills what is left in it and removes it."""
        until = time.monotonic() + _REMOVAL_S
        with contextlib.suppress(OSError), (self.folder / "cgroup.kill").open("r+") as handle:
            handle.write("1")
        while self.folder.exists() and time.monotonic() < until:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.01)


@cache
def place() -> tuple[Path | None, str]:
    """Where groups can be made, found by making one, and why nowhere, if so."""
    named = os.environ.get(VARIABLE)
    candidates = [Path(named)] if named else _above_this_process()
    if not candidates:
        return None, "no cgroup v2 file system"
    reasons = []
    for folder in candidates:
        try:
            missing = NEEDED - set((folder / "cgroup.subtree_control").read_text().split())
            if missing:
                reasons.append(f"{folder} does not hand on {', '.join(sorted(missing))}")
                continue
            group = ControlGroup.below(folder)
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror}")
            continue
        group.close()
        return folder, ""
    return None, "; ".join(reasons)


def _above_this_process(mounts: str = "/proc/self/mountinfo", own: str = "/proc/self/cgroup") -> list[Path]:
    """The group of this process and those above it, nearest first."""
    try:
        lines = [line.split() for line in Path(mounts).read_text().splitlines()]
        roots = [line[4] for line in lines if line[line.index("-") + 1] == "cgroup2"]
        paths = [line[3:] for line in Path(own).read_text().splitlines() if line.startswith("0::")]
    except (OSError, ValueError):
        return []
    if not roots or not paths:
        return []
    root, inner = Path(roots[0]), Path(paths[0].lstrip("/"))
    return [root / inner, *(root / above for above in inner.parents)] if str(inner) != "." else [root]
