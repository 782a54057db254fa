"""How much of its time limit a process has used, on a machine that may be busy with other things.

    spent     processor time of the process, of all its threads
    idle      wall time that it neither computed in nor waited for a processor in: asleep, blocked
    charged   max(spent, spent + idle while it is blocked)

Time that others hold the processor, here or on the host of a virtual machine, is no fault of the answer, so it is
charged to none; WALL_FACTOR times the limit, and MIN_WALL_S at least, ends what is neither computing nor blocked. What
`is_starved` by then has no verdict. Sources: proc(5), `schedstat` (nanoseconds spent waiting on a run queue) and `stat`
(the state); clock_getcpuclockid(3), which makes a clock's id from a process id.

Where processor time of others cannot be read (no Linux) all wall time is charged.
"""

from __future__ import annotations

import sys
import time

from h1r.sandbox.meter import starved, stolen_s, waited_by, waited_s

WALL_FACTOR = 10.0
MIN_WALL_S = 60.0
_CPU_CLOCK_OF_PROCESS = 2  # CPUCLOCK_SCHED
_BLOCKED = "ST"
"""States of a process that sleeps, and of one that has stopped itself; others compute, wait for a disk, or are over."""


def wall_limit_s(limit_s: float) -> float:
    """Seconds of wall time that end an answer, whatever it did in them."""
    return max(MIN_WALL_S, WALL_FACTOR * limit_s)


class Meter:
    """Counts from its making on; `charged` is in seconds and never falls."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._clock = (~pid << 3) | _CPU_CLOCK_OF_PROCESS
        self._started = time.monotonic()
        self._spent_before = self._spent() or 0.0
        self._waited_before = self._waited()
        self._stolen_before = stolen_s()
        self._starved_before = waited_s(pid)
        self._charged = 0.0

    @property
    def wall_s(self) -> float:
        """Seconds since its making."""
        return time.monotonic() - self._started

    def charged(self) -> float:
        """What the process is to account for so far."""
        wall, spent = self.wall_s, self._spent()
        if spent is None:
            charged = wall if sys.platform != "linux" else self._charged  # it has ended
        else:
            charged = spent - self._spent_before
            if self._is_blocked():
                not_its_own = self._waited() - self._waited_before + stolen_s() - self._stolen_before
                charged = max(charged, wall - not_its_own)
        self._charged = max(self._charged, charged)
        return self._charged

    def is_starved(self, limit_s: float) -> bool:
        """Whether it would be within its limit without the time that it waited for a processor (`sandbox.meter`)."""
        return starved(self.wall_s, waited_s(self._pid) - self._starved_before, limit_s)

    def _spent(self) -> float | None:
        if sys.platform != "linux":
            return None
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            return None

    def _waited(self) -> float:
        return waited_by(f"/proc/{self._pid}")

    def _is_blocked(self) -> bool:
        try:
            with open(f"/proc/{self._pid}/stat", encoding="ascii", errors="replace") as handle:
                return handle.read().rpartition(")")[2].split()[0] in _BLOCKED
        except (OSError, IndexError):
            return False
