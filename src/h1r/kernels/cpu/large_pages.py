"""Memory that is read through from end to end again and again, on pages of 2 MiB where Linux has them.

With pages of 4 KiB each is looked up anew on every pass; in a virtual machine whose neighbours fill the caches, that
took three quarters of the time of reading (docs/log/engines.md). Many systems give large pages only to those who ask.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

LARGE = 2 << 20


def zeros(count: int) -> Tensor:
    """`count` zeros in fp32, on large pages if they fill some and the system has them."""
    if 4 * count < LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(count)
    memory = mmap.mmap(-1, 4 * count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel that was built without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32)
