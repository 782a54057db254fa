"""Processes that do not outlive the program that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""
_INIT = 1


def end_with_parent(proc: Path = Path("/proc")) -> None:
    """From now on this process is sent SIGTERM when its parent has died, however that died, and at once where that was
    a torchrun that has died already; on Linux alone. torchrun gives each process a session of its own, so that nothing
    reaches them when torchrun itself is killed: they would train on, unseen, and hold the run's lock against whoever
    goes on with it.

    proc: where processes are listed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        # The kernel tells only of deaths that come after that. torchrun does not say its own number, and a process
        # whose parent has died belongs to init; so does one that a container's script started by itself.
        if "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() == _INIT and not _launches(proc / str(_INIT)):
            os.kill(os.getpid(), signal.SIGTERM)


def _launches(process: Path) -> bool:
    """Whether a process may be what started this one, as in a container whose only program is torchrun: it runs on the
    same interpreter, or its command names torch."""
    try:
        return os.path.realpath(sys.executable) == os.readlink(process / "exe") or b"torch" in (
            (process / "cmdline").read_bytes()
        )
    except OSError:  # another user's
        return False
