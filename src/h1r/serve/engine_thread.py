"""The thread that owns the engine: requests come in from other threads, and each token and trace goes back to its own.

    event loop --submit--> +-----------------+ --grant--> engine.add
    DeepConf threads ----> |  tickets, fair  |            engine.step   (the only thread that touches the engine)
    event loop <--told---- +-----------------+ <--------- tokens and traces that ended

A ticket is one prompt with n traces. Between two steps the thread runs the commands that others left (so a client that
hung up costs one step at most), grants slots, and takes a step.

Fairness: a free slot goes to the ticket with the fewest traces running, the older one where several have as few. Alone,
a ticket is given to the engine whole, which prefills it once; when another one comes, the traces that did not start are
taken back (`NativeEngine.withdraw`) and both share what gets free, `SLICE` traces at a time at most, since every slice
is prefilled anew. Trace j draws from `seed + j` in every cut.

Gathering: requests that come together are read one after another by the event loop, which takes less than a step. Where
more of them have been read than traces run and wait, a step would serve the fewer: it waits for them, `GATHER_S` at
most. A lone request waits for nothing.

Settling: a DeepConf run decides in a thread of its own (`session.py`) what follows from a trace: more traces, or none.
After a step that ended traces of such a run, the next step waits until the run asks for the next one, `SETTLE_S` at
most. So its decisions fall between the same two steps as in `h1r solve`, and a run whose answers are slow to compare
delays the others by that much alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import InitVar, dataclass, field
from typing import Any, Protocol, TypeVar

from h1r.engine.native.batch import Drawn
from h1r.engine.native.engine import NativeEngine
from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.records import Trace
from h1r.serve.spans import RequestSpan, TicketSpans
from h1r.serve.window import INTERVAL_S, Window

T = TypeVar("T")
CLOSING = "the server is shutting down"
SLICE = 8
GATHER_S = 0.03
STALE_S = 1.0
ARRIVAL_PASSES = 3
"""Of the event loop, from a request that has been read to its ticket: a task of its own for a whole reply, and one in
another for a stream."""
SETTLE_S = 0.25
WAIT_S = 0.005
"""Longest wait of a step for an engine that is elsewhere, during which no command is heard."""
PROGRESS_S = 0.05
"""How old the answer to `progress` may be, which several runs then share."""


class Elsewhere(Protocol):
    """An engine whose steps run in other processes: `StreamingEngine` after `begin`."""

    @property
    def busy(self) -> bool:
        """Whether a trace has not been handed out yet."""
        ...

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """The number of the request, which its traces have as `prompt_index`."""
        ...

    def step(self, wait: float) -> list[Trace]:
        """Traces that ended since the last step; waits for one, at most so many seconds."""
        ...

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`."""
        ...

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        ...


class Sink(Protocol):
    """Who a ticket's tokens and traces are for. Its methods are called by the engine's thread, and must be quick."""

    @property
    def settled(self) -> bool:
        """Whether nothing more will follow from what was handed out until the next step."""
        ...

    def take(self, drawn: Sequence[Drawn], traces: Sequence[Trace]) -> None:
        """What steps gave: tokens, where they were asked for, and traces that ended. Samples count over the ticket."""
        ...

    def fail(self, error: BaseException) -> None:
        """The engine failed; nothing more comes."""
        ...


@dataclass(eq=False)
class Ticket:
    """One prompt and its traces. `handed`: how many of them the engine has; `left`: how many have not ended."""

    prompt: Prompt
    params: SamplingParams
    sink: Sink
    listen: bool = False
    handed: int = 0
    left: int = 0
    parts: dict[int, int] = field(default_factory=dict)
    """Of each request of the engine, the number of its first trace."""
    running: int = 0
    ended: set[int] = field(default_factory=set)
    heard: bool = False
    """Whether a token has been handed out."""
    span: InitVar[RequestSpan | None] = None
    """Of the request, where its spans are collected."""
    spans: TicketSpans | None = field(init=False, default=None)

    @property
    def missing(self) -> list[int]:
        """The samples that have not ended."""
        return [sample for sample in range(self.params.n) if sample not in self.ended]

    def __post_init__(self, span: RequestSpan | None) -> None:
        self.left = self.params.n
        self.spans = None if span is None else span.ticket(self)


