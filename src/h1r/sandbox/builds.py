"""How a program of each compiled language is built and started: single files, as contest judges build them.

    language   built by                                      started as
    C++        g++ -O2, by C++17, then by others             the file in memory
    C          gcc -O2 -std=gnu17                            the file in memory
    Rust       rustc -O, edition 2021                        the file in memory
    Go         go build, without modules or C                the file in memory
    Java       javac                                         java with the class that has `main`

A C++ program that does not compile by one standard is tried by others: newer ones brought words (`ranges`, `<=>`), and
took some away (`data` and `size` of one's own beside `using namespace std`). C++17 comes first, then the newest that
the compiler knows, which reads `bits/stdc++.h` in 2.9 s of processor time where C++17 takes 2.1 (g++ 12).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from h1r.sandbox import toolchains
from h1r.sandbox.limits import Limits

COMPILED = ("cpp", "c", "java", "go", "rust")
COMPILE_LIMITS = Limits(
    time_s=20.0, total_s=20.0, memory_bytes=2 << 30, processes=8, scratch_bytes=128 << 20, output_bytes=64 << 20,
    open_files=256,
)  # fmt: skip
"""Of all attempts to compile one program together. The heaviest honest ones take some 5 s."""
_FIRST_CPP, _OLDEST_CPP = "17", "14"
_THREAD_STACKS = """
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
__attribute__((constructor)) static void small_stacks(void) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 8 << 20);
    pthread_setattr_default_np(&attributes);
}
"""
"""Linked to compiled programs. A thread's stack is as large as the limit of the first one's, which is made for deep
recursion: three threads would take all the memory."""
_PUBLIC_CLASS = re.compile(
    r"^[ \t]*+public[ \t]++(?:(?:final|abstract|strictfp|sealed)[ \t]++)*+(?:class|record|interface|enum)[ \t]++(\w++)",
    re.MULTILINE,
)
_JVM = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:-UseContainerSupport", "-XX:CICompilerCount=2", "-Xshare:auto")
"""One collector thread and two of the compiler: the threads of a run share one processor's time limit."""
_JVM_BEYOND_HEAP = 1 << 30
"""Of address space for classes, compiled code and stacks. The heap has `memory_bytes`."""
_GO_ENVIRONMENT = {
    "GO111MODULE": "off", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOTELEMETRY": "off",
    "GOFLAGS": "-buildvcs=false", "GOCACHE": "$PWD/cache", "GOPATH": "$PWD/path",
}  # fmt: skip
_PLAIN = {"memory": "data", "stack_bytes": 16 << 20}
"""For run times that reserve far more address space than they use, and whose threads have a stack of the limit's size
each where they do not say otherwise."""


@dataclass(frozen=True, slots=True)
class Build:
    """One attempt: the compiler's words, its files, and the file or folder (by a "/" at its end) that it makes."""

    argv: list[str]
    files: dict[str, str]
    limits: Limits
    output: str = "main"
    environment: dict[str, str] = field(default_factory=dict)


def attempts(language: str, code: str, tool: str, standard: str | None = None) -> Iterator[Build]:
    """The attempts in order, of which the first that succeeds counts; the first of C++ is by `standard`, if given."""
    if language == "java":
        named = _PUBLIC_CLASS.search(code)
        source = f"{named[1] if named else 'Main'}.java"
        words = [tool, *(f"-J{word}" for word in (*_JVM, "-Xmx512m", "-XX:TieredStopAtLevel=1"))]
        words += ["-encoding", "UTF-8", "-nowarn", "-proc:none", "-d", "classes", source]
        yield Build(words, {source: code}, _with(**_PLAIN), "classes/", libraries(tool))
    elif language == "rust":
        words = [tool, "--sysroot", home_of(tool), "--edition", "2021", "-O", "-A", "warnings"]
        words += ["-C", "link-arg=-fuse-ld=bfd", "-o", "main", "main.rs"]  # its own linker asks /proc where it is
        yield Build(words, {"main.rs": code}, _with(**_PLAIN), environment=libraries(tool))
    elif language == "go":
        limits = _with(**_PLAIN, time_s=120.0, total_s=120.0, processes=64, scratch_bytes=1 << 30)
        yield Build(
            [tool, "build", "-o", "main", "main.go"],
            {"main.go": code},
            limits,
            environment={**_GO_ENVIRONMENT, "GOROOT": home_of(tool)},
        )
    else:
        files = {f"main.{language}": code, f"stacks.{language}": _THREAD_STACKS}
        standards = ["gnu17"]
        if language == "cpp":
            tried = dict.fromkeys((standard or _FIRST_CPP, _FIRST_CPP, toolchains.newest_cpp(tool), _OLDEST_CPP))
            standards = [f"gnu++{one}" for one in tried]
        for one in standards:
            words = [tool, "-O2", f"-std={one}", "-pipe", "-w", "-pthread", "-o", "main", *files, "-lm"]
            yield Build(words, files, COMPILE_LIMITS)


def home_of(tool: str) -> str:
    """The folder that has the tool in its `bin`."""
    return os.path.dirname(os.path.dirname(tool))


def libraries(tool: str) -> dict[str, str]:
    """Where the loader finds a tool's own libraries: it would ask /proc where the tool is, which runs do not have."""
    return {"LD_LIBRARY_PATH": f"{home_of(tool)}/lib:{home_of(tool)}/lib/server"}


def _with(**changes: Any) -> Limits:
    return dataclasses.replace(COMPILE_LIMITS, **changes)


def overrides(language: str, limits: Limits) -> dict[str, Any]:
    """What a run of the language has other limits for."""
    if language == "java":
        return {**_PLAIN, "memory_bytes": limits.memory_bytes + _JVM_BEYOND_HEAP}
    return dict(_PLAIN) if language in ("go", "javascript") else {}


def java_command(javac: str, classes: dict[str, bytes], memory_bytes: int) -> list[str]:
    """The words that start the class with `main`; `ValueError` when there is none."""
    named = [name.removesuffix(".class") for name, content in classes.items() if "$" not in name and _has_main(content)]
    if not named:
        raise ValueError("no class with a `main`")
    first = min(named, key=lambda name: (os.path.basename(name) not in ("Main", "Solution"), name))
    java = os.path.join(os.path.dirname(javac), "java")
    heap = max(memory_bytes >> 20, 32)
    return [java, *_JVM, f"-Xmx{heap}m", "-Xss64m", "-cp", "classes", first.replace("/", ".")]


def _has_main(content: bytes) -> bool:
    """Whether the constants of a class file name `main` and its signature (JVM specification, section 4.4.7)."""
    return b"\x01\x00\x04main" in content and b"\x01\x00\x16([Ljava/lang/String;)V" in content
