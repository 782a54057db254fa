"""How OpenMP's threads wait for each other: spinning while the cores are theirs, asleep while other programs run there.

Threads meet at the end of every operator. One that spins until the last arrives is back at once, but uses up its turn
when that last one has lost its core to a neighbour, and both lose: two threads beside two busy loops made a twentieth
of the steps that one makes alone. One that sleeps gives its turn away, and costs up to a third where no neighbour is.
libgomp reads how long to spin when it is loaded, but spins hardly at all while it has more threads than the process may
use cores. So a thread that holds such a crowd, parked, has the others sleep, and its end has them spin again. No number
of threads that compute changes, and so no bit of a result.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

LOOK_S = 0.25
"""Between two looks at how long this process's threads waited for a core."""
BUSY_SHARE, CALM_SHARE = 0.05, 0.01
"""Of the time in which threads could have run, what they waited: above the first they sleep, below the second for
`CALM_LOOKS` in a row they spin again."""
CALM_LOOKS = 20
WAKING_S = 50e-6
"""What a thread that is woken waits for a core of its own, at most: on virtual machines some 20 microseconds. Threads
that sleep are woken a thousand times a second, and such waits are nobody's neighbour."""
LEAST_S = 0.02
"""A process that ran less between two looks tells nothing."""
_TASKS, _SCHEDSTAT = Path("/proc/self/task"), Path("/proc/self/schedstat")

Times = Mapping[str, tuple[int, int, int]]
"""Thread -> nanoseconds that it ran, and that it waited for a core; how often it was given one."""


def watch() -> bool:
    """Has threads sleep or spin from now on, by what is measured; once in a process, whoever calls. They begin asleep
    where the machine was busy as this process began, and those of programs that it starts stay so.

    False, and nothing done, where the user has chosen (`h1r.WAITS`), torch has one thread or another OpenMP than
    libgomp, or the system does not tell how long threads waited.
    """
    import torch

    import h1r

    global _watch
    if h1r.WAITS_GIVEN or not _SCHEDSTAT.exists():
        return False
    if h1r.BUSY_AT_START:  # libgomp is loaded with torch and reads nothing any more: this is for programs to come
        os.environ["OMP_WAIT_POLICY"], os.environ[h1r.WAITS_SET] = "PASSIVE", "1"
    if torch.get_num_threads() == 1:
        return False
    with _lock:
        if _watch is None or _watch.pid != os.getpid():
            library = loaded_libgomp(Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))
            if library is None:
                return False
            _watch = Watch(library, asleep=h1r.BUSY_AT_START)
            _watch.start()
    return True


def loaded_libgomp(maps: str) -> str | None:
    """The file of the libgomp that a process has loaded, by /proc/PID/maps: torch's, where there are several."""
    files = {line.split(maxsplit=5)[5] for line in maps.splitlines() if "/libgomp" in line}
    return min(files, key=lambda file: ("/torch/" not in file, file), default=None)


class Waits:
    """Decides, look by look, whether threads should sleep."""

    def __init__(self, asleep: bool = False) -> None:
        self.asleep = asleep
        self._before: Times = {}
        self._calm = 0

    def look(self, now: Times) -> bool:
        """Whether threads should sleep, by the times of all threads so far. Those that came since count next time."""
        both = [(now[name], self._before[name]) for name in now if name in self._before]
        self._before = now
        ran, waited, turns = (sum(new[i] - old[i] for new, old in both) for i in range(3))
        if ran + waited < LEAST_S * 1e9:
            return self.asleep
        share = max(0.0, waited - turns * WAKING_S * 1e9) / (ran + waited)
        self._calm = self._calm + 1 if share < CALM_SHARE else 0
        if share > BUSY_SHARE:
            self.asleep = True
        elif self._calm >= CALM_LOOKS:
            self.asleep = False
        return self.asleep


class Watch(threading.Thread):
    """Looks for as long as the process runs, and holds the crowd while threads should sleep."""

    def __init__(self, library: str, asleep: bool = False) -> None:
        super().__init__(name="h1r-thread-waits", daemon=True)
        self._waits = Waits(asleep)
        self.pid = os.getpid()
        self._library = ctypes.CDLL(library)
        self._crowd: tuple[threading.Thread, threading.Event] | None = None

    def run(self) -> None:
        while True:
            self._hold(self._waits.look(times_of_threads()))
            time.sleep(LOOK_S)

    def _hold(self, asleep: bool) -> None:
        if asleep and self._crowd is None:
            let_go = threading.Event()
            crowd = threading.Thread(target=self._be_crowd, args=(let_go,), name="h1r-thread-crowd", daemon=True)
            self._crowd = crowd, let_go
            crowd.start()
        elif not asleep and self._crowd is not None:
            crowd, let_go = self._crowd
            let_go.set()
            crowd.join()
            self._crowd = None

    def _be_crowd(self, let_go: threading.Event) -> None:
        """A team of one thread more than there are cores, which computes nothing; libgomp parks it until this ends."""
        team = len(os.sched_getaffinity(0)) + 1
        nothing = ctypes.cast(self._library.omp_get_thread_num, ctypes.c_void_p)
        self._library.GOMP_parallel(nothing, None, ctypes.c_uint(team), ctypes.c_uint(0))
        let_go.wait()


def times_of_threads() -> Times:
    """Of this process's threads, by /proc/self/task/THREAD/schedstat; those that end meanwhile are left out."""
    found = {}
    for task in _TASKS.iterdir():
        try:
            ran, waited, turns = (task / "schedstat").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            continue
        found[task.name] = int(ran), int(waited), int(turns)
    return found


_lock = threading.Lock()
_watch: Watch | None = None
