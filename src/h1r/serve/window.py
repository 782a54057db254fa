"""How often the engine's thread hands out the tokens of streams."""

from __future__ import annotations

import time
from collections.abc import Callable

INTERVAL_S = 0.25
"""Longest that tokens of a stream wait for others, to be written with them, unless the server is told another."""
SHORTEST_S = 0.05
"""That long they wait where streams cost little: nobody sees it. Each time that tokens are handed out the engine's
thread waits for the event loop, which writes them."""
WRITING_SHARE = 0.02
"""Of the processor time of the engine's thread, what the event loop may take: the two run in turns. Where it takes
more, as with many streams of a small model, tokens wait longer."""
_PAUSE_S = 1.0


def clocks() -> tuple[float, float]:
    """The time, and the processor time of this thread, s."""
    return time.monotonic(), time.thread_time()


class Window:
    """How long new tokens wait, `longest` seconds at most, so that the event loop takes `WRITING_SHARE` of what the
    engine's thread computes, no more.

    `look` runs in the event loop, each time that it is handed a window's tokens. Processor time is what counts: on a
    busy machine the clock says little, and of a process that computes in many threads most time is none of theirs.
    """

    def __init__(self, longest: float = INTERVAL_S, read: Callable[[], tuple[float, float]] = clocks) -> None:
        self._read, self._longest = read, longest
        self._shortest = self.seconds = min(SHORTEST_S, longest)
        """`seconds`: of the next one."""
        self._looked: tuple[float, float, float] | None = None

    def look(self, computed: float) -> None:
        """Takes the times; computed: processor time of the engine's thread. A pause says nothing about writing."""
        now, before = (*self._read(), computed), self._looked
        self._looked = now
        if before is None or now[0] - before[0] > _PAUSE_S + self._longest:
            return
        share = (now[1] - before[1]) / max(now[2] - before[2], 1e-9)
        wanted = self.seconds * max(0.5, min(share / WRITING_SHARE, 2.0))
        self.seconds = max(self._shortest, min(wanted, self._longest))
