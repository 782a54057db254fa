"""Puts compiled kernels into a wheel: `H1R_LEVELS=all python -m build --wheel`, or names of levels, such as
`H1R_LEVELS="x86-64-v3 x86-64-v4"`. Without that variable the wheel is pure Python, and kernels compile on first use.

CC names the compiler. For another machine: CC=aarch64-linux-gnu-gcc _PYTHON_HOST_PLATFORM=linux-aarch64. All else about
the package is in pyproject.toml.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

LIBRARIES = Path("h1r/kernels/cpu/lib")


def load_toolchain() -> ModuleType:
    """By its path: its package needs torch, which a build has not."""
    path = Path(__file__).parent / "src/h1r/kernels/cpu/toolchain.py"
    spec = importlib.util.spec_from_file_location("toolchain", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


toolchain = load_toolchain()


def wanted_levels() -> list:
    names = os.environ.get("H1R_LEVELS", "").split()
    here = {level.name: level for level in toolchain.LEVELS.get(toolchain.platform_name(), ())}
    if names == ["all"]:
        names = list(here)
    if unknown := [name for name in names if name not in here]:
        known = ", ".join(["all", *here])
        sys.exit(f"H1R_LEVELS: unknown on {toolchain.platform_name()}: {', '.join(unknown)}; choose among {known}")
    return [here[name] for name in names]


class WithLibraries(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / LIBRARIES
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier build
        for level in wanted_levels():
            target = folder / toolchain.shipped_name(level)
            print(f"compiling {target}")
            toolchain.compile_library(level, target, macos=toolchain.platform_name().startswith("macosx"))


class Package(Distribution):
    def has_ext_modules(self) -> bool:
        return bool(wanted_levels())


class AnyPython(bdist_wheel):
    """py3-none-PLATFORM where it has libraries: ctypes loads them, whatever the version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


setup(distclass=Package, cmdclass={"build_py": WithLibraries, "bdist_wheel": AnyPython})
