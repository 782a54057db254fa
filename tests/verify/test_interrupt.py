"""Ctrl-C ends what grades within a second, however much is queued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from h1r.sandbox import Isolation, refusal
from machine import bound

LIMIT_S = 5.0
"""One that busy machines keep; more on a slow one."""
HERE = os.path.dirname(__file__)
PATH = [HERE, os.path.dirname(HERE)]
SLOW_CODE = "```python\nimport time\ntime.sleep(30)\nprint(input())\n```"
needs_sandbox = pytest.mark.skipif(
    bool(refusal(Isolation.NAMESPACES) and refusal(Isolation.LANDLOCK)), reason="tested code cannot be confined here"
)


def seconds_to_end(program: list[str], ready: str, folder: Path) -> float:
    """How long a program lives on after SIGINT, sent when it has printed `ready` on standard error."""
    log = folder / "log"
    with open(log, "w") as handle:
        child = subprocess.Popen(program, stdout=handle, stderr=handle, cwd=HERE)
    deadline = time.monotonic() + 120
    while ready not in log.read_text() and time.monotonic() < deadline:
        assert child.poll() is None, log.read_text()
        time.sleep(0.1)
    time.sleep(1.0)  # into the first answers
    start = time.monotonic()
    child.send_signal(signal.SIGINT)
    try:
        child.wait(60)
    finally:
        child.kill()
    seconds = time.monotonic() - start
    print(f"{seconds:.2f} s after Ctrl-C")
    return seconds


def script(body: str, folder: Path) -> list[str]:
    path = folder / "program.py"
    path.write_text("import sys, threading\n" + textwrap.dedent(body))
    return [sys.executable, str(path)]


def lines(folder: Path, line: dict[str, object], count: int) -> str:
    path = folder / "answers.jsonl"
    path.write_text((json.dumps(line) + "\n") * count)
    return str(path)


@needs_sandbox
def test_the_command_ends_with_programs_queued(tmp_path):
    line = {"prediction": SLOW_CODE, "tests": [{"input": "1", "output": "1"}], "metadata": {"limits": {"time_s": 60}}}
    command = [sys.executable, "-m", "h1r", "verify", lines(tmp_path, line, 50)]
    assert seconds_to_end(command, "isolation by", tmp_path) < bound(LIMIT_S)


@needs_sandbox
def test_code_verdicts_in_a_batch_end(tmp_path):
    program = script(
        f"""
        from h1r.records import Problem
        from h1r.verify import VerifierPool
        tests = {{"tests": [{{"input": "1", "output": "1"}}], "limits": {{"time_s": 60}}}}
        owner = Problem("p", "", "", "code", metadata=tests)
        with VerifierPool() as pool:
            pool.verify_many([owner] * 40, [{SLOW_CODE!r}] * 40)
        """,
        tmp_path,
    )
    assert seconds_to_end(program, "isolation by", tmp_path) < bound(LIMIT_S)


def test_a_pool_with_slow_answers_ends(tmp_path):
    program = f"""
        sys.path[:0] = {PATH!r}
        import test_service
        from h1r.verify import VerifierPool
        with VerifierPool(time_limit_s=60.0) as pool:
            pool.verify_many([test_service.problem()], ["fine"])
            print("ready", file=sys.stderr, flush=True)
            pool.verify_many([test_service.problem("test-service-patient")] * 40, ["sleep"] * 40)
        """
    assert seconds_to_end(script(program, tmp_path), "ready", tmp_path) < bound(LIMIT_S)


def test_a_ray_backend_with_slow_answers_ends(tmp_path):
    pytest.importorskip("ray")
    program = f"""
        sys.path[:0] = {PATH!r}
        import test_service
        from h1r.verify.workers.ray_backend import RayBackend
        with RayBackend(actors=1, time_limit_s=60.0, cpus=0.1) as backend:
            backend.verify_many([test_service.problem()], ["fine"])
            print("ready", file=sys.stderr, flush=True)
            backend.verify_many([test_service.problem("test-service-patient")] * 40, ["sleep"] * 40)
        """
    assert seconds_to_end(script(program, tmp_path), "ready", tmp_path) < bound(LIMIT_S)
