"""gVisor (`runsc`, gvisor.dev) as an isolation level: each run is a container with a kernel of its own, in user space.

Tested code then meets gVisor's reimplementation of Linux and not the machine's kernel. No fork server can fork there,
since descriptors do not travel into a container: every run starts `runsc` and an interpreter. The rest is as at the
other levels: the job comes over descriptor 3, the system call filter and resource limits are set inside, and the clock
of the parent kills what holds out. Chosen by name only (`H1R_SANDBOX=gvisor`).

Container format: OCI runtime specification 1.0 (`config.json`). Options: `runsc help run`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h1r.sandbox import runner
from h1r.sandbox.confine import SCRATCH
from h1r.sandbox.limits import Isolation, Limits
from h1r.sandbox.session import SandboxError, Session, ready

PROGRAM = "runsc"
_END_S = 20.0
_BOOTSTRAP = """
import json, sys, types
arguments = json.loads(sys.argv[1])
for name, path in arguments.pop("packages"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from h1r.sandbox.container import main
main(**arguments)
"""


class GvisorSandbox(runner.Sandbox):
    """A `Sandbox` without a fork server: one container for each run. `SandboxError` where there is no `runsc`."""

    def __init__(self, level: Isolation = Isolation.GVISOR) -> None:
        super().__init__(level)
        self._container: _Container | None = None

    def close(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.end(kill=True)

    def stop_answer(self, force: bool) -> None:
        self._stopped = True
        if (container := self._container) is not None:
            container.kill()

    def poll(self, limit_s: float) -> bool:
        container = self._container
        return container is None or ready(container.process, writing=False, limit_s=limit_s)

    def end_run(self, kill: bool) -> dict[str, Any]:
        container, self._container = self._container, None
        if container is None:
            return {"status": 9, "seconds": 0.0, "cpu_s": 0.0, "memory": 0, "lost": True}
        return container.end(kill)

    def _start_run(
        self,
        job: dict[str, Any],
        limits: Limits,
        program: int | None,
        piped: bool,
        files_writable: bool,
        joined: tuple[int, int] | None = None,
    ) -> Session:
        if self._stopped:
            raise SandboxError("the time of the answer is over")
        self.close()
        if program is not None:  # a container executes files of its own only
            binary = base64.b64encode(os.pread(program, os.fstat(program).st_size, 0)).decode()
            job = {**job, "argv": ["./program"], "binaries": {"program": binary}}
        ours, theirs = runner.streams(piped or joined is not None, joined)
        try:
            self._container = _Container(limits, theirs)
        except OSError as error:
            for descriptor in ours:
                os.close(descriptor)
            raise SandboxError(f"{PROGRAM} does not start: {error}") from None
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return Session(self, job, limits, ours, os.dup(self._container.process), several=True)


class _Container:
    """One run of `runsc`, and the folder that describes it. `process` is a descriptor of it."""

    def __init__(self, limits: Limits, streams: list[int]) -> None:
        found = shutil.which(PROGRAM)
        if found is None:
            raise OSError(f"there is no `{PROGRAM}`")
        self._folder = tempfile.mkdtemp(prefix="h1r-gvisor-")
        self._name = f"h1r-{secrets.token_hex(8)}"
        self._runsc = [found, "--root", f"{self._folder}/state", "--network=none", "--ignore-cgroups"]
        if os.geteuid() != 0:
            self._runsc.append("--rootless")
        describe(Path(self._folder), limits)
        stdin, stdout, stderr, channel = streams
        command = [*self._runsc, "run", "--bundle", self._folder, "--pass-fd", f"{channel}:3", self._name]
        self._began = time.monotonic()
        try:
            self._popen = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=[channel],
                                           start_new_session=True)  # fmt: skip
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self.process = os.pidfd_open(self._popen.pid)

    def kill(self) -> None:
        """Ends the container; its process follows. Of any thread."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = [*self._runsc, "delete", "--force", self._name]
            subprocess.run(command, capture_output=True, timeout=_END_S, check=False)
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)

    def end(self, kill: bool) -> dict[str, Any]:
        """What the kernel counted of the run, when nothing of it is left."""
        if kill or not ready(self.process, writing=False, limit_s=_END_S):
            self.kill()
        _, status, usage = os.wait4(self._popen.pid, 0)
        self._popen.returncode = os.waitstatus_to_exitcode(status)
        os.close(self.process)
        shutil.rmtree(self._folder, ignore_errors=True)
        return {
            "status": status,
            "seconds": time.monotonic() - self._began,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "memory": usage.ru_maxrss * 1024,
        }


def describe(folder: Path, limits: Limits, readable: Callable[[], list[str]] = runner.readable_paths) -> None:
    """Writes `config.json` and the root folder of a container that sees `readable`, read-only, and a scratch folder."""
    here = Path(__file__).resolve().parent
    root = folder / "root"
    root.mkdir()
    mounts: list[dict[str, Any]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    mounts.append({"destination": SCRATCH, "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "nodev", f"size={limits.scratch_bytes}", "mode=1777"]})  # fmt: skip
    for path in [*readable(), str(here)]:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.islink(path):
            target.symlink_to(os.readlink(path))
        else:
            mounts.append({"destination": path, "type": "bind", "source": path,
                           "options": ["rbind", "ro", "nosuid", "nodev"]})  # fmt: skip
    if not (root / "tmp").exists():
        (root / "tmp").symlink_to(SCRATCH)
    arguments = {
        "limits": limits.as_dict(),
        "scratch": SCRATCH,
        "import_paths": runner.package_paths(),
        "packages": [("h1r", str(here.parent)), ("h1r.sandbox", str(here))],
    }
    words = [os.path.realpath(sys.executable), "-I", "-S", "-c", _BOOTSTRAP, json.dumps(arguments)]
    process = {
        "terminal": False,
        "user": {"uid": 65534, "gid": 65534},
        "args": words,
        "env": [f"{name}={value}" for name, value in runner.ENVIRONMENT.items()],
        "cwd": SCRATCH,
        "noNewPrivileges": True,
        "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
    }
    namespaces = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    description = {
        "ociVersion": "1.0.0",
        "process": process,
        "root": {"path": str(root), "readonly": True},
        "hostname": "sandbox",
        "mounts": mounts,
        "linux": {"namespaces": namespaces},
    }
    (folder / "config.json").write_text(json.dumps(description))
