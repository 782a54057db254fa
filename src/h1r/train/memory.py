"""Freed memory stays with the process, so that a training step finds the pages of the step before.

glibc gives large blocks back to the system when they are freed, and a step frees its activations: hundreds of thousands
of pages that the next step must be given again, cleared, at 2 to 4 us each on a virtual machine: an eighth of a step. A
steady step then needs no new page, at the same peak.
"""

from __future__ import annotations

import ctypes
import os
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory(device: torch.device | str = "cpu") -> bool:
    """For the rest of the process, when it trains on a CPU. False, and nothing done, on another device, where the C
    library is not glibc, or when the environment sets MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_MAX_."""
    if torch.device(device).type != "cpu":
        return False
    if not sys.platform.startswith("linux") or os.environ.keys() & {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_"}:
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    # Without maps of their own, large blocks come from the heap; -1: its end is never given back.
    return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, -1))
