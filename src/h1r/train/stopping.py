"""Training that is asked to end saves a checkpoint first: on SIGTERM, which batch systems send before they kill, on
Ctrl-C, and when the time that an attempt has is over."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from h1r.common.progress import note
from h1r.errors import StoppedEarlyError
from h1r.train.parallel.world import World

_TIME_IS_OVER = 1e6
"""What the main process adds to the number of processes that were sent SIGTERM."""


class Stopping:
    """`with Stopping(limit, world) as stopping`: from then on SIGTERM kills nobody, and `stopping.why()`, which every
    process asks after a step, says on all of them whether one is to end. Ctrl-C waits for the end of the step, too, of
    a process that is alone; a second one does not.

    limit_s: seconds that this attempt has; None: no limit. began: what `time.monotonic` said when they began; None:
    now.
    """

    def __init__(self, limit_s: float | None, world: World, began: float | None = None) -> None:
        self._ends = None if limit_s is None else (time.monotonic() if began is None else began) + limit_s
        self._limit, self._world = limit_s, world
        self._told = self._pressed = False
        self._before: Any = None
        self._interrupts = False

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():  # others may not change what a signal does
            self._before = signal.signal(signal.SIGTERM, self._tell)
            usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
            if usual and self._world.everyone is None:
                signal.signal(signal.SIGINT, self._press)
                self._interrupts = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
        if self._interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def why(self) -> str | None:
        """Why training is to end here; None: it is to go on. Every process of the world must ask."""
        over = self._world.main and self._ends is not None and time.monotonic() >= self._ends
        said = self._world.sum(float(self._told) + _TIME_IS_OVER * over)
        if said >= _TIME_IS_OVER:
            return f"its {self._limit:g} s (time_limit_s) are over"
        if self._pressed:
            return "Ctrl-C was pressed"
        return "it was sent SIGTERM" if said else None

    def ended(self, sentence: str) -> BaseException:
        """What to raise once all is saved: `KeyboardInterrupt` after Ctrl-C, else `StoppedEarlyError`."""
        return KeyboardInterrupt() if self._pressed else StoppedEarlyError(sentence)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
        note("\nending this step; Ctrl-C again to stop at once, and lose what no checkpoint has")