class Arrivals:
    """Requests that the event loop has read and is making tickets of. It counts each for as many of its passes as that
    takes, whatever becomes of the request."""

    def __init__(self) -> None:
        self._count, self._last = 0, 0.0
        self._none = threading.Event()

    @property
    def count(self) -> int:
        """A glance from any thread. What has not passed in `STALE_S` came by a loop that has been closed."""
        return self._count if time.monotonic() < self._last + STALE_S else 0

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """One has been read. For the event loop."""
        self._count, self._last = self.count + 1, time.monotonic()
        self._none.clear()
        loop.call_soon(self._passed, loop, ARRIVAL_PASSES)

    def wait(self, seconds: float) -> None:
        """Until all are tickets, or so long. For the engine's thread."""
        if self.count:
            self._none.wait(seconds)

    def _passed(self, loop: asyncio.AbstractEventLoop, left: int) -> None:
        if left:
            loop.call_soon(self._passed, loop, left - 1)
            return
        self._count = max(0, self._count - 1)
        if not self._count:
            self._none.set()


class EngineThread:
    """Starts at once; `close` ends it, and whatever still runs. slots: traces that the engine decodes together.
    interval_s: how long the tokens of a stream wait for others at most, but for its first ones; counted where a step
    ends."""

    def __init__(self, engine: NativeEngine | Elsewhere, slots: int, interval_s: float = INTERVAL_S) -> None:
        self.engine, self.slots = engine, slots
        self.arrivals = Arrivals()
        self.step_seconds = 0.0
        self.tokens = 0
        """Of all traces that have ended, cancelled ones included."""
        self._whole: Ticket | None = None
        """The ticket that has the engine to itself, perhaps with traces that did not start."""
        self._cond = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._waiting: list[Ticket] = []
        """Tickets with traces that the engine does not have yet, in order of arrival."""
        self._parts: dict[int, Ticket] = {}
        self._listening: dict[int, Ticket] = {}
        self._due = 0.0
        """When all new tokens are handed out next, by `time.monotonic`."""
        self._window = Window(interval_s)
        self._told: dict[asyncio.AbstractEventLoop, list[tuple[Callable[..., None], tuple[Any, ...]]]] = {}
        self._running: tuple[float, list[tuple[Ticket, Running]]] = (0.0, [])
        self._closed = self._finished = False
        self._thread = threading.Thread(target=self._run, name="h1r-engine", daemon=True)
        self._thread.start()

    def tell(self, loop: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: Any) -> None:
        """Has the event loop call this after the step; all calls of a step together wake it once. For sinks."""
        self._told.setdefault(loop, []).append((function, arguments))

    def submit(self, ticket: Ticket) -> None:
        """Any thread may ask."""
        self.post(lambda: self._submit(ticket))

    def drop(self, ticket: Ticket) -> None:
        """Ends a ticket's traces within a step; its sink hears of nothing more."""

        def cancel() -> None:
            self.cancel(ticket)

        self.post(cancel)

    def post(self, command: Callable[[], None]) -> None:
        """Has the engine's thread run this between two steps."""
        with self._cond:
            if self._finished:
                raise RuntimeError(CLOSING)
            self._commands.append(command)
            self._cond.notify_all()

    def call(self, function: Callable[[], T]) -> T:
        """The same, and waits for what it returns. Not for the engine's thread itself."""
        future: Future[T] = Future()

        def command() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self.post(command)
        return future.result()

    def settled(self) -> None:
        """A sink has settled."""
        with self._cond:
            self._cond.notify_all()

    def close(self) -> None:
        """Ends the thread after its present step."""
        self.post(self._close)
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests are still answered."""
        return self._thread.is_alive() and not self._closed

    @property
    def load(self) -> tuple[int, int]:
        """Traces that the engine has, and traces that wait for it: a glance from any thread."""
        running = sum(ticket.running for ticket in {*list(self._parts.values())})
        return running, sum(ticket.params.n - ticket.handed for ticket in list(self._waiting))

    # From here on, the engine's thread alone.

    def cancel(self, ticket: Ticket) -> list[Trace]:
        """Ends a ticket's traces; those that had begun are returned as they stand, with samples of the ticket."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        traces = []
        for number, first in ticket.parts.items():
            self._parts.pop(number, None)
            self._listening.pop(number, None)
            traces += [_renumbered(trace, first) for trace in self.engine.cancel(number)]
        ticket.parts, ticket.left, ticket.running = {}, 0, 0
        ticket.handed = ticket.params.n
        self.tokens += sum(trace.num_tokens for trace in traces)
        if ticket.spans is not None:
            ticket.spans.told(traces)
        return traces

    def progress(self, ticket: Ticket) -> list[Running]:
        """The ticket's traces that run, with samples of the ticket."""
        now = time.monotonic()
        if now - self._running[0] > PROGRESS_S:
            found = []
            for one in self.engine.progress():
                if (owner := self._parts.get(one.prompt_index)) is not None:
                    sample = owner.parts[one.prompt_index] + one.sample_index
                    found.append((owner, dataclasses.replace(one, sample_index=sample)))
            self._running = (now, found)
        return [one for owner, one in self._running[1] if owner is ticket]

    def _run(self) -> None:
        while not self._closed:
            try:
                self._commands_run(wait=True)
                self._gather()
                self._grant()
                if self.engine.busy:
                    self._step()
            except Exception as error:
                self._fail(error)
        with self._cond:
            self._finished = True
        self._commands_run()

    def _commands_run(self, wait: bool = False) -> None:
        with self._cond:
            while wait and not (self._commands or self._waiting or self.engine.busy or self._closed):
                self._cond.wait()
            commands, self._commands = self._commands, deque()
        for command in commands:
            command()
        self._flush()

    def _gather(self) -> None:
        """See the module. An engine elsewhere does not wait for steps of ours."""
        count = self.arrivals.count  # those that are tickets since a moment included
        if not count or not isinstance(self.engine, NativeEngine) or count <= sum(self.load):
            return
        self.arrivals.wait(GATHER_S)
        self._commands_run()

    def _submit(self, ticket: Ticket) -> None:
        if self._closed:
            ticket.sink.fail(RuntimeError(CLOSING))
            return
        self._waiting.append(ticket)

    def _grant(self) -> None:
        """Gives the engine what it has room for."""
        if not self._waiting:
            return
        others = len(self._waiting) > 1 or any(ticket is not self._waiting[0] for ticket in self._parts.values())
        if not others and isinstance(self.engine, NativeEngine):
            self._whole = self._waiting[0]
            self._hand(self._whole, self._whole.params.n)
            return
        if others:
            self._withdraw()
        free = self.slots - sum(ticket.running for ticket in {*self._parts.values()})
        while self._waiting and free > 0:
            ticket = min(self._waiting, key=lambda one: one.running)
            free -= self._hand(ticket, min(free, max(SLICE, free // len(self._waiting))))

    def _withdraw(self) -> None:
        """Takes back what did not start of the ticket that had the engine to itself."""
        ticket, self._whole = self._whole, None
        if ticket is None or not ticket.parts or not isinstance(self.engine, NativeEngine):
            return
        number, first = max(ticket.parts.items(), key=lambda part: part[1])
        if taken := self.engine.withdraw(number):
            ticket.handed -= taken
            ticket.running -= taken
            if ticket.handed == first:  # none of it had started
                self._forget(ticket, number)
            self._waiting.insert(0, ticket)

    def _hand(self, ticket: Ticket, most: int) -> int:
        """Gives the engine up to so many of a ticket's traces; how many."""
        first = ticket.handed
        count = min(most, ticket.params.n - first)
        params = dataclasses.replace(ticket.params, n=count, seed=ticket.params.seed + first)
        if isinstance(self.engine, NativeEngine):
            number = self.engine.add(ticket.prompt, params, listen=ticket.listen)
            if ticket.listen:
                self._listening[number] = ticket
        else:
            number = self.engine.add(ticket.prompt, params)
        ticket.handed += count
        ticket.running += count
        ticket.parts[number] = first
        self._parts[number] = ticket
        if ticket.spans is not None:
            ticket.spans.handed(first)
        if ticket.handed == ticket.params.n:
            self._waiting.remove(ticket)
        return count

    def _step(self) -> None:
        started = time.perf_counter()
        traces = self.engine.step() if isinstance(self.engine, NativeEngine) else self.engine.step(WAIT_S)
        self.step_seconds += time.perf_counter() - started
        ended: dict[Ticket, list[Trace]] = {}
        for trace in traces:
            number = trace.prompt_index
            if (owner := self._parts.get(number)) is not None:
                ended.setdefault(owner, []).append(_renumbered(trace, owner.parts[number]))
        due = time.monotonic() >= self._due
        drawn = self._drawn(ended, due) if self._listening else {}
        for ticket in [*drawn, *(one for one in ended if one not in drawn)]:
            self._hand_out(ticket, drawn.get(ticket, ()), ended.get(ticket, ()))
        if due and drawn:
            self._due = time.monotonic() + self._window.seconds
            for loop in [*self._told]:
                self.tell(loop, self._window.look, time.thread_time())
        self._flush()
        self._settle([ticket.sink for ticket in ended])

    def _drawn(self, ended: Collection[Ticket], due: bool) -> dict[Ticket, list[Drawn]]:
        """New tokens of tickets that listen: all of them where a window is over, else the first ones of a ticket, and
        those of a trace that ended."""
        assert isinstance(self.engine, NativeEngine)
        whole = [number for number, ticket in self._listening.items() if due or not ticket.heard]
        new = self.engine.drawn(whole) if whole else {}
        if not due and (others := [number for number, ticket in self._listening.items() if ticket in ended]):
            new = {**self.engine.drawn(others, of_ended=True), **new}
        found: dict[Ticket, list[Drawn]] = {}
        for number in sorted(new):
            ticket = self._listening[number]
            if first := ticket.parts[number]:
                new[number] = [one._replace(sample_index=first + one.sample_index) for one in new[number]]
            found.setdefault(ticket, []).extend(new[number])
            ticket.heard = True
        return found

    def _hand_out(self, ticket: Ticket, drawn: Sequence[Drawn], traces: Sequence[Trace]) -> None:
        self.tokens += sum(trace.num_tokens for trace in traces)
        ticket.running -= len(traces)
        ticket.ended.update(trace.sample_index for trace in traces)
        ticket.sink.take(drawn, traces)
        ticket.left -= len(traces)  # after its sink has them: who sees that nothing is left has everything
        if traces and ticket.spans is not None:
            ticket.spans.told(traces)
        if not ticket.running:
            for number in list(ticket.parts):
                self._forget(ticket, number)

    def _settle(self, sinks: Sequence[Sink]) -> None:
        deadline = time.monotonic() + SETTLE_S
        while any(not sink.settled for sink in sinks) and time.monotonic() < deadline:
            with self._cond:
                self._cond.wait_for(
                    lambda: bool(self._commands) or all(sink.settled for sink in sinks),
                    max(0.0, deadline - time.monotonic()),
                )
            self._commands_run()

    def _forget(self, ticket: Ticket, number: int) -> None:
        ticket.parts.pop(number, None)
        self._parts.pop(number, None)
        self._listening.pop(number, None)

    def _flush(self) -> None:
        while self._told:
            loop, calls = self._told.popitem()
            with contextlib.suppress(RuntimeError):  # the loop has been closed, and nobody listens
                loop.call_soon_threadsafe(_call_all, calls)

    def _fail(self, error: BaseException) -> None:
        """The engine raised: whoever waits for it is told, and the next request finds it empty."""
        tickets = {*self._parts.values(), *self._waiting}
        for number in list(self._parts):
            self.engine.cancel(number)
        self._waiting, self._parts, self._listening = [], {}, {}
        for ticket in tickets:
            ticket.parts, ticket.running, ticket.handed = {}, 0, ticket.params.n
            ticket.sink.fail(error)
            ticket.left = 0
            if ticket.spans is not None:
                ticket.spans.told(())
        self._flush()

    def _close(self) -> None:
        self._closed = True
        self._fail(RuntimeError(CLOSING))


def _call_all(calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    for function, arguments in calls:
        function(*arguments)


def _renumbered(trace: Trace, first: int) -> Trace:
    trace.prompt_index, trace.sample_index = 0, trace.sample_index + first
    return trace
