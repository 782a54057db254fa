"""Tokens and traces of a plain request on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from h1r.engine.native.batch import Drawn
from h1r.engine.protocol import Prompt, SamplingParams
from h1r.records import Trace
from h1r.serve.engine_thread import EngineThread, Ticket
from h1r.serve.spans import RequestSpan

Step = tuple[int, Sequence[Drawn], Sequence[Trace]]
"""Of which prompt, the tokens that were drawn since the last one, and the traces that ended."""
_Told = Step | BaseException


class Mailbox:
    """The traces of some prompts. `async for` gives what the engine's thread has handed out meanwhile, until all have
    ended: of a client that reads slowly, all that came since it read last.

    listen: tokens are given as they are drawn, where the engine can. `give_up` ends what runs; `finish` too, and
    what there is then counts as the whole (finish_reason "cancelled").
    """

    def __init__(
        self,
        owner: EngineThread,
        prompts: Sequence[Prompt],
        params: Sequence[SamplingParams],
        listen: bool,
        span: RequestSpan | None = None,
    ) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[_Told] = asyncio.Queue()
        self._left = sum(one.n for one in params)
        self._tickets = [
            Ticket(prompt, one, _Numbered(self, index), listen, span=span)
            for index, (prompt, one) in enumerate(zip(prompts, params, strict=True))
        ]
        for ticket in self._tickets:
            owner.submit(ticket)

    async def __aiter__(self) -> AsyncIterator[Sequence[Step]]:
        try:
            while self._left:
                told = [await self._steps.get()]
                while not self._steps.empty():
                    told.append(self._steps.get_nowait())
                steps = [one for one in told if not isinstance(one, BaseException)]
                self._left -= sum(len(ended) for _, _, ended in steps)
                if steps:
                    yield steps
                for error in told:
                    if isinstance(error, BaseException):
                        raise error
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

    def _put(self, step: _Told) -> None:
        """In the engine's thread."""
        self._owner.tell(self._loop, self._steps.put_nowait, step)


class _Numbered:
    """The sink of one prompt. Nothing follows from a plain trace, so it is always settled."""

    settled = True

    def __init__(self, mailbox: Mailbox, index: int) -> None:
        self._mailbox, self._index = mailbox, index

    def take(self, drawn: Sequence[Drawn], traces: Sequence[Trace]) -> None:
        self._mailbox._put((self._index, drawn, traces))

    def fail(self, error: BaseException) -> None:
        self._mailbox._put(error)
