"""What runs inside: one job, in a fork that has given up its rights. Nothing here is trusted by the parent.

A job is the first frame on the channel (descriptor 3). Its kinds:

    python    run `code` as a program with the test's stdin and stdout; the channel is closed first
    calls     run `code`, then answer calls of its functions over the channel (the tested side of a function test)
    checks    run the test code, with the tested names replaced by calls over the channel (see `checks.py`)
    exec      run a program: `argv`, or the file passed as descriptor 4
    compile   run a compiler, and send back the file it made

The tested side of a function test gets arguments and sends results. It is given no expected value, and no nonce.
"""

from __future__ import annotations

import atexit
import base64
import builtins
import io
import json
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from h1r.sandbox.prelude import prelude
from h1r.sandbox.served import Server, reply
from h1r.sandbox.values import CHANNEL, FrameReader, dump_frame, read_frame, write_all

PROGRAM = 4
"""The descriptor of a compiled program."""
MAX_JOB_BYTES = 256 << 20
RECURSION_LIMIT = 50_000
"""LiveCodeBench's; the interpreter's own would fail recursive solutions that every judge accepts."""
MAX_INT_DIGITS = 50_000
"""Of an integer that is printed or read in decimal: LiveCodeBench's too; the interpreter's own limit is 4,300."""


def read_job() -> tuple[dict[str, Any], FrameReader]:
    """The job, and the reader that may already hold bytes behind it."""
    reader = FrameReader(MAX_JOB_BYTES, max_containers=MAX_JOB_BYTES)  # from the parent
    job = read_frame(CHANNEL, reader)
    if job is None:
        os._exit(1)
    return job, reader


def write_files(job: dict[str, Any]) -> None:
    """The job's files in the current folder: done before the rights to write are given up."""
    for name, text in job.get("files", {}).items():
        with open(name, "w", encoding="utf-8", errors="surrogatepass") as handle:
            handle.write(text)
    for name, text in job.get("binaries", {}).items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as binary:
            binary.write(base64.b64decode(text))
        os.chmod(name, 0o755)


def read_input() -> bytes:
    """All of the standard input."""
    with open(0, "rb", closefd=False) as handle:
        return handle.read()


def become_input(content: bytes, path: str) -> None:
    """Puts a file with the input in the place of descriptor 0, which can then be opened by its name."""
    with open(path, "wb") as handle:
        handle.write(content)
    descriptor = os.open(path, os.O_RDONLY)
    os.dup2(descriptor, 0)
    os.close(descriptor)


def run(job: dict[str, Any], reader: FrameReader) -> NoReturn:
    """Does the job and ends the process."""
    kind = job["kind"]
    status = 1
    sys.set_int_max_str_digits(MAX_INT_DIGITS)
    try:
        if kind == "python":
            os.close(CHANNEL)
            status = _run_program(job)
        elif kind == "calls":
            _serve_calls(job, reader)
            status = 0
        elif kind == "checks":
            from h1r.sandbox.checks import run_checks

            run_checks(job, reader)
            status = 0
        elif kind == "exec":
            os.close(CHANNEL)
            argv = [*(job["argv"] or ["program"]), *job.get("arguments", [])]
            os.execve(PROGRAM if job["argv"] is None else argv[0], argv, _environment(job))
        elif kind == "compile":
            status = _compile(job)
    except BaseException:
        traceback.print_exc()
    os._exit(status)


_QUIET = {"OPENSSL_CONF": "/dev/null"}  # node gives up when it is refused the system's, which need not exist


def _environment(job: dict[str, Any]) -> dict[str, str]:
    """What a program finds in its environment; `$PWD` in the job's own part of it is the run's folder."""
    own = {name: value.replace("$PWD", os.getcwd()) for name, value in job.get("environment", {}).items()}
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": os.getcwd(),
        "TMPDIR": os.getcwd(),
        "LANG": "C.UTF-8",
        **_QUIET,
        **own,
    }


OUTPUT_PATHS = {
    **dict.fromkeys(("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"), 1),
    **dict.fromkeys(("/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"), 2),
}
"""Names of the standard streams, which a run's own root cannot have: a pipe has no place in it."""


