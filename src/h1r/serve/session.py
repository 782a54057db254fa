"""One request's view of the engine that all requests share: the engine protocol, for code that runs in a thread of its
own and blocks, as DeepConf does (`scaling/run.py`). A session serves one stream at a time, as any engine.

    session = Session(owner)
    ScalingRun(session, prompts, params, seeds=...).solve()          in a thread
    session.end(give_up=True)                                         from any other: the stream raises `Abandoned`
    session.end(give_up=False)                                        the stream ends with what there is
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from h1r.engine.native.batch import Drawn
from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.engine.requests import NO_STREAM, one_per_prompt
from h1r.errors import UserError
from h1r.records import Trace
from h1r.serve.engine_thread import EngineThread, Ticket
from h1r.serve.spans import RequestSpan

if TYPE_CHECKING:
    import torch

LOOK_S = 0.2
"""Seconds between two calls of `look` while no trace ends."""


class Abandoned(Exception):  # noqa: N818 - nothing is wrong
    """Nobody waits for this request any more."""


class Session:
    """See the module. Its methods belong to the thread of the run, `end` and the sinks' to others."""

    def __init__(self, owner: EngineThread, span: RequestSpan | None = None) -> None:
        self._owner, self._span = owner, span
        self._tickets: list[Ticket] = []
        self._cond = threading.Condition(threading.RLock())
        self._inbox: deque[Trace | BaseException] = deque()
        self._idle = True
        self._ended = False
        self._look: Callable[[], None] | None = None

    @property
    def settled(self) -> bool:
        """Whether the run has taken all traces and asks for the next, or has ended."""
        return self._idle

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """See `Engine.stream`."""
        each = one_per_prompt(prompts, params)
        self._tickets = []
        try:
            for prompt, one in zip(prompts, each, strict=True):
                self._add(prompt, one)
            while self._more():
                found = self._next()
                if isinstance(found, BaseException):
                    raise found
                if found is not None:
                    yield found
                elif self._look is not None:
                    self._look()
        finally:
            for ticket in self._tickets:
                if ticket.left:
                    self._owner.drop(ticket)
            self._tickets = []
            self._idle = True
            self._owner.settled()

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """See `Engine.add`."""
        if not self._tickets:
            raise RuntimeError(NO_STREAM)
        return self._add(prompt, params)

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`."""
        ticket = self._tickets[prompt_index]
        traces = self._owner.call(lambda: self._owner.cancel(ticket))
        for trace in traces:
            trace.prompt_index = prompt_index
        return traces

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`; `look` is called where no trace ends for `LOOK_S`."""
        self._look = look

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        found = []
        for index, ticket in enumerate(self._tickets):
            if ticket.left:
                running = self._owner.call(lambda ticket=ticket: self._owner.progress(ticket))  # type: ignore[misc]
                found += [dataclasses.replace(one, prompt_index=index) for one in running]
        return found

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """Raises `UserError`: the weights are the server's."""
        raise UserError("a request cannot change the weights of the server")

    def end(self, give_up: bool) -> None:
        """Ends the stream in progress, or the next one at once: as nobody's any more, or with the traces as they
        stand (finish_reason "cancelled", without tokens where they had not begun), which then count as the others."""
        self._ended = True
        self._owner.post(lambda: self._end(give_up))

    def _end(self, give_up: bool) -> None:
        """In the engine's thread."""
        with self._cond:
            for ticket in list(self._tickets):
                if not ticket.left:
                    continue
                missing = ticket.missing
                traces = {trace.sample_index: trace for trace in self._owner.cancel(ticket)}
                if not give_up:
                    index = self._tickets.index(ticket)
                    for sample in missing:
                        self._put(_told(traces.get(sample) or _nothing(ticket, sample), index))
            if give_up:
                self._put(Abandoned())

    def _add(self, prompt: Prompt, params: SamplingParams) -> int:
        index = len(self._tickets)
        ticket = Ticket(prompt, params, _Numbered(self, index), span=self._span)
        self._tickets.append(ticket)
        if self._ended:
            ticket.left = 0
            for sample in range(params.n):
                self._put(_told(_nothing(ticket, sample), index))
        else:
            self._owner.submit(ticket)
        return index

    def _more(self) -> bool:
        """Whether a trace is still to come. `_end` takes the left ones and hands them over under the same lock."""
        with self._cond:
            # `left` first: a trace is in the inbox before it is no longer left.
            return any(ticket.left for ticket in self._tickets) or bool(self._inbox)

    def _next(self) -> Trace | BaseException | None:
        """The next trace; None when it is time to look."""
        with self._cond:
            if not self._inbox:
                self._idle = True
                self._owner.settled()
                self._cond.wait_for(lambda: bool(self._inbox), LOOK_S)
            if not self._inbox:
                return None
            self._idle = False
            return self._inbox.popleft()

    def _put(self, one: Trace | BaseException) -> None:
        with self._cond:
            self._inbox.append(one)
            self._idle = False
            self._cond.notify_all()


class _Numbered:
    """The sink of one prompt of a session."""

    def __init__(self, session: Session, index: int) -> None:
        self._session, self._index = session, index

    @property
    def settled(self) -> bool:
        return self._session.settled

    def take(self, drawn: Sequence[Drawn], traces: Sequence[Trace]) -> None:
        for trace in traces:
            self._session._put(_told(trace, self._index))

    def fail(self, error: BaseException) -> None:
        self._session._put(error)


def _told(trace: Trace, index: int) -> Trace:
    trace.prompt_index = index
    return trace


def _nothing(ticket: Ticket, sample: int) -> Trace:
    """A trace that had not begun."""
    return Trace(0, sample, [], "", [], [], [], "cancelled", seed=ticket.params.seed + sample)
