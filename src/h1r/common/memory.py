"""Memory that this process has used, and may still use."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def peak_rss_bytes() -> int:
    """The peak resident memory of this process and of the largest child that has ended, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * max(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    )


def installed_memory_bytes() -> int | None:
    """Bytes of memory that the machine has; None where the system does not say."""
    with suppress(OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def free_memory_bytes(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may still take: of the machine, and of its control group where one has a limit
    (of either version). None where the system does not say. root: of the file system, for tests.

    Pages of files that nobody has used for a while count to a group's memory, but give way when it is needed.
    """
    found: list[int] = []
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    groups = (
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for place, most, used, idle in groups:
        with suppress(OSError, ValueError):  # without a limit the second version says "max"
            free = int((root / place / most).read_text()) - int((root / place / used).read_text())
            counts = dict(line.split() for line in (root / place / "memory.stat").read_text().splitlines())
            found.append(free + int(counts.get(idle, 0)))
    return min(found, default=None)