def _open_streams_by_name(module: types.ModuleType) -> None:
    """Lets the program's `open` find its output by its path."""
    known = io.open

    def opened(file: Any, *arguments: Any, **options: Any) -> Any:
        descriptor = OUTPUT_PATHS.get(file) if isinstance(file, str) else None
        return known(file if descriptor is None else os.dup(descriptor), *arguments, **options)

    module.__dict__["open"] = opened


def _run_program(job: dict[str, Any]) -> int:
    """The exit status that `python file.py` would have."""
    _fresh_streams()
    module = _fresh_main(prelude() if job.get("prelude") else {})
    sys.argv += job.get("arguments", [])
    if any(path in job["code"] for path in OUTPUT_PATHS):
        _open_streams_by_name(module)
    status = 0
    try:
        exec(compile(job["code"], "solution.py", "exec", dont_inherit=True), module.__dict__)
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    shutdown: Callable[[], None] = threading._shutdown  # type: ignore[attr-defined]
    for finish in (shutdown, atexit._run_exitfuncs, lambda: sys.stdout.flush(), lambda: sys.stderr.flush()):
        try:
            finish()
        except BaseException:
            status = status or 120
    return status & 0xFF


def _fresh_streams() -> None:
    raw_stderr: Any = io.FileIO(2, "w")  # unbuffered, as the interpreter's own
    for name, stream in (
        ("stdin", io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8", "surrogateescape")),
        ("stdout", io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8", "surrogateescape")),
        ("stderr", io.TextIOWrapper(raw_stderr, "utf-8", "backslashreplace", write_through=True)),
    ):
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _fresh_main(names: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType("__main__")
    module.__dict__.update(names, __name__="__main__", __builtins__=builtins, __file__="solution.py")
    sys.modules["__main__"] = module
    sys.argv = ["solution.py"]
    sys.setrecursionlimit(RECURSION_LIMIT)
    return module


def _serve_calls(job: dict[str, Any], reader: FrameReader) -> None:
    """Answers until the channel ends. Loading and each call give `{"value"}` or `{"raised", "text"}`.

    A call that comes with `digest_beyond` and whose value takes more bytes than that gives `{"large"}` first, when the
    value is there, and then its digest.
    """
    announce = partial(write_all, CHANNEL, dump_frame({"large": True}))
    server = Server(_fresh_main(prelude() if job.get("prelude") else {}), announce)
    write_all(CHANNEL, dump_frame(reply(partial(server.load, job["code"]))))
    while (message := read_frame(CHANNEL, reader)) is not None:
        write_all(CHANNEL, dump_frame(reply(partial(server.do, message))))


def serve_lines(request: dict[str, Any]) -> None:
    """`calls` where there is no channel: every message is known beforehand, and each reply is a line of stdout.

    Lines of replies begin with the request's mark; what the tested code prints goes nowhere.
    """
    sys.set_int_max_str_digits(MAX_INT_DIGITS)
    output = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    server = Server(_fresh_main(prelude() if request["prelude"] else {}))
    actions = [partial(server.load, request["code"]), *(partial(server.do, item) for item in request["messages"])]
    for action in actions:
        write_all(output, f"{request['mark']} {json.dumps(reply(action))}\n".encode())


def _compile(job: dict[str, Any]) -> int:
    """Runs the compiler in a process of its own, its messages on stderr, and sends what it made.

    That is a file, under the name "", or all files of a folder where `output` ends in a slash.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(2, 1)
            os.execve(job["argv"][0], job["argv"], _environment(job))
        finally:
            os._exit(127)
    _, status = os.waitpid(pid, 0)
    if status == 0:
        write_all(CHANNEL, dump_frame({"files": {name: _as_text(path) for name, path in _made(job["output"])}}))
    return os.waitstatus_to_exitcode(status) & 0xFF


def _made(output: str) -> list[tuple[str, str]]:
    """(name, path) of what the compiler made."""
    if not output.endswith("/"):
        return [("", output)]
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(output) for name in names]
    return [(os.path.relpath(path, output), path) for path in paths]


def _as_text(path: str) -> str:
    with open(path, "rb") as handle:
        return base64.b64encode(handle.read()).decode()
