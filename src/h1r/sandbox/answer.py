"""The one limit of wall time for the whole of an answer, whatever its sandboxes do at that moment.

A thread of the parent waits for the end of the answer. At the limit it has every run killed, and refuses new ones; a
fork server that has not ended its run soon after is killed itself. So starting, compiling, running, answering calls,
making a digest and printing are all bounded by this, and nothing on the way has to look at a clock.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

GRACE_S = 5.0
"""What a fork server has for ending a run, when the time of the answer is over."""


class Endable(Protocol):
    """What an answer runs in; see `runner.Sandbox`."""

    waited_s: float

    def begin_answer(self, total_s: float) -> None: ...

    def end_answer(self) -> None: ...

    def stop_answer(self, force: bool) -> None: ...


class Answer:
    """Whether the time of an answer `is_over`. Until its end the total holds for all runs that are counted. `waited_s`:
    what these waited for a processor, when it has ended."""

    def __init__(self) -> None:
        self.is_over = False
        self.waited_s = 0.0


@contextlib.contextmanager
def whole_answer(sandboxes: Sequence[Endable], wall_s: float, total_s: float) -> Iterator[Answer]:
    """The block is one answer: at most `wall_s` on the wall, and `total_s` spent by what its tests run."""
    answer, done, lock = Answer(), threading.Event(), threading.Lock()

    def watch() -> None:
        for wait_s, force in ((wall_s, False), (GRACE_S, True)):
            if done.wait(wait_s):
                return
            with lock:  # never into the next answer
                if done.is_set():
                    return
                answer.is_over = True
                for sandbox in sandboxes:
                    sandbox.stop_answer(force)

    for sandbox in sandboxes:
        sandbox.begin_answer(total_s)
    watcher = threading.Thread(target=watch, name="h1r-answer-limit", daemon=True)
    watcher.start()
    try:
        yield answer
    finally:
        with lock:
            done.set()
        answer.waited_s = sum(sandbox.waited_s for sandbox in sandboxes)
        for sandbox in sandboxes:
            sandbox.end_answer()
