"""Makes the OpenMP runtime that torch is linked to visible to libraries that are linked to none.

torch's CPU wheels do so by themselves; its CUDA wheel for aarch64 does not, and neither do its wheels for macOS.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path


class _Symbol(ctypes.Structure):
    """`Dl_info` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def share_runtime(folder: Path) -> str | None:
    """Opens the runtime once more, for all to see. `folder` has libtorch_cpu; returns the runtime's file.

    None where torch has no such runtime, or it cannot be found: then what torch has made visible must do.
    """
    torch_cpu = folder / ("libtorch_cpu.dylib" if sys.platform == "darwin" else "libtorch_cpu.so")
    found = _Symbol()
    try:
        symbol = ctypes.CDLL(str(torch_cpu)).omp_get_thread_num  # looked up among what torch needs
        known = ctypes.CDLL(None).dladdr(ctypes.cast(symbol, ctypes.c_void_p), ctypes.byref(found))
        if not known or found.file is None:
            return None
        file = os.fsdecode(found.file)
        ctypes.CDLL(file, mode=ctypes.RTLD_GLOBAL)
    except (OSError, AttributeError):
        return None
    return file
