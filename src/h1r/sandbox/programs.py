"""Programs in several languages, prepared once and run once per test."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from h1r.sandbox.limits import Limits
from h1r.sandbox.runner import Sandbox
from h1r.sandbox.session import Outcome, SandboxError

RUNNABLE = ("python", "cpp", "c", "javascript")
TOOLS = {"cpp": "g++", "c": "gcc", "javascript": "node"}
_STANDARD = {"cpp": "-std=c++17", "c": "-std=c17"}
COMPILE_LIMITS = Limits(
    time_s=30.0, total_s=30.0, memory_bytes=2 << 30, processes=8, scratch_bytes=128 << 20, output_bytes=64 << 20,
    open_files=256,
)  # fmt: skip
_NODE_LIMITS = {"memory": "data", "stack_bytes": 16 << 20}
"""V8 reserves far more address space than it uses, and gives every thread of its own a stack of the limit's size."""
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
_SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0008  # seal, shrink, grow, write
_ADD_SEALS = 1033


@dataclass(slots=True)
class Program:
    """What `prepare` made: a job for each run, or the `error` that stopped it; `executable` is sealed, in memory."""

    sandbox: Sandbox
    job: dict[str, Any]
    error: str | None = None
    executable: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def run(self, stdin: bytes, limits: Limits) -> Outcome:
        """One run with that input."""
        limits = dataclasses.replace(limits, **self.overrides)
        return self.sandbox.run(self.job, stdin, limits, program=self.executable)


@contextlib.contextmanager
def prepare(sandbox: Sandbox, code: str, language: str, limits: Limits) -> Iterator[Program]:
    """Compiles what must be compiled, confined like everything else. `SandboxError` without the language's tool.

    `language` is one of RUNNABLE; `ValueError` for another.
    """
    if language not in RUNNABLE:
        raise ValueError(f"{language} cannot be run here")
    tool = shutil.which(TOOLS[language]) if language in TOOLS else ""
    if tool is None:
        raise SandboxError(f"no {TOOLS[language]} on this machine")
    if language == "python":
        yield Program(sandbox, {"kind": "python", "code": code, "prelude": True})
    elif language == "javascript":
        heap = f"--max-old-space-size={max(limits.memory_bytes >> 21, 16)}"
        argv = [os.path.realpath(tool), heap, "--stack-size=12000", "main.js"]
        yield Program(sandbox, {"kind": "exec", "argv": argv, "files": {"main.js": code}}, overrides=_NODE_LIMITS)
    else:
        program = _compile(sandbox, code, language, tool)
        try:
            yield program
        finally:
            if program.executable is not None:
                os.close(program.executable)


def _compile(sandbox: Sandbox, code: str, language: str, compiler: str) -> Program:
    source, stacks = f"main.{language}", f"stacks.{language}"
    argv = [compiler, "-O2", _STANDARD[language], "-pipe", "-w", "-pthread", "-o", "main", source, stacks, "-lm"]
    job = {"kind": "compile", "argv": argv, "files": {source: code, stacks: _THREAD_STACKS}, "output": "main"}
    with sandbox.open(job, COMPILE_LIMITS, files_writable=True) as session:
        message, ending = session.receive()
    why = "compile error" if ending in ("failed", "finished") else f"compile error: over the limit on {ending}"
    try:
        binary = base64.b64decode((message or {})["file"], validate=True)
    except (KeyError, TypeError, ValueError):
        return Program(sandbox, {}, error=why)
    executable = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(os.dup(executable), "wb") as handle:
        handle.write(binary)
    fcntl.fcntl(executable, _ADD_SEALS, _SEALS)  # no run can change it for the next
    return Program(sandbox, {"kind": "exec", "argv": None}, executable=executable)
