"""The command line in a process of its own, without the seconds that each start imports torch for.

    done = run("eval", recipe, "--out", out)          # as subprocess.run([python, "-m", "h1r", ...])
    process = start("sft", recipe); process.kill()

One process has imported what commands import, and forks for each. What it gives is a process like any other: with its
own group, signals, working directory and output, and `kill -9` ends it where it stands. What tests the start itself, or
an environment that imports read, starts Python.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = (
    "datasketch",
    "h1r.cli",
    "h1r.cli.stages",
    "h1r.data.curate.plan",
    "h1r.data.curate.passes",
    "h1r.engine.native.open",
    "h1r.evals.stages",
    "h1r.evals.answers",
    "h1r.evals.solving",
    "h1r.models.falcon_h1.decode",
    "h1r.models.falcon_h1.family",
    "h1r.models.qwen3.family",
    "h1r.pipeline",
    "h1r.scaling.study",
    "h1r.train.sft",
    "h1r.train.rl",
    "h1r.train.pool",
    "h1r.report",
    "h1r.serve.opening",
    "h1r.serve.run",
    "h1r.serve.talk",
    "h1r.verify.reasoning_gym.plain",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "pandas",
    "reasoning_gym",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "transformers.convert_slow_tokenizer",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.falcon_h1.configuration_falcon_h1",
    "transformers.tokenization_utils_tokenizers",
)
"""Imported by functions, many of them: an optimizer imports torch's compiler, a tokenizer most of transformers, and
pyarrow pandas, as soon as it makes an array."""


PYTHON = "python"
"""In place of a command of `h1r`: the rest is a Python program and its arguments."""


@dataclass
class Process:
    """As much of `subprocess.Popen` as tests use. `stdout` and `stderr` are files."""

    pid: int
    args: tuple[str, ...]
    stdout: Path
    stderr: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _asked({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float = 300.0) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> Process:
    """Starts `h1r ARGUMENTS` as the leader of a process group. `env` is laid over this process's environment;
    `stdin` is all that it can read."""
    told = [Path(name) for name in (_file("out"), _file("err"))]
    source = os.devnull
    if stdin is not None:
        source = _file("in")
        Path(source).write_text(stdin, encoding="utf-8")
    argv = tuple(map(str, arguments))
    request = {
        "argv": argv,
        "cwd": str(cwd or Path.cwd()),
        "env": {**os.environ, **(env or {})},
        "files": [source, *map(str, told)],
        "path": sys.path,
    }
    return Process(_asked(request), argv, *told)


def run(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300.0,
    stdin: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Waits for `h1r ARGUMENTS`, which is killed after `timeout` seconds."""
    process = start(*arguments, cwd=cwd, env=env, stdin=stdin)
    try:
        code = process.wait(timeout)
    finally:
        process.kill()
    texts = [path.read_text(encoding="utf-8") for path in (process.stdout, process.stderr)]
    return subprocess.CompletedProcess(process.args, code, *texts)


def python(script: Path, cwd: Path, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """As `run`, of a Python program."""
    return run(PYTHON, script, cwd=cwd, timeout=timeout)


def _file(suffix: str) -> str:
    handle, name = tempfile.mkstemp(f".{suffix}", dir=_server()[1])
    os.close(handle)
    return name


def _asked(request: dict[str, Any]) -> Any:
    lines, _ = _server()
    lines.write(json.dumps(request) + "\n")
    lines.flush()
    return json.loads(lines.readline())


@cache
def _server() -> tuple[Any, str]:
    """The lines to and from the warm process, and its directory of outputs. It ends when this process has ended."""
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, __file__, str(its.fileno())]
        process = subprocess.Popen(
            command, pass_fds=[its.fileno()], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
    folder = tempfile.TemporaryDirectory(prefix="h1r-warm-")

    def end() -> None:
        ours.shutdown(socket.SHUT_RDWR)
        process.wait()
        folder.cleanup()

    atexit.register(end)
    return ours.makefile("rw", encoding="utf-8"), folder.name


def serve(handle: int) -> None:
    import importlib

    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # no collection of a command looks at what was imported, or copies its pages
    gc.enable()
    connection = socket.socket(fileno=handle)
    lines = connection.makefile("rw", encoding="utf-8")
    running: set[int] = set()
    while line := lines.readline():
        request = json.loads(line)
        if (pid := request.get("ended")) is not None:
            found, status = os.waitpid(pid, os.WNOHANG)
            reply = os.waitstatus_to_exitcode(status) if found else None
            running -= {found}
        else:
            reply = os.fork()
            if reply == 0:
                connection.close()
                _command(request)
            running.add(reply)
        lines.write(json.dumps(reply) + "\n")
        lines.flush()
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _command(request: dict[str, Any]) -> None:
    """Becomes the command, and never returns."""
    code = 1
    try:
        os.setsid()
        for number, where in enumerate(request["files"]):
            handle = os.open(where, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND)
            os.dup2(handle, number)
            os.close(handle)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv, sys.path[:] = ["h1r", *request["argv"]], request["path"]
        if request["argv"][0] == PYTHON:
            sys.argv = request["argv"][1:]
            sys.path.insert(0, os.path.dirname(sys.argv[0]))
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        else:
            from h1r.cli import main

            code = main(request["argv"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code or 0)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
