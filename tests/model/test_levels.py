"""Which compiled library a machine takes: one of the wheel where it fits, else its own; never one of other sources."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from h1r.errors import UserError
from h1r.kernels.cpu import build, toolchain
from h1r.kernels.cpu.structs import check_sizes

X86 = toolchain.LEVELS["linux-x86_64"]


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores of 2014: AVX2 and no AVX-512."""
    monkeypatch.setattr(build, "platform_name", lambda: "linux-x86_64")
    monkeypatch.setattr(toolchain, "processor", lambda: f"flags\t\t: {' '.join(X86[1].needs)} rdrand")


def shipped(folder: Path, *levels: toolchain.Level) -> Path:
    for level in levels:
        (folder / toolchain.shipped_name(level)).touch()
    return folder


@pytest.mark.usefixtures("on_x86")
def test_the_widest_library_that_the_processor_can_run_is_taken(tmp_path: Path) -> None:
    level, file = build.choose(None, shipped(tmp_path, *X86))
    assert (level.name, file) == ("x86-64-v3", tmp_path / toolchain.shipped_name(X86[1]))
    (tmp_path / toolchain.shipped_name(X86[1])).unlink()
    assert build.choose(None, tmp_path)[0].name == "x86-64-v2"
    assert build.choose("x86-64-v2", tmp_path)[1] == tmp_path / toolchain.shipped_name(X86[0])
    # What did not come along is compiled: for the level that was named, or for this processor.
    assert build.choose("x86-64-v3", tmp_path) == (X86[1], None)
    assert build.choose("native", tmp_path) == (toolchain.native(), None)
    assert build.choose(None, tmp_path / "nothing") == (toolchain.native(), None)


@pytest.mark.usefixtures("on_x86")
def test_libraries_of_other_sources_or_flags_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = Path(shutil.copytree(toolchain.SOURCES, tmp_path / "csrc"))
    monkeypatch.setattr(toolchain, "SOURCES", sources)
    folder = tmp_path / "lib"
    folder.mkdir()
    shipped(folder, *X86)
    other = X86[1]._replace(flags=(*X86[1].flags, "-O1"))
    assert toolchain.shipped_name(other) != toolchain.shipped_name(X86[1])
    (sources / "vector.h").write_text("/* changed */", encoding="utf-8")
    assert build.choose(None, folder) == (toolchain.native(), None)


@pytest.mark.usefixtures("on_x86")
def test_a_level_that_cannot_run_here_says_which_can() -> None:
    with pytest.raises(UserError, match=r"needs avx512bw, .* choose one of native, x86-64-v2, x86-64-v3$"):
        build.choose("x86-64-v4")
    with pytest.raises(UserError, match="'sparc' is unknown on linux-x86_64; choose one of native, x86-64-v2"):
        build.choose("sparc")


def stand_in(folder: Path, version: str) -> str:
    """A compiler that makes empty files and writes down what it was asked."""
    program = folder / f"cc-{version}"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> "{folder}/asked"\n[ "$1" = --version ] && echo cc {version}\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return str(program)


def test_each_level_and_compiler_has_a_library_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CC", stand_in(tmp_path, "1"))
    made = [build.compiled(level) for level in (*X86, toolchain.native())]
    assert made == [build.compiled(level) for level in (*X86, toolchain.native())]
    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert sum(" -march=x86-64-v3 " in line for line in asked) == len(list(toolchain.SOURCES.glob("*.c")))
    monkeypatch.setenv("CC", stand_in(tmp_path, "2"))
    made += [build.compiled(X86[0])]
    assert len(set(made)) == 6
    assert all(file.exists() for file in made)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_a_library_of_a_wheel_loads_beside_torch_and_asks_for_no_new_glibc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = next((level for level in X86[1:2] if not toolchain.lacking(level)), None)
    if level is None or build.platform_name() != "linux-x86_64":
        pytest.skip("no AVX2")
    monkeypatch.setenv("CC", "gcc")
    target = tmp_path / toolchain.shipped_name(level)
    toolchain.compile_library(level, target)
    assert torch.get_num_threads() > 0  # its OpenMP is there
    loaded = ctypes.CDLL(str(target))
    check_sizes(loaded)
    assert loaded.panel_width() == 3 * 8  # AVX2: eight floats to a vector
    content = target.read_bytes()
    assert b"libgomp" not in content
    assert b"GOMP_parallel" in content
    versions = {tuple(map(int, one.split(b"."))) for one in set(glibc_versions(content))}
    assert max(versions) <= (2, 28)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_torch_s_openmp_is_shared_where_torch_keeps_it_to_itself(tmp_path: Path) -> None:
    def compile_c(name: str, source: str, *needs: str) -> None:
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", *needs, "-o", str(tmp_path / name)]
        subprocess.run(command, input=source, text=True, check=True, timeout=60)

    compile_c("librun.so", "int omp_get_thread_num(void) { return 42; }")
    needs_it = ("-Wl,--no-as-needed", f"-L{tmp_path}", "-lrun", f"-Wl,-rpath,{tmp_path}")
    compile_c(
        "libtorch_cpu.so", "int omp_get_thread_num(void); int f(void) { return omp_get_thread_num(); }", *needs_it
    )
    compile_c("ours.so", "int omp_get_thread_num(void); int g(void) { return omp_get_thread_num(); }")
    program = f"""
import ctypes, pathlib, sys
sys.path.insert(0, {str(toolchain.SOURCES.parent)!r})
import openmp
ctypes.CDLL("{tmp_path}/libtorch_cpu.so")
try:
    ctypes.CDLL("{tmp_path}/ours.so")
except OSError as error:
    print("undefined symbol: omp_get_thread_num" in str(error))
print(openmp.share_runtime(pathlib.Path("{tmp_path}")), ctypes.CDLL("{tmp_path}/ours.so").g())
print(openmp.share_runtime(pathlib.Path("{tmp_path}/nothing")))
"""
    # By its path: the package would bring torch's own runtime.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", f"{tmp_path}/librun.so", "42", "None"]


def glibc_versions(content: bytes) -> list[bytes]:
    return [word[len(b"GLIBC_") :] for word in content.split(b"\0") if word.startswith(b"GLIBC_2")]


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("", "their compilation failed: `broken --version` ended with code 1; name a compiler that works in CC"),
        ("no header\nmore", "their compilation failed: no header"),
    ],
)
def test_a_compiler_that_fails_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, stderr: str, said: str) -> None:
    def fail() -> None:
        raise subprocess.CalledProcessError(1, ["broken", "--version"], stderr=stderr)

    monkeypatch.setattr(build, "library", fail)
    monkeypatch.setattr(build, "_chosen", lambda: (toolchain.native(), None))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert build.obstacle() == said
