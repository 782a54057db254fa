"""Loads torch's shared libraries while Python imports other modules.

Reading and linking them is a fifth to a half of `import torch`, more where the disk has to be read, and needs no
interpreter: a thread does it on another core. torch loads the same files in the same order, and finds them there.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from h1r.common.progress import note


def load_ahead() -> None:
    """Begins, and returns at once. What cannot be loaded so (another system, a build for CUDA whose libraries lie in
    other packages) is left to torch."""
    if sys.platform == "linux" and "torch" not in sys.modules:
        threading.Thread(target=_load, name="h1r-torch-libraries", daemon=True).start()


def begin_loading(what: str) -> None:
    """`load_ahead`, and says so: it takes seconds before anything else is seen."""
    if "torch" not in sys.modules:
        note(f"loading {what}")
        load_ahead()


@contextmanager
def importing() -> Iterator[None]:
    """While torch is imported, and whatever uses it. That leaves 220,000 objects which stay: nothing looks through them
    for garbage meanwhile, which takes 0.4 s, nor later, over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _load() -> None:
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return
    libraries = Path(spec.submodule_search_locations[0]) / "lib"
    try:
        ctypes.CDLL(str(libraries / "libtorch_global_deps.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(libraries / "libtorch_python.so"))
    except OSError:
        return
