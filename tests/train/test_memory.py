"""A steady training step touches no new page."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from h1r.train.memory import keep_freed_memory
kept = {keep} and keep_freed_memory()
def step():
    held = [torch.ones(1 << 22) for _ in range(8)]  # 16 MB each
    held += [torch.ones(1 << 24)]
for _ in range(4):
    step()  # blocks of two sizes find their places
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool, **environment: str) -> tuple[bool, int]:
    """Whether memory is kept, and the pages that a step touches for the first time, of 49,152 that it uses."""
    run = subprocess.run(
        [sys.executable, "-c", COUNT.format(keep=keep)], capture_output=True, text=True, check=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    kept, count = map(int, run.stdout.split())
    return bool(kept), count


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_step_finds_the_pages_of_the_one_before() -> None:
    kept, count = faults(keep=True)
    assert kept
    assert count < 500 < faults(keep=False)[1]


def test_what_the_user_has_set_is_left_alone() -> None:
    assert not faults(keep=True, MALLOC_TRIM_THRESHOLD_="131072")[0]
