"""Batches of groups that are sampled up to `rl.lookahead` steps before they are trained on.

    lookahead 0    sample 0 | train 0 | sample 1 | train 1 | ...
    lookahead 1    sample 0 | sample 1           | sample 2          | ...
                            | train 0            | train 1           | ...

The batch of step t is sampled with the weights that max(0, t - lookahead) steps have made, wherever it is sampled and
however long that takes: batches begin in order, whole, when these weights are there. So a run is a function of its
recipe with any lookahead, and where an engine shares the trainer's weights or processor (`Fleet.apart` is false),
batches are sampled as far ahead to the same bits, only not at the same time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from h1r.train.rollouts import Collected, GroupStream, StreamState
from h1r.verify.threads import DaemonThreads


class Ahead:
    """The batches of steps `step` to `steps` - 1 out of `stream`. apart: they are sampled in a thread."""

    def __init__(self, stream: GroupStream, lookahead: int, steps: int, step: int, apart: bool) -> None:
        self._stream, self._lookahead, self._steps, self._next = stream, lookahead, steps, step
        self._threads = DaemonThreads(1, "h1r-rollouts") if apart else None
        self._waiting: deque[Future[tuple[Collected, StreamState]]] = deque()

    def begin(self, step: int, take: Callable[[], None]) -> None:
        """Begins what may be sampled now that `step` steps are done. take: gives the engines the weights of that
        moment."""
        first, self._next = self._next, max(self._next, min(step + self._lookahead + 1, self._steps))
        for number in range(first, self._next):
            self._begin(partial(self._collect, number, step, take if number == first else None))

    def next(self) -> tuple[Collected, StreamState]:
        """The next batch in order of steps, and the state of the stream behind it; waits for it."""
        return self._waiting.popleft().result()

    def wait(self) -> None:
        """Waits until everything that was begun is sampled, and in the journal."""
        for one in self._waiting:
            one.result()

    def close(self) -> None:
        """Nothing more is begun; a thread ends when it is done with the batch that it is at."""
        if self._threads is not None:
            self._threads.close()

    def _begin(self, collect: Callable[[], tuple[Collected, StreamState]]) -> None:
        if self._threads is not None:
            self._waiting.append(self._threads.submit(collect))
            return
        future: Future[tuple[Collected, StreamState]] = Future()
        future.set_result(collect())
        self._waiting.append(future)

    def _collect(self, number: int, step: int, take: Callable[[], None] | None) -> tuple[Collected, StreamState]:
        if take is not None:
            take()
        # In a run that was resumed, the engines have later weights than a batch that was begun before it had: the
        # journal has its groups.
        return self._stream.collect(max(0, number - self._lookahead), made=step), self._stream.snapshot()
