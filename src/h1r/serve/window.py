"""How often the engine's thread hands out the tokens of streams."""

from __future__ import annotations

import time
from collections.abc import Callable

WINDOW_S, LONGEST_WINDOW_S = 0.05, 0.25
"""Between two times that tokens are handed out. Each time the engine's thread waits for the event loop, which writes
them."""
WRITING_SHARE = 0.02
"""Of this process's processor time, what the event loop may take: where it takes more, as with many streams of a small
model, tokens are handed out less often, down to once in `LONGEST_WINDOW_S`."""


def clocks() -> tuple[float, float, float]:
    """The time, and the processor time of this thread and of the process, s."""
    return time.monotonic(), time.thread_time(), time.process_time()


class Window:
    """How long new tokens wait, so that the event loop takes `WRITING_SHARE` of what this process computes, no more.

    `look` runs in the event loop, each time that it is handed a window's tokens. Processor time is what counts: on a
    busy machine the clock says little.
    """

    def __init__(self, read: Callable[[], tuple[float, float, float]] = clocks) -> None:
        self._read, self._adjusted = read, WINDOW_S
        self._looked: tuple[float, float, float] | None = None

    @property
    def seconds(self) -> float:
        """Of the next one."""
        return max(WINDOW_S, self._adjusted)

    def look(self) -> None:
        """Takes the times. A pause says nothing about writing."""
        now, before = self._read(), self._looked
        self._looked = now
        if before is None or now[0] - before[0] > 4 * LONGEST_WINDOW_S:
            return
        share = (now[1] - before[1]) / max(now[2] - before[2], 1e-9)
        self._adjusted *= max(0.5, min(share / WRITING_SHARE, 2.0))
        self._adjusted = max(WINDOW_S, min(self._adjusted, LONGEST_WINDOW_S))
