"""What every test starts from, and how `pytest -n auto --dist loadfile` shares the files out among processes.

Property-based tests explore new examples on a developer's machine and repeat the same ones in the checks.
"""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from h1r.common import progress
from h1r.sandbox import limits
from serving import START_LIMIT_S

# No deadline: on a busy machine any example can take long, and that says nothing about the code.
settings.register_profile("exploring", deadline=None)
settings.register_profile("checks", derandomize=True, deadline=None)
# A suite that a shell started in the background ignores Ctrl-C, and so would every program that its tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.load_profile("checks" if os.environ.get("CI") else "exploring")


@pytest.fixture(autouse=True)
def progress_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command run with `--json` turns progress off for its whole process; no test inherits that from another."""
    monkeypatch.setattr(progress, "_quiet", False)


@pytest.fixture(autouse=True)
def tested_code_may_wait_for_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it takes: a verdict that did not come about (`StarvedError`) says that the machine of the tests is
    busy, and nothing of the code. What a program may spend stays as it is."""
    monkeypatch.setattr(limits, "WALL_STRETCH", 20 * limits.WALL_STRETCH)
    monkeypatch.setattr(limits, "ANSWER_STRETCH", 20 * limits.ANSWER_STRETCH)


PASSED_ON = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "PYTHONPATH", "HOME", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


@pytest.fixture(autouse=True, scope="module")
def no_file_changes_how_programs_start() -> Iterator[None]:
    """The file that leaves such a variable behind fails, not one that starts a program after it."""
    before = {name: os.environ.get(name) for name in PASSED_ON}
    yield
    assert {name: os.environ.get(name) for name in PASSED_ON} == before


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are processors: many tests wait, for a server to start or a time limit. With two
    more, what starts in processes of its own (vLLM's server, Ray) did not start in its time."""
    return len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)) + 1


# Nothing that is made while tests are collected is garbage, but all of it is looked at in each collection of garbage: a
# second and a half for 11,000 tests and what they import.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, then those with many tests, so that no process is left with a long file at the
    end while the others are done."""
    served = (*ONE_SERVER, "tests/train/test_rl_vllm.py")
    for item in items:
        if item.nodeid.startswith(served):
            item.add_marker(pytest.mark.timeout(START_LIMIT_S + 300))
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    count = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -count[item.path]))


ONE_SERVER = ("tests/engine/test_conformance.py", "tests/engine/test_vllm_server_")
"""Files whose tests ask vLLM's server. It takes a minute to start and belongs to one process, which runs them all."""


class FilesTogether(LoadFileScheduling):  # type: ignore[misc]
    """As `--dist loadfile`, with some files as one."""

    def _split_scope(self, nodeid: str) -> str:
        return ONE_SERVER[0] if nodeid.startswith(ONE_SERVER) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return FilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None
