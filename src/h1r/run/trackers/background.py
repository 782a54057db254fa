"""A tracker in a thread of its own, so that one which fails or hangs stops no training."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping

from h1r.common.progress import note
from h1r.run.trackers.base import Tracker

HELD = 10_000
"""Steps that wait for a slow tracker before it is dropped."""
CLOSE_SECONDS = 60.0
"""How long the end of a stage waits for a tracker."""


class Background:
    """Makes a tracker by `make` and hands it the finite numbers of each step.

    What it raises, and that it hangs, is noted once; then it is dropped and the stage goes on without it.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], close_seconds: float = CLOSE_SECONDS) -> None:
        self._name, self._make, self._close_seconds = name, make, close_seconds
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(HELD)
        self._dropped = threading.Lock()  # held for good by the first who drops the tracker
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Never waits."""
        finite = {key: value for key, value in values.items() if value is not None and math.isfinite(value)}
        self._put((step, finite))

    def close(self) -> None:
        """Waits for what was logged, at most `close_seconds`."""
        self._put(None)
        self._thread.join(0 if self._dropped.locked() else self._close_seconds)
        if self._thread.is_alive():
            self._drop(f"did not finish within {self._close_seconds:g} s")

    def _put(self, item: tuple[int, dict[str, float]] | None) -> None:
        if self._dropped.locked():
            return
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self._drop(f"is {HELD} steps behind")

    def _work(self) -> None:
        try:
            tracker = self._make()
            while (item := self._waiting.get()) is not None:
                tracker.log(*item)
            tracker.close()
        except BaseException as error:  # some leave by SystemExit
            text = str(error).strip().splitlines() or [""]
            self._drop(f"failed ({type(error).__name__}: {text[0][:300]})")

    def _drop(self, why: str) -> None:
        if self._dropped.acquire(blocking=False):
            note(f"tracker {self._name} {why}; the run goes on without it")
