"""Honest answers are paid beside three busy loops for each core, and their verdicts repeat.

`benchmarks/busy.py` does the same with a thousand.

Each answer computes for about a third of its limit, which grows with what a second of this machine's processor is worth
just now. Beside the loops it takes longer than the limit on the wall.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from h1r.records import Problem
from h1r.sandbox import Isolation, refusal
from h1r.verify import VerifierPool
from machine import slowness

pytestmark = pytest.mark.skipif(
    bool(refusal(Isolation.NAMESPACES) and refusal(Isolation.LANDLOCK)), reason="tested code cannot be confined here"
)
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
STEPS = 2_000_000
LIMIT_S = 1.0
WORK = f"for _ in range({STEPS}): n = (n * 5 + 3) % 1_000_003"
FUNCTION = f"```python\ndef f(n):\n    {WORK}\n    return n\n```"
PROGRAM = f"```python\nn = int(input())\n{WORK}\nprint(n)\n```"


@pytest.fixture
def busy() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(3 * (os.cpu_count() or 1))]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


def result(value: int) -> int:
    """What the programs compute, by the closed form of the recurrence."""
    factor = pow(5, STEPS, 1_000_003)
    return (value * factor + 3 * (factor - 1) * pow(4, -1, 1_000_003)) % 1_000_003


def honest(number: int, limit_s: float) -> list[tuple[Problem, str]]:
    limits = {"time_s": limit_s, "total_s": 2 * limit_s}
    calls = {"fn_name": "f", "inputs": [[number]], "outputs": [[result(number)]]}
    lines = {"inputs": [str(number)], "outputs": [str(result(number))]}
    integral = rf"\int_0^{number + 1} %s^2 d%s"
    return [
        (Problem("m", "", integral % ("x", "x"), "math"), rf"\boxed{{{integral % ('y', 'y')}}}"),
        (Problem("f", "", "", "code", metadata={"tests": calls, "limits": limits}), FUNCTION),
        (Problem("p", "", "", "code", metadata={"tests": lines, "limits": limits}), PROGRAM),
    ]


@pytest.mark.slow  # ten to forty seconds
def test_honest_answers_are_paid_beside_busy_loops_and_their_verdicts_repeat(busy):
    limit_s = LIMIT_S * slowness(scans=20)
    problems, texts = zip(*(pair for number in range(2) for pair in honest(number, limit_s)), strict=True)
    with VerifierPool(time_limit_s=1.5 * limit_s, format_checks=False) as pool:
        first, second = pool.verify_many(problems, texts), pool.verify_many(problems, texts)
    assert [(verdict.reward, verdict.error) for verdict in first] == [(1.0, None)] * len(problems)
    assert second == first
