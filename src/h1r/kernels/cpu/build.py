"""Finds the compiled C sources for this machine, or compiles them on first use, and loads them.

A library that came with the package is taken when it was made from the sources that lie here: of those whose
instruction set the processor has, the widest. Else one is compiled, one shared library per (sources, compiler,
instruction set, processor), kept in the user's cache directory and moved into place whole, so that concurrent processes
do not see half a file. `H1R_ARCH` names an instruction set (`toolchain.LEVELS`), or `native`: compiled here, for this
processor.

OpenMP symbols are left to the runtime that torch has already loaded: with a second one, two pools of threads would
fight for the cores.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from h1r.errors import UserError
from h1r.kernels.cpu.openmp import share_runtime
from h1r.kernels.cpu.structs import check_sizes
from h1r.kernels.cpu.toolchain import (
    LEVELS,
    SHIPPED,
    Level,
    compile_library,
    compiler,
    digest,
    lacking,
    native,
    platform_name,
    processor,
    shipped_name,
)

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
    "pack_narrow": "pl lll p f pp lll i",
    "amx_ready": "",
    "amx_gemm": "lll pll pll ppl i",
    "decode_tokens": "ppp l pp l pp i",
    "panel_width": "",
    "int8_block": "",
    "sample_rows": "p l i",
    "amx_attention_forward": "ppppp l iii pp i",
    "amx_attention_backward": "ppppp l iii pppppp i",
    "attention_forward": "ppppp ll iiii pp i",
    "attention_backward": "ppppp ll iiii pppppp i",
}
"""Argument types of each function: p pointer, l int64, i int, f float."""

_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "i": ctypes.c_int, "f": ctypes.c_float}


def obstacle() -> str | None:
    """Why the library cannot be used on this machine; None when it can. Compiles on the first call, where it must.

    Raises `UserError` when `H1R_ARCH` names what there is not, or what this processor cannot run.
    """
    if sys.platform not in ("linux", "darwin"):
        return f"they are built on Linux and macOS only, not on {sys.platform}"
    file = _chosen()[1]
    if file is None and shutil.which(compiler()) is None:
        return (
            f"no library that fits came with the package, and no C compiler {compiler()!r} was found (install gcc, "
            "or name one in CC)"
        )
    try:
        library()
    except (OSError, subprocess.SubprocessError) as error:
        return f"their {'compilation' if file is None else 'loading'} failed: {_first_line(error)}"
    return None


def _first_line(error: OSError | subprocess.SubprocessError) -> str:
    """What a compiler or the loader said first; of a compiler without a word, how it ended."""
    if said := (getattr(error, "stderr", None) or "").strip():
        return str(said.splitlines()[0])
    if isinstance(error, subprocess.CalledProcessError):
        return f"`{shlex.join(error.cmd)}` ended with code {error.returncode}; name a compiler that works in CC"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def origin() -> str:
    """Which library it is, in words for the user."""
    level, file = _chosen()
    if file is not None:
        return f"compiled for {level.name}, as it came with the package"
    return "compiled here for " + ("this processor" if level.name == "native" else level.name)


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library. Raises `OSError` or `subprocess.SubprocessError` when it cannot be built or loaded, and
    `RuntimeError` when a struct that Python fills in has another size there."""
    import torch  # its OpenMP must be in the process first

    assert torch.get_num_threads() > 0
    share_runtime(Path(torch.__file__).parent / "lib")
    level, file = _chosen()
    loaded = ctypes.CDLL(str(file or compiled(level)))
    for name, signature in _SIGNATURES.items():
        getattr(loaded, name).argtypes = [_TYPES[letter] for letter in signature.replace(" ", "")]
    loaded.sample_rows.restype = ctypes.c_int64
    check_sizes(loaded)
    return loaded


@functools.cache
def _chosen() -> tuple[Level, Path | None]:
    return choose(os.environ.get("H1R_ARCH") or None)


def choose(wanted: str | None, folder: Path = SHIPPED) -> tuple[Level, Path | None]:
    """The instruction set `wanted`, or this machine's best, and its library in `folder`; None: to be compiled.

    Raises `UserError` for one that there is not, or that this processor has not.
    """
    here = LEVELS.get(platform_name(), ())
    if wanted == "native":
        return native(), None
    if wanted is not None:
        level = next((level for level in here if level.name == wanted), None)
        if level is None:
            names = ", ".join(["native", *(level.name for level in here)])
            raise UserError(f"H1R_ARCH = {wanted!r} is unknown on {platform_name()}; choose one of {names}")
        if missing := lacking(level):
            able = ", ".join(["native", *(level.name for level in here if not lacking(level))])
            raise UserError(
                f"H1R_ARCH = {wanted!r} needs {', '.join(missing)}, which this processor has not; choose one of {able}"
            )
        file = folder / shipped_name(level)
        return level, file if file.exists() else None
    if folder.is_dir():
        for level in reversed(here):
            if not lacking(level) and (file := folder / shipped_name(level)).exists():
                return level, file
    return native(), None


def compiled(level: Level) -> Path:
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    about = digest(level.flags, version, processor() if level.name == "native" else None)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "h1r"
    target = cache / f"{level.name}-{about}.so"
    if not target.exists():
        compile_library(level, target)
    return target
