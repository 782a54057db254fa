"""The C operators under other compilers and processors, and under the sanitizers: one program calls them all."""

import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from h1r.kernels.cpu.toolchain import FLAGS, LEVELS, SOURCES, compile_library

OPERATORS = [SOURCES / f"{name}.c" for name in ("attention", "conv", "pointwise", "scan")]
DRIVER = Path(__file__).parent / "csrc" / "driver.c"


def output(
    folder: Path, compiler: str, *flags: str, sources: Sequence[Path] = OPERATORS, runner: tuple[str, ...] = ()
) -> dict[str, list[float]]:
    program = folder / "driver"
    command = [compiler, *FLAGS, *map(str, sources), str(DRIVER), *flags, "-lm", "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    # What a machine preloads would come before the sanitizers' own library, which must be the first.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run([*runner, str(program)], capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.rsplit(" ", 4) for line in done.stdout.splitlines()]
    return {f"{number} {name}": list(map(float, values)) for number, (name, *values) in enumerate(rows)}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc")
    return output(tmp_path_factory.mktemp("gcc"), "gcc", "-march=native", "-fopenmp")


def agree(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert found.keys() == expected.keys()
    assert len(found) == 17
    for name, values in found.items():
        for one, other in zip(values, expected[name], strict=True):
            assert math.isclose(one, other, rel_tol=2e-5, abs_tol=2e-5), name


@pytest.mark.parametrize("processor", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_narrower_vectors_give_the_same(tmp_path: Path, expected: dict[str, list[float]], processor: str) -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    needs = {"x86-64-v2": "sse4_2", "x86-64-v3": "avx2", "x86-64-v4": "avx512f"}[processor]
    if needs not in flags:
        pytest.skip(f"this processor has no {needs}")
    agree(output(tmp_path, "gcc", f"-march={processor}", "-fopenmp"), expected)


@pytest.mark.skipif(shutil.which("clang") is None, reason="no clang")
def test_clang_gives_the_same_on_threads_of_gcc_s_runtime(tmp_path: Path, expected: dict[str, list[float]]) -> None:
    openmp = ("-Xclang", "-fopenmp", str(SOURCES / "clang_openmp.c"), "-lgomp")  # clang's own runtime is not linked
    agree(output(tmp_path, "clang", "-march=native", *openmp), expected)


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")), reason="no cross compiler or no qemu"
)
def test_an_arm_processor_gives_the_same(
    tmp_path: Path, expected: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library of the wheel, as it is compiled for it, called by the program."""
    library, (level,) = tmp_path / "library.so", LEVELS["linux-aarch64"]
    monkeypatch.setenv("CC", "aarch64-linux-gnu-gcc")
    compile_library(level, library)
    assert b"GLIBC_2.29" not in library.read_bytes()  # newer than what torch asks for
    flags = ("-fopenmp", str(library), f"-Wl,-rpath,{tmp_path}")
    runner = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
    agree(output(tmp_path, "aarch64-linux-gnu-gcc", *flags, sources=(), runner=runner), expected)


def test_no_operator_steps_outside_its_arrays(tmp_path: Path, expected: dict[str, list[float]]) -> None:
    """The sanitizers see it: each array in the program is as long as needed, and no longer."""
    sanitize = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    agree(output(tmp_path, "gcc", "-march=native", "-fopenmp", *sanitize), expected)
