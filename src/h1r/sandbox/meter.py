"""The time that a run itself has spent, read from /proc by its parent.

    spent = processor time of all its threads and processes
          + the time in which all of them slept, as seen at intervals

What a process waits for a processor, for memory or for a disk counts for nothing, nor does what a virtual machine's
host gives to others (`stolen_s`): that is the machine's doing, so an honest run spends the same on a busy machine as on
an idle one. Sleeping counts as if it computed, so that holding a
sandbox by `sleep`, a lock or a slow trickle of output ends as soon as an endless loop does.

    waited = time in which a thread was ready to run and had no processor (proc(5), second number of `schedstat`,
             nanoseconds), of the thread that waited most

A run that comes to its limit of the wall, and would be within its limit without what it waited, says nothing of its
code (`starved`). No run waits by its own doing: it cannot lower its priority or choose its processor, and what gives a
turn back does nothing (`seccomp`). Who sleeps does not wait, and threads that keep each other waiting use processors.
"""

from __future__ import annotations

import contextlib
import os
import time

from h1r.sandbox.limits import WALL_STRETCH

FIRST_S, INTERVAL_S = 0.02, 0.25
"""When a call is first looked at, and the longest time between two looks at a run."""
_TICKS = os.sysconf("SC_CLK_TCK")


class Meter:
    """Looks at the processes of one run. `process` is a descriptor of its first one (pidfd_open(2)), or None.

    Without one, or where /proc does not show the process, time on the wall stands for the time that was spent. When
    the process has ended nothing more is spent. The descriptor is closed by `close`.
    """

    def __init__(self, process: int | None, several: bool) -> None:
        self._process = process
        self._several = several
        self._began = self._looked = self._awaited = time.monotonic()
        self._cpu_s = self._slept_s = self._waited_s = 0.0
        self._stolen_s = stolen_s()
        self._excused = False

    @property
    def spent_s(self) -> float:
        """Seconds spent by the last look."""
        return self._cpu_s + self._slept_s

    @property
    def began(self) -> float:
        """When the run began, by `time.monotonic`."""
        return self._began

    @property
    def waited_s(self) -> float:
        """Seconds that the run has waited for a processor; when it has ended, those by the last look."""
        if (pid := _pid_of(self._process)) > 0:
            self._waited_s = max(self._waited_s, waited_s(pid, self._several))
        return self._waited_s

    @property
    def looked(self) -> float:
        """When the last look was, by `time.monotonic`."""
        return self._looked

    def await_it(self) -> None:
        """From now on the parent waits for the run. What it slept before, it may have waited for its parent."""
        self._awaited = time.monotonic()

    def excuse(self) -> None:
        """The run may have slept because its parent was slow to read or write: no sleep counts until the next look."""
        self._excused = True

    def look(self, wait_s: float) -> None:
        """Reads what was spent. Of the time since the last look at most `wait_s` can count as sleep of the run's."""
        now = time.monotonic()
        pid = _pid_of(self._process)
        if pid == 0:
            self._cpu_s, self._slept_s = now - self._began, 0.0
        elif pid > 0:
            cpu_s, asleep = found if (found := _state(pid, self._several)) else (now - self._began, False)
            if found is None and _pid_of(self._process) != pid:
                return  # it ended just now
            idle_s = min(now - max(self._looked, self._awaited), wait_s) - max(cpu_s - self._cpu_s, 0.0)
            stolen = stolen_s()
            if asleep and not self._excused:
                self._slept_s += max(idle_s - (stolen - self._stolen_s), 0.0)
            self._stolen_s = stolen
            self._cpu_s = max(cpu_s, self._cpu_s)
            self._waited_s = max(self._waited_s, waited_s(pid, self._several))
        self._looked, self._excused = now, False

    def settle(self, cpu_s: float) -> None:
        """The processor time that the kernel counted in the end."""
        self._cpu_s = max(cpu_s, self._cpu_s)

    def close(self) -> None:
        if self._process is not None:
            os.close(self._process)
            self._process = None


