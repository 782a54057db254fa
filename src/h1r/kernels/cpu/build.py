"""Compiles the C sources for this machine on first use and loads them.

One shared library per (sources, compiler, processor), kept in the user's cache directory and moved into place whole, so
that concurrent processes do not see half a file. OpenMP symbols are left to the libgomp that torch has already loaded:
with a second one, two pools of threads would fight for the cores.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from h1r.kernels.cpu.structs import check_sizes

_SOURCES = Path(__file__).parent / "csrc"
# No -ffast-math: rounding tricks in vexp must stay as written, and a NaN must stay one.
_FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno",
          "-fno-trapping-math", "-Wno-psabi")  # fmt: skip

_SIGNATURES = {
    "swiglu_forward": "pplp lii",
    "swiglu_backward": "pplppp lii",
    "rms_norm_forward": "ppp lifi",
    "rms_norm_backward": "pppppp lifi",
    "gate_forward": "pplppl liifii",
    "gate_backward": "pplpplpplp liifii",
    "rotate": "plpppl liifi",
    "logprobs_forward": "pppp lii",
    "logprobs_backward": "ppppp lii",
    "conv_forward": "plpppp liii",
    "conv_backward": "plpppppppl pliii",
    "scan_forward": "pppppp pplll iiiiii ppi",
    "scan_backward": "pppppp pplll iiiiii ppplpppplp i",
    "scan_step": "pplpppplpp liiiii",
    "pack_rows": "pl ll p f p lll ll i",
    "amx_ready": "",
    "amx_gemm": "lll pll pll ppl i",
    "decode_tokens": "ppp l pp l pp i",
    "panel_width": "",
    "sample_rows": "p l i",
    "amx_attention_forward": "ppppp l iii pp i",
    "amx_attention_backward": "ppppp l iii pppppp i",
    "attention_forward": "ppppp ll iii pp i",
    "attention_backward": "ppppp ll iii pppppp i",
}
"""Argument types of each function: p pointer, l int64, i int, f float."""

_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}


def obstacle() -> str | None:
    """Why the library cannot be used on this machine; None when it can. Compiles on the first call."""
    if sys.platform != "linux":
        return f"they are built on Linux only, not on {sys.platform}"
    if shutil.which(_compiler()) is None:
        return f"no C compiler {_compiler()!r} was found (install gcc, or name one in CC)"
    try:
        library()
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return f"their compilation failed: {detail.strip().splitlines()[0] if detail.strip() else error}"
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises `OSError` or `subprocess.SubprocessError` when it cannot be built or loaded, and
    `RuntimeError` when a struct that Python fills in has another size there."""
    import torch  # its libgomp must be in the process first

    assert torch.get_num_threads() > 0
    loaded = ctypes.CDLL(str(_built()))
    for name, signature in _SIGNATURES.items():
        getattr(loaded, name).argtypes = [_TYPES[letter] for letter in signature.replace(" ", "")]
    loaded.sample_rows.restype = ctypes.c_int64
    check_sizes(loaded)
    return loaded


def _built() -> Path:
    sources = sorted(_SOURCES.glob("*.c"))
    digest = hashlib.sha256()
    for source in (*sources, *sorted(_SOURCES.glob("*.h"))):
        digest.update(source.read_bytes())
    version = subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    digest.update(repr((_FLAGS, version, _processor())).encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "h1r"
    target = cache / f"native-{digest.hexdigest()[:16]}.so"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        objects = [str(Path(folder) / f"{source.stem}.o") for source in sources]
        commands = [
            [_compiler(), *_FLAGS, "-c", str(source), "-o", made] for source, made in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        finished = Path(folder) / target.name
        _run([_compiler(), "-shared", *objects, "-lm", "-o", str(finished)])
        finished.replace(target)
    return target


def _run(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)


def _compiler() -> str:
    return os.environ.get("CC", "cc")


def _processor() -> str:
    """What -march=native depends on: the processor's feature flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
