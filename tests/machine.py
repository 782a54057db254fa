"""How slow this machine is just now. Bounds on time are those of one that is idle and as fast as another."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

REFERENCE_S = 0.025
"""What a scan takes on the machine on which bounds were set."""
_SCAN, _TEXT = re.compile("(?:a|bc)*+d"), "a" * 1_000_000


def slowness(clock: Callable[[], float] = time.process_time, scans: int = 1) -> float:
    """How many times as long as there a linear scan takes, at least 1: by processor time, or by a clock for which a
    machine that has other work is slow too."""
    began = clock()
    for _ in range(scans):
        _SCAN.match(_TEXT)
    return max(1.0, (clock() - began) / (scans * REFERENCE_S))


def bound(seconds: float) -> float:
    """A bound on that machine's clock as one on this machine's."""
    return seconds * slowness(time.monotonic, scans=20)