class Clock:
    """A limit on what a meter shows from now on. `from_start`: from the beginning of the run.

    A limit that begins later is read first after FIRST_S, so that a call that ends soon costs no look.
    """

    def __init__(self, meter: Meter, limit_s: float, wall_s: float, from_start: bool = False) -> None:
        self._meter = meter
        self._limit_s = limit_s
        self._ends = time.monotonic() + wall_s
        self._step_s = min(limit_s / 10, INTERVAL_S)
        self._first_s = min(limit_s / 10, FIRST_S)
        self._began = time.monotonic()
        self._counts_from = meter.began if from_start else self._began
        self._spent_before = self._waited_before = 0.0 if from_start else None

    def next_wait(self) -> float:
        """How long to wait before asking again; 0 when the time is over."""
        now = time.monotonic()
        if now >= self._ends:
            return 0.0
        if self._spent_before is None:
            if now - self._began < self._first_s:
                return min(self._began + self._first_s, self._ends) - now
            self._meter.look(self._step_s)
            self._spent_before, self._waited_before = self._meter.spent_s, self._meter.waited_s
        elif now - self._meter.looked >= self._step_s:
            self._meter.look(self._step_s)
        left = self._limit_s - (self._meter.spent_s - self._spent_before)
        if left <= 0:
            return 0.0
        return max(min(self._step_s - (time.monotonic() - self._meter.looked), left, self._ends - now), 0.005)

    def why_starved(self) -> str | None:
        """What to say where the limit of the wall is over, and the run would be within its limit without what it waited
        for a processor; None where it is not so."""
        now = time.monotonic()
        if now < self._ends or self._spent_before is None or self._waited_before is None:
            return None
        if self._meter.spent_s - self._spent_before >= self._limit_s:
            return None
        wall_s, waited = now - self._counts_from, self._meter.waited_s - self._waited_before
        return why_starved(wall_s, waited) if starved(wall_s, waited, self._limit_s) else None


def starved(wall_s: float, waited: float, limit_s: float, stretch: float = WALL_STRETCH) -> bool:
    """Whether what took so long on the wall would be within its limit had it not waited for a processor, and did so for
    all but one part in `stretch` of the time."""
    return wall_s - waited < min(limit_s, wall_s / stretch)


def why_starved(wall_s: float, waited: float) -> str:
    """The sentence for `starved`."""
    return f"the machine was too busy: it waited for a processor for {min(waited, wall_s):.3g} of {wall_s:.3g} s"


def waited_s(pid: int, several: bool = False) -> float:
    """Seconds that a process waited for a processor, by the thread that waited most; `several`: or one of those below
    it. 0 where the kernel does not say."""
    found = [0.0]
    with contextlib.suppress(OSError):
        found += [waited_by(f"/proc/{pid}/task/{name}") for name in os.listdir(f"/proc/{pid}/task")]
    return max(*found, *(waited_s(child, several) for child in (_children(pid) if several else ())), 0.0)


def waited_by(directory: str) -> float:
    """The same of what has this directory in /proc, a process's first thread or a thread."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"{directory}/schedstat") as handle:
        return int(handle.read().split()[1]) / 1e9
    return 0.0


def stolen_s(stat: str = "/proc/stat") -> float:
    """Seconds that the host of a virtual machine has given to others while a processor here had work, of the processor
    from which it took most (proc(5), eighth number of `stat`); 0 where the kernel does not say."""
    most = 0
    with contextlib.suppress(OSError, ValueError, IndexError), open(stat) as handle:
        for line in handle:
            if not line.startswith("cpu"):
                break
            if not line.startswith("cpu "):  # that is the sum
                most = max(most, int(line.split()[8]))
    return most / _TICKS


def _pid_of(process: int | None) -> int:
    """The number under which /proc has the process; 0 if it has none, -1 when the process has ended."""
    if process is None:
        return 0
    with contextlib.suppress(OSError, ValueError), open(f"/proc/self/fdinfo/{process}") as handle:
        for line in handle:
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return 0


def _state(pid: int, several: bool) -> tuple[float, bool] | None:
    """(seconds of processor time, whether all threads sleep) of a process; `several`: and of those below it."""
    found = _fields(f"/proc/{pid}/stat")
    if found is None:
        return None
    own, reaped = sum(map(int, found[11:13])), sum(map(int, found[13:15]))
    ticks = own + reaped
    asleep = _sleeps(found[0]) if found[17] == "1" else _all_threads_sleep(pid)
    for child in _children(pid) if several else ():
        if (below := _state(child, several)) is not None:
            ticks += round(below[0] * _TICKS)
            asleep = asleep and below[1]
    return ticks / _TICKS, asleep


def _fields(path: str) -> list[str] | None:
    """What follows the name in a stat file (proc_pid_stat(5)): state first, times from 11 on, threads at 17."""
    try:
        with open(path) as handle:
            return handle.read().rpartition(")")[2].split()
    except OSError:
        return None


def _sleeps(state: str) -> bool:
    """Asleep until something wakes it, or stopped. "D", a wait for a disk or memory, is no sleep."""
    return state in "STtI"


def _all_threads_sleep(pid: int) -> bool:
    try:
        threads = [_fields(f"/proc/{pid}/task/{name}/stat") for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return False
    living = [found[0] for found in threads if found and found[0] not in "ZX"]
    return bool(living) and all(map(_sleeps, living))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{name}/children") as handle:
                found += map(int, handle.read().split())
    return found
