"""Threads that work a queue off and hold nobody up: neither Ctrl-C nor the end of the program waits for them.

`concurrent.futures.ThreadPoolExecutor` has its threads finish everything that was queued before the interpreter may
end. What these do has no effect but its result, so they simply end with the process.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


class DaemonThreads:
    """At most `count` threads, started as they are needed, which take what was submitted in order."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._started = 0
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Future[object], Callable[[], object]] | None] = queue.SimpleQueue()

    def submit(
        self, function: Callable[_Given, _Found], *arguments: _Given.args, **named: _Given.kwargs
    ) -> Future[_Found]:
        """Calls the function in one of the threads; a future that is cancelled before has it not called at all."""
        future: Future[_Found] = Future()
        self._waiting.put((future, lambda: function(*arguments, **named)))  # type: ignore[arg-type]
        with self._lock:
            if not self._idle.acquire(blocking=False) and self._started < self._count:
                self._started += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        return future

    def close(self) -> None:
        """Cancels what has not begun; the threads end when they are done with what has."""
        while True:
            try:
                waiting = self._waiting.get_nowait()
            except queue.Empty:
                break
            if waiting:
                waiting[0].cancel()
        with self._lock:
            for _ in range(self._started):
                self._waiting.put(None)

    def _work(self) -> None:
        while True:
            try:
                waiting = self._waiting.get_nowait()
            except queue.Empty:
                self._idle.release()
                waiting = self._waiting.get()
            if waiting is None:
                return
            future, call = waiting
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
