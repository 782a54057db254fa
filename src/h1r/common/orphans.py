"""Processes that do not outlive the program that started them."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


def end_with_parent() -> None:
    """From now on this process is sent SIGTERM when its parent has died, however that died; on Linux alone. torchrun
    gives each process a session of its own, so that nothing reaches them when torchrun itself is killed: they would
    train on, unseen, and hold the run's lock against whoever goes on with it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
