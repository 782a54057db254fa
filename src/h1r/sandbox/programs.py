"""Programs in several languages, prepared once and run once per test."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from h1r.sandbox import toolchains
from h1r.sandbox.builds import COMPILED, Build, attempts, java_command, libraries, overrides
from h1r.sandbox.confine import INPUT_PATHS
from h1r.sandbox.limits import Limits
from h1r.sandbox.runner import Sandbox
from h1r.sandbox.session import Ending, RunResult, SandboxError, Session

RUNNABLE = ("python", "javascript", *COMPILED)
_STANDARD = re.compile(r"cpp(\d\d)")
_SEALS = 0x0001 | 0x0002 | 0x0004 | 0x0008  # seal, shrink, grow, write
_ADD_SEALS = 1033


@dataclass(slots=True)
class Program:
    """What `prepare` made: a job for each run, or the `error` that stopped it and how the compiler then ended.

    `executable` is sealed, in memory. `overrides` are the limits that the language needs to be others.
    """

    sandbox: Sandbox
    job: dict[str, Any]
    error: str | None = None
    ending: Ending = "finished"
    executable: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def run(
        self, stdin: bytes, limits: Limits, files: dict[str, str] | None = None, arguments: tuple[str, ...] = ()
    ) -> RunResult:
        """One run with that input, and with files in its folder, whose names may be among its arguments."""
        limits = dataclasses.replace(limits, **self.overrides)
        return self.sandbox.run(self.job_with(files or {}, arguments), stdin, limits, program=self.executable)

    def join(
        self, joined: tuple[int, int], limits: Limits, files: dict[str, str], arguments: tuple[str, ...]
    ) -> AbstractContextManager[Session]:
        """A run whose standard input and output are these descriptors. Its folder can be written to."""
        limits = dataclasses.replace(limits, **self.overrides)
        job = self.job_with(files, arguments)
        return self.sandbox.open(job, limits, program=self.executable, files_writable=bool(files), joined=joined)

    def job_with(self, files: dict[str, str], arguments: tuple[str, ...]) -> dict[str, Any]:
        return {**self.job, "files": {**self.job.get("files", {}), **files}, "arguments": list(arguments)}


@contextlib.contextmanager
def prepare(
    sandbox: Sandbox, code: str, language: str, limits: Limits, included: dict[str, str] | None = None
) -> Iterator[Program]:
    """Compiles what must be compiled, confined like everything else. `SandboxError` without the language's tool.

    `language` is one of RUNNABLE, or "cpp20" and the like for C++ by a standard of one's own; `ValueError` for another.
    `included` are files beside the source.
    """
    standard = named[1] if (named := _STANDARD.fullmatch(language)) else None
    language = "cpp" if standard else language
    if language not in RUNNABLE:
        raise ValueError(f"{language} cannot be run here")
    if language == "python":
        program = Program(sandbox, {"kind": "python", "code": code, "prelude": True, "files": included or {}})
    else:
        tool = toolchains.executable(language)
        if tool is None:
            raise SandboxError(f"no {toolchains.TOOLS[language]} on this machine")
        if language == "javascript":
            heap = f"--max-old-space-size={max(limits.memory_bytes >> 21, 16)}"
            argv = [tool, heap, "--stack-size=12000", "main.js"]
            program = Program(sandbox, {"kind": "exec", "argv": argv, "files": {**(included or {}), "main.js": code}})
        else:
            program = _compiled(sandbox, code, language, tool, standard, limits, included or {})
    program.overrides = overrides(language, limits)
    if any(path in code for path in INPUT_PATHS):
        program.job["stdin_file"] = True
    try:
        yield program
    finally:
        if program.executable is not None:
            os.close(program.executable)


def _compiled(
    sandbox: Sandbox,
    code: str,
    language: str,
    tool: str,
    standard: str | None,
    limits: Limits,
    included: dict[str, str],
) -> Program:
    made: dict[str, bytes] | None = None
    ending: Ending = "finished"
    spent_s = 0.0
    for build in attempts(language, code, tool, standard):
        left_s = max(build.limits.time_s - spent_s, 0.1)
        build = dataclasses.replace(
            build,
            files={**included, **build.files},
            limits=dataclasses.replace(build.limits, time_s=left_s, total_s=left_s),
        )
        made, ending, now_s = _build(sandbox, build)
        spent_s += now_s
        if made is not None or ending not in ("failed", "finished"):
            break
    if made is None:
        over = "" if ending in ("failed", "finished") else f": over the limit on {ending}"
        return Program(sandbox, {}, error=f"compile error{over}", ending=ending if over else "failed")
    if language == "java":
        try:
            argv = java_command(tool, made, limits.memory_bytes)
        except ValueError as error:
            return Program(sandbox, {}, error=f"compile error: {error}", ending="failed")
        binaries = {f"classes/{name}": base64.b64encode(content).decode() for name, content in made.items()}
        return Program(sandbox, {"kind": "exec", "argv": argv, "binaries": binaries, "environment": libraries(tool)})
    return Program(sandbox, {"kind": "exec", "argv": None}, executable=_in_memory(made[""]))


def _build(sandbox: Sandbox, build: Build) -> tuple[dict[str, bytes] | None, Ending, float]:
    """The files that the compiler made, a single one under the name "", or None; how it ended; what it spent."""
    job = {"kind": "compile", "argv": build.argv, "files": build.files, "output": build.output,
           "environment": build.environment}  # fmt: skip
    with sandbox.open(job, build.limits, files_writable=True, counted=False) as session:
        message, ending = session.receive()
    try:
        made = {str(name): base64.b64decode(text, validate=True) for name, text in (message or {})["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        made = {}
    return made if made and all(map(_is_inner, made)) else None, ending, session.spent_s


def _is_inner(name: str) -> bool:
    """Whether a name that came out of a sandbox stays below the folder that it is written to."""
    return not os.path.isabs(name) and ".." not in name.split("/") and "\0" not in name


def _in_memory(binary: bytes) -> int:
    executable = os.memfd_create("program", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(os.dup(executable), "wb") as handle:
        handle.write(binary)
    fcntl.fcntl(executable, _ADD_SEALS, _SEALS)  # no run can change it for the next
    return executable
