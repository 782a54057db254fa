"""Commands that are killed at moments of their own progress: what `kill_test.py` and `eval_kill_test.py` share."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

H1R = [sys.executable, "-m", "h1r"]
LIMIT_S = 600
Done = Callable[[], int]
"""How far a run has come: steps, answers."""


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The command in a group of its own; what it says goes to the end of `log`."""
    with log.open("ab") as written:
        return subprocess.Popen(command, stdout=written, stderr=written, start_new_session=True)


def below(process: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    found, parents = [], {process}
    table = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                table[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    while parents:
        parents = {child for child, parent in table.items() if parent in parents}
        found += sorted(parents)
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of it is left, nor of what it has started in sessions of their own, as torchrun does."""
    if process.poll() is None:
        started = below(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        for one in started:
            killed(one)
    process.wait()


def wait(process: subprocess.Popen[bytes], done: Done, steps: float = math.inf) -> bool:
    """Waits until the run has come to that many steps: True; False if the process ended before. `TimeoutExpired` after
    `LIMIT_S` without a further step."""
    seen, since = done(), time.monotonic()
    while seen < steps:
        if process.poll() is not None:
            return False
        time.sleep(0.02)
        now = done()
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > LIMIT_S:
            raise subprocess.TimeoutExpired(process.args, LIMIT_S)
    return True


def comes_to(process: subprocess.Popen[bytes], done: Done, steps: int, draw: random.Random) -> bool:
    """As `wait`, and a random moment longer: within the step, or within the start of a process whose run has that many
    steps already."""
    pause = draw.uniform(0, 4.0 if done() >= steps else 0.3)
    if wait(process, done, steps):
        time.sleep(pause)
    return process.poll() is None


def killed(process: int) -> bool:
    """False where it ended by itself meanwhile."""
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
