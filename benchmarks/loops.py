"""Neighbours for benchmarks on a busy machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
"""It ends with this process."""


@contextmanager
def busy(loops: int, own_sessions: bool = False) -> Iterator[None]:
    """Endless loops for the time of the block. In sessions of their own the scheduler groups each apart, as it does
    other people's programs."""
    running = [subprocess.Popen([sys.executable, "-c", LOOP], start_new_session=own_sessions) for _ in range(loops)]
    try:
        yield
    finally:
        for loop in running:
            loop.kill()
            loop.wait()
