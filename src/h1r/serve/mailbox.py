"""Tokens and traces of a plain request on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from h1r.engine.native.batch import Drawn
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.records import Trace
from h1r.serve.engine_thread import EngineThread, Ticket

Step = tuple[int, Sequence[Drawn], Sequence[Trace]]
"""Of which prompt, the tokens that a step drew, and the traces that it ended."""
WINDOW_S = 0.05
"""What comes so soon after what was handed on waits for the first step after that, or for the end of a trace."""


class Mailbox:
    """The traces of some prompts. `async for` gives what steps brought, until all have ended: the first one at once,
    later ones together that come within `WINDOW_S`.

    listen: tokens are given as they are drawn, where the engine can. `give_up` ends what runs; `finish` too, and
    what there is then counts as the whole (finish_reason "cancelled").
    """

    def __init__(
        self, owner: EngineThread, prompts: Sequence[Prompt], params: Sequence[SamplingParams], listen: bool
    ) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[list[Step | BaseException]] = asyncio.Queue()
        self._held: list[Step | BaseException] = []
        """Not handed on yet. Belongs to the engine's thread, as `_due` does: when it is, by `time.monotonic`."""
        self._due = 0.0
        self._left = sum(one.n for one in params)
        self._tickets = [
            Ticket(prompt, one, _Numbered(self, index), listen)
            for index, (prompt, one) in enumerate(zip(prompts, params, strict=True))
        ]
        for ticket in self._tickets:
            owner.submit(ticket)

    async def __aiter__(self) -> AsyncIterator[list[Step]]:
        try:
            while self._left:
                steps = []
                for step in await self._arrived.get():
                    if isinstance(step, BaseException):
                        raise step
                    self._left -= len(step[2])
                    steps.append(step)
                yield steps
        finally:
            self.give_up()

    def give_up(self) -> None:
        """Nobody waits any more."""
        if self._left:
            self._left = 0
            for ticket in self._tickets:
                self._owner.drop(ticket)

    def finish(self) -> None:
        """Ends what runs; the traces come as they stand."""
        self._owner.post(self._finish)

    def _finish(self) -> None:
        """In the engine's thread."""
        for index, ticket in enumerate(self._tickets):
            missing = ticket.missing if ticket.left else []
            found = {trace.sample_index: trace for trace in self._owner.cancel(ticket)}
            empty = (Trace(0, j, [], "", [], [], [], "cancelled", seed=ticket.params.seed + j) for j in missing)
            traces = [found.get(trace.sample_index, trace) for trace in empty]
            if traces:
                self._put((index, (), traces))

    def _put(self, step: Step | BaseException) -> None:
        """In the engine's thread, which waits for the event loop each time that it wakes it."""
        self._held.append(step)
        now = time.monotonic()
        if isinstance(step, BaseException) or step[2] or now >= self._due:
            self._due = now + WINDOW_S
            self._owner.tell(self._loop, self._arrived.put_nowait, self._held)
            self._held = []


class _Numbered:
    """The sink of one prompt. Nothing follows from a plain trace, so it is always settled."""

    settled = True

    def __init__(self, mailbox: Mailbox, index: int) -> None:
        self._mailbox, self._index = mailbox, index

    def take(self, drawn: Sequence[Drawn], traces: Sequence[Trace]) -> None:
        self._mailbox._put((self._index, drawn, traces))

    def fail(self, error: BaseException) -> None:
        self._mailbox._put(error)
