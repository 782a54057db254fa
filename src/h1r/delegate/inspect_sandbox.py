"""Our sandbox as an environment of inspect_ai's tasks, without Docker: the isolation that code verdicts have.

    inspect eval TASK --sandbox h1r                 an empty folder for each sample
    inspect eval TASK --sandbox h1r:FOLDER          with what lies in FOLDER, read-only
    inspect eval TASK --sandbox h1r:Dockerfile      with the files that its COPY lines name

A sample has a folder that its commands may change and that lasts as long as the sample; beside it they read system
libraries, this interpreter and its packages (as `python`), and nothing else. No network. A time limit is on what a
command itself spends (`Limits.time_s`), and ten times that on the wall. What a command leaves running is killed.
Left out: images, other users, services, ports.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, overload

from inspect_ai.util import ExecResult, OutputLimitExceededError, SandboxEnvironment, SandboxEnvironmentLimits
from inspect_ai.util import SandboxUserUnsupportedError as UnsupportedUserError

from h1r.errors import UserError
from h1r.sandbox.fork_server import remove_tree
from h1r.sandbox.levels import CONFINING, choose_level
from h1r.sandbox.limits import Limits
from h1r.sandbox.runner import Sandbox, package_paths
from h1r.sandbox.session import RunResult

DEFAULT_TIMEOUT_S = 600
"""Of a command that has none. Our choice."""
_MEMORY_BYTES, _FILE_BYTES = 2 << 30, 2 << 30
_BEYOND = "a sandbox's file lies in its own folder"


class SandboxFolder(SandboxEnvironment):
    """One sample's folder and the confined processes that work in it, one command at a time.

    given: a folder whose files are there to read, or a Dockerfile, whose copied files are. `UserError` where no
    level of isolation works, or `given` is not there.
    """

    def __init__(self, given: str | None = None) -> None:
        super().__init__()
        level = choose_level()
        if level not in CONFINING:
            raise UserError(f"tasks need a sandbox with files of its own, and {level.name.lower()} has none")
        outside = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None  # /tmp leads to a run's own scratch
        self._root = Path(tempfile.mkdtemp(prefix="h1r-task-", dir=outside))
        self.folder, programs = self._root / "work", self._root / "bin"
        self._root.chmod(0o711)
        for path, mode in ((self.folder, 0o777), (programs, 0o755)):
            path.mkdir()
            path.chmod(mode)
        for name in ("python", "python3"):
            (programs / name).symlink_to(os.path.realpath(sys.executable))
        shown = shown_files(Path(given)) if given else {}
        self._shown = set(shown.values())
        for name, path in shown.items():
            (self.folder / name).symlink_to(path)
        self._environment = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(package_paths()),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        readable = [str(programs), *map(str, shown.values())]
        self._sandbox, self._lock = Sandbox(level, readable, [str(self.folder)]), asyncio.Lock()

    @classmethod
    async def sample_init(cls, task_name: str, config: Any, metadata: dict[str, str]) -> dict[str, SandboxEnvironment]:
        """See `SandboxEnvironment`."""
        return {"default": cls(config if isinstance(config, str) else None)}

    @classmethod
    async def sample_cleanup(
        cls, task_name: str, config: Any, environments: dict[str, SandboxEnvironment], interrupted: bool
    ) -> None:
        """See `SandboxEnvironment`."""
        for one in environments.values():
            await asyncio.to_thread(one.as_type(cls).close)

    @classmethod
    def default_concurrency(cls) -> int | None:
        """As many samples as there are processors."""
        return len(os.sched_getaffinity(0))

    def close(self) -> None:
        """Ends the processes and removes the folder."""
        self._sandbox.close()
        remove_tree(str(self._root))

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """See `SandboxEnvironment.exec`. `TimeoutError`, `OutputLimitExceededError`, and for another user
        `SandboxUserUnsupportedError`."""
        if user is not None:
            raise UnsupportedUserError("commands run as the sandbox's own user; ask for no other")
        given = input.encode() if isinstance(input, str) else input or b""
        async with self._lock:
            result = await asyncio.to_thread(self._run, cmd, given, cwd, env or {}, timeout or DEFAULT_TIMEOUT_S)
        if result.ending == "time":
            raise TimeoutError
        if result.ending == "output":
            said = result.stdout[: SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE].decode(errors="replace")
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, said)
        stdout, stderr = result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")
        code = 128 - result.status if result.status < 0 else result.status
        return ExecResult(code == 0, code, stdout, stderr)

    def _run(self, cmd: list[str], given: bytes, cwd: str | None, env: dict[str, str], timeout_s: float) -> RunResult:
        place = os.path.join(self.folder, cwd or "")
        limits = Limits(
            time_s=timeout_s, total_s=timeout_s, memory_bytes=_MEMORY_BYTES, memory="data", stack_bytes=16 << 20,
            processes=64, scratch_bytes=_FILE_BYTES, open_files=256,
            output_bytes=SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE,
        )  # fmt: skip
        job = {
            "kind": "exec",
            "argv": ["/bin/sh", "-c", 'cd "$0" && exec "$@"', place, *cmd],
            "environment": {**self._environment, **env},
        }
        with self._sandbox.open(job, limits, piped=True, files_writable=True) as session:
            return session.communicate(given)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """See `SandboxEnvironment.write_file`. `PermissionError` beyond the sample's folder."""
        async with self._lock:
            path = self._inside(file)
            for folder in (one for one in reversed(path.relative_to(self.folder).parents) if str(one) != "."):
                made = self.folder / folder
                if not made.is_dir():
                    made.mkdir()
                    made.chmod(0o777)
            path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
            path.chmod(0o777)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """See `SandboxEnvironment.read_file`. `PermissionError` beyond the sample's folder."""
        async with self._lock:
            path = self._inside(file)
            if path.is_file() and path.stat().st_size > SandboxEnvironmentLimits.MAX_READ_FILE_SIZE:
                raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
            data = path.read_bytes()
        return data.decode() if text else data

    def _inside(self, file: str) -> Path:
        """Where a file really lies, which no link of a command's may lead out of the folder; nothing runs meanwhile."""
        path = Path(os.path.realpath(os.path.join(self.folder, file)))
        if path not in self._shown and not path.is_relative_to(os.path.realpath(self.folder)):
            raise PermissionError(f"{file}: {_BEYOND}")
        return path


def shown_files(given: Path) -> dict[str, Path]:
    """Name in a sample's folder -> file: those of a folder, or those that a Dockerfile copies. `UserError` without."""
    given = given.resolve()
    if given.is_dir():
        return {path.name: path for path in sorted(given.iterdir())}
    if not given.is_file():
        raise UserError(f"{given} is no folder and no Dockerfile for the sandbox")
    copies = [shlex.split(line)[1:] for line in given.read_text().splitlines() if line.upper().startswith("COPY ")]
    named = [name for words in copies for name in words[:-1] if not name.startswith("--")]
    return {Path(name).name: given.parent / name for name in named}
