"""Compilers and interpreters of this machine: where they are, what runs have to see of them, what they can do.

Nothing here meets an answer: the tools are asked about themselves, once, outside the sandbox.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

TOOLS = {"cpp": "g++", "c": "gcc", "javascript": "node", "java": "javac", "go": "go", "rust": "rustc"}
"""What has to be on PATH for a language."""
CPP_STANDARDS = ("23", "20", "17", "14")
"""Newest first."""
_ASK_LIMIT_S = 30.0


@cache
def executable(language: str) -> str | None:
    """The program that compiles or runs the language, behind links and launchers; None when it is not here."""
    found = shutil.which(TOOLS[language])
    if found is None or language in ("cpp", "c"):  # a compiler's name decides what it does
        return found
    if language == "rust":
        home = _ask(found, "--print", "sysroot")
        return f"{home}/bin/rustc" if home and os.path.exists(f"{home}/bin/rustc") else None
    if language == "go":
        home = _ask(found, "env", "GOROOT")
        return f"{home}/bin/go" if home and os.path.exists(f"{home}/bin/go") else None
    return os.path.realpath(found)


@cache
def folders() -> tuple[str, ...]:
    """What runs have to read of the tools, beyond `/usr`: their homes, and Java's settings where Debian keeps them."""
    wanted = [str(path) for path in Path("/etc").glob("java-*-openjdk")]
    for language in ("javascript", "java", "go", "rust"):
        if tool := executable(language):
            home = os.path.dirname(os.path.dirname(tool))  # of home/bin/tool
            wanted.append(tool if home in ("/", "/usr", "/usr/local") or language == "javascript" else home)
    return tuple(wanted)


@cache
def newest_cpp(compiler: str) -> str:
    """The newest of `CPP_STANDARDS` that the compiler knows."""
    for standard in CPP_STANDARDS[:-1]:
        words = [compiler, f"-std=gnu++{standard}", "-x", "c++", "-fsyntax-only", "/dev/null"]
        if subprocess.run(words, capture_output=True, timeout=_ASK_LIMIT_S, check=False).returncode == 0:
            return standard
    return CPP_STANDARDS[-1]


def _ask(program: str, *words: str) -> str:
    try:
        run = subprocess.run([program, *words], capture_output=True, text=True, timeout=_ASK_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
