"""Instruction sets ("levels"), and how the C sources are compiled for one of them.

Only the standard library is imported: `setup.py` loads this file alone when a wheel is built. A wheel holds one library
for each level of its platform; its name has the hash of the sources and flags that it was made from. OpenMP is left
unlinked on purpose: its symbols are found in the runtime that torch has brought into the process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).parent / "csrc"
SHIPPED = Path(__file__).parent / "lib"
"""Where a wheel has its libraries; missing in a checkout and in a wheel of pure Python."""

# No -ffast-math: rounding tricks in vexp must stay as written, and a NaN must stay one.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi")
_LINUX, _MACOS = (*FLAGS, "-fopenmp"), (*FLAGS, "-Xclang", "-fopenmp")  # Apple's clang hides the plain flag


class Level(NamedTuple):
    """An instruction set: flags of the compiler, and what the processor must have, in the words of /proc/cpuinfo."""

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str] = frozenset()


_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_AMX = _V4 | {"amx_bf16", "amx_tile", "avx512_bf16", "avx512_vnni"}

LEVELS: dict[str, tuple[Level, ...]] = {
    "linux-x86_64": (
        Level("x86-64-v2", (*_LINUX, "-march=x86-64-v2"), _V2),
        Level("x86-64-v3", (*_LINUX, "-march=x86-64-v3"), _V3),
        Level("x86-64-v4", (*_LINUX, "-march=x86-64-v4"), _V4),
        Level(
            "x86-64-v4-amx",
            (*_LINUX, "-march=x86-64-v4", "-mavx512bf16", "-mavx512vnni", "-mamx-tile", "-mamx-bf16"),
            _AMX,
        ),
    ),
    "linux-aarch64": (Level("armv8-a", (*_LINUX, "-march=armv8-a")),),
    "macosx-x86_64": (
        Level("x86-64-v2", (*_MACOS, "-march=x86-64-v2"), _V2),
        Level("x86-64-v3", (*_MACOS, "-march=x86-64-v3"), _V3),
    ),
    "macosx-arm64": (Level("apple-m1", (*_MACOS, "-mcpu=apple-m1")),),
}
"""Levels by platform, the narrowest first."""


def platform_name() -> str:
    """The platform of this Python, or of the one that it builds for: a key of `LEVELS`, or a name that is none."""
    system, *_, machine = sysconfig.get_platform().split("-")
    return f"{system}-{platform.machine() if machine in ('universal2', 'intel') else machine}"


def native() -> Level:
    """Whatever the processor has on which the compiler runs."""
    common = _MACOS if sys.platform == "darwin" else _LINUX
    on_arm_mac = sys.platform == "darwin" and platform.machine() == "arm64"  # where clang 14 knows no -march=native
    return Level("native", (*common, "-mcpu=native" if on_arm_mac else "-march=native"))


def digest(*about: object) -> str:
    """A name for what is compiled from these sources: 16 hex digits, different for different `about`."""
    found = hashlib.sha256(repr(about).encode())
    for source in sorted((*SOURCES.glob("*.c"), *SOURCES.glob("*.h"))):
        content = source.read_bytes()
        found.update(f"{source.name} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def shipped_name(level: Level) -> str:
    return f"{level.name}-{digest(level.flags)}.so"


def compiler() -> str:
    return os.environ.get("CC", "cc")


def compile_library(level: Level, target: Path, macos: bool = sys.platform == "darwin") -> None:
    """Makes `target`, whole or not at all. Raises `OSError` or `subprocess.SubprocessError`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        sources = sorted(SOURCES.glob("*.c"))
        objects = [str(Path(folder) / f"{source.stem}.o") for source in sources]
        commands = [
            [compiler(), *level.flags, "-c", str(source), "-o", made]
            for source, made in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        finished = Path(folder) / target.name
        kind = ("-dynamiclib", "-undefined", "dynamic_lookup") if macos else ("-shared",)
        _run([compiler(), *kind, *objects, "-lm", "-o", str(finished)])
        finished.replace(target)


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)


@functools.cache
def processor() -> str:
    """The processor's features: the line of /proc/cpuinfo, or on a Mac the same words for what the levels ask."""
    if sys.platform == "darwin":
        return _features_of_a_mac() if platform.machine() == "x86_64" else platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _features_of_a_mac() -> str:
    """Each Mac that runs macOS 11, and Rosetta, has all of the second level."""
    names = [f"hw.optional.{name}" for name in ("avx2_0", "bmi1", "bmi2", "f16c", "fma")]
    done = subprocess.run(["sysctl", "-n", *names], capture_output=True, text=True, check=False)
    return " ".join(sorted(_V3 if done.stdout.split() == ["1"] * len(names) else _V2))


def lacking(level: Level) -> list[str]:
    """What the level needs and this processor does not have."""
    return sorted(level.needs - set(processor().split()))
