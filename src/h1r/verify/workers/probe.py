"""What a worker could do in spite of its confinement: found by trying, in a worker."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from pathlib import Path

from h1r.records import Problem, Verdict
from h1r.verify.registry import Verifier
from h1r.verify.workers.dispatch import Dispatcher
from h1r.verify.workers.handles import Job
from h1r.verify.workers.isolation import WorkerIsolation


def probe(problem: Problem, answer: str) -> Verdict:
    """A grader that tries to break out: `extracted` lists, of the places in `problem.metadata`, what it reached."""
    places, reached = problem.metadata, []
    attempts = {
        "read": lambda: Path(places["secret"]).read_text(encoding="utf-8"),
        "write": lambda: Path(places["folder"], "written").write_text("", encoding="utf-8"),
        "network": lambda: socket.create_connection(("127.0.0.1", places["port"]), 1),
        "signal": lambda: os.kill(places["pid"], 0),
        "process": lambda: os.waitpid(os.fork() or os._exit(0), 0),
    }
    for name, attempt in attempts.items():
        with contextlib.suppress(OSError):
            attempt()
            reached.append(name)
    return Verdict(1.0, extracted=" ".join(reached))


def worker_isolation() -> tuple[WorkerIsolation, list[str]]:
    """The level that workers reach here, and what one of them could do in spite of it; `UserError` if it must not be.

    Starts a worker, which then tries.
    """
    job = Job(Verifier("isolation", "h1r.verify.workers.probe:probe"), Problem("", "", ""), "")
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        Path(folder, "secret").write_text("secret", encoding="utf-8")
        job.problem.metadata = {"secret": f"{folder}/secret", "folder": folder, "port": server.getsockname()[1],
                                "pid": os.getpid()}  # fmt: skip
        dispatcher = Dispatcher(1, 10.0, 2 << 30)
        try:
            dispatcher.submit([job])
            verdict = job.future.result()
        finally:
            dispatcher.close()
    level = dispatcher.isolation or WorkerIsolation.RLIMITS
    return level, (verdict.extracted or verdict.error or "").split()
