"""Which level of isolation this machine gives, found by trying to break out of it."""

from __future__ import annotations

import os
import socket
import tempfile
from functools import cache
from pathlib import Path

from h1r.errors import UserError
from h1r.sandbox.gvisor import GvisorSandbox
from h1r.sandbox.limits import Isolation
from h1r.sandbox.runner import Sandbox
from h1r.sandbox.session import SandboxError

LEVEL_VARIABLE = "H1R_SANDBOX"
"""Environment variable: a level by name, or "auto". Only naming it makes `rlimits` acceptable."""

CONFINING = (Isolation.NAMESPACES, Isolation.BUBBLEWRAP, Isolation.LANDLOCK)
"""The levels that keep tested code from everything outside, in the order in which they are tried."""

_PROBE = """
import os, socket
reached = []
def attempt(name, action):
    try:
        action()
        reached.append(name)
    except Exception:
        pass
attempt("read", lambda: open({secret!r}).read())
attempt("write", lambda: open({folder!r} + "/written", "w"))
attempt("network", lambda: socket.create_connection(("127.0.0.1", {port}), 1))
attempt("fork", lambda: os.fork() or os._exit(0))
attempt("signal", lambda: os.kill({pid}, 0))
print(*reached, "probed")
"""


def make_sandbox(level: Isolation) -> Sandbox:
    """A sandbox at that level."""
    return GvisorSandbox() if level == Isolation.GVISOR else Sandbox(level)


@cache
def refusal(level: Isolation) -> str | None:
    """Why this machine does not give a level, found by trying to break out of it; None when it does."""
    try:
        with (
            make_sandbox(level) as sandbox,
            tempfile.TemporaryDirectory() as folder,
            socket.create_server(("127.0.0.1", 0)) as server,
        ):
            secret = Path(folder) / "secret"
            secret.write_text("secret")
            Path(folder).chmod(0o777)  # tested code may be another user, and it is the level that must keep it out
            port = server.getsockname()[1]
            code = _PROBE.format(secret=str(secret), folder=folder, port=port, pid=os.getpid())
            outcome = sandbox.run({"kind": "python", "code": code})
    except (SandboxError, OSError) as error:
        return str(error)
    reached = outcome.stdout.decode(errors="replace").split()
    if reached[-1:] != ["probed"]:
        return f"the probe did not run: {outcome.stderr.decode(errors='replace')[-300:]}"
    if level > Isolation.RLIMITS and reached[:-1]:
        return f"tested code could still {', '.join(reached[:-1])}"
    return None


def choose_level(name: str | None = None) -> Isolation:
    """The level of that name, or for "auto" the strongest that works here; `UserError` when it does not.

    `name` defaults to the environment variable `H1R_SANDBOX`, and that to "auto". "rlimits" is never chosen by itself.
    """
    name = (name or os.environ.get(LEVEL_VARIABLE) or "auto").lower()
    known = {level.name.lower(): level for level in (*CONFINING, Isolation.GVISOR, Isolation.RLIMITS)}
    if name != "auto" and name not in known:
        raise UserError(f"{LEVEL_VARIABLE}={name} is no isolation level; use auto, {', '.join(known)}")
    wanted = [known[name]] if name != "auto" else CONFINING
    reasons = []
    for level in wanted:
        why = refusal(level)
        if why is None:
            return level
        reasons.append(f"{level.name.lower()}: {why}")
    raise UserError(
        f"tested code cannot be confined on this machine ({'; '.join(reasons)}); "
        f"set {LEVEL_VARIABLE}=rlimits to run it with resource limits only, or use a SandboxFusion server"
    )
