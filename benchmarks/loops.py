"""Neighbours for benchmarks on a busy machine."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOP = """
import os, sys
parent = os.getppid()
if sys.platform == "linux":  # a stopped one ends with this process, too
    import ctypes
    ctypes.CDLL(None).prctl(1, 9)
while os.getppid() == parent: sum(range(100_000))
"""
"""It ends with this process."""


@contextmanager
def busy(loops: int, own_sessions: bool = False) -> Iterator[Callable[[int], None]]:
    """Endless loops for the time of the block. In sessions of their own the scheduler groups each apart, as it does
    other people's programs. Yields what has so many of them run on and stops the others; at first all run."""
    started = [subprocess.Popen([sys.executable, "-c", LOOP], start_new_session=own_sessions) for _ in range(loops)]

    def run(count: int) -> None:
        for place, loop in enumerate(started):
            loop.send_signal(signal.SIGCONT if place < count else signal.SIGSTOP)

    try:
        yield run
    finally:
        for loop in started:
            loop.kill()
            loop.wait()
