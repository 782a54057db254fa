"""Tickets in one stream of an engine, which goes on where new weights come in the middle of it.

    prompt | tokens of version 3                         the stream is cut: what runs is cancelled, weights are read,
    prompt | tokens of version 3 | tokens of version 4   and each trace goes on behind the tokens that it has

What a trace has is prefilled by the new weights, as with `rl.partial_tokens` (`partial.py`): so each token's
log-probability is the one under its own version given all tokens before it, with every kind of engine, and no engine
holds a state that belongs to no weights. AReaL does the same (arXiv 2505.24298, interruptible rollouts); PipelineRL
(arXiv 2509.19128) keeps the states, which spares the prefill. No token is thrown away.

Left out: stop strings over a cut, which RL does not ask for. Loops and DeepConf's window (`rl.end_early`) begin anew
behind one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from h1r.engine.protocol import Engine, Prompt, SamplingParams
from h1r.records import Trace
from h1r.rollout.open_stream import OpenStream
from h1r.train.cached_arrays import Packed, packed
from h1r.train.partial import joined, request


@dataclass(eq=False)
class Ticket:
    """A prompt and how its traces are sampled; `future` gets them, in order."""

    prompt: list[int]
    params: SamplingParams
    future: Future[Packed] = field(default_factory=Future)
    traces: list[Trace] = field(default_factory=list)
    """Those that have ended."""


@dataclass(eq=False)
class _Request:
    """A request of the engine: traces of a ticket from number `first` on, or what `before` goes on with."""

    ticket: Ticket
    prompt: Prompt
    params: SamplingParams
    first: int = 0
    before: Trace | None = None
    ended: set[int] = field(default_factory=set)
    """Its own numbers of the traces that have ended."""
    cut: bool = False
    """Whether others ask for the rest of it."""


class Tickets:
    """version: of the weights, where traces are to say it (`Trace.versions`). cut: whether the stream is to be cut, so
    that the engine can take others; asked between steps."""

    def __init__(self, engine: Engine, tokenizer: Any, version: int | None, cut: Callable[[], bool]) -> None:
        self._engine, self._tokenizer, self._version, self._cut = engine, tokenizer, version, cut
        self._stream = OpenStream(engine)
        self._requests: list[_Request] = []
        self._cancelled: list[tuple[_Request, list[Trace]]] = []

    @property
    def wait(self) -> bool:
        """Whether there is something to `run`."""
        return self._stream.waits

    def add(self, ticket: Ticket) -> None:
        """Before or while the stream runs."""
        self._ask(_Request(ticket, ticket.prompt, ticket.params))

    def run(self) -> Iterator[None]:
        """Runs the stream until all has ended, or it is cut; stops at each trace that ended."""
        watched = self._version is not None
        if watched:
            self._engine.watch(self._look)
        try:
            for trace in self._stream:
                self._end(self._requests[trace.prompt_index], trace)
                yield
        finally:
            if watched:
                self._engine.watch(None)
        for one, traces in self._cancelled:
            begun = [trace for trace in traces if trace.token_ids]
            for trace in [trace for trace in begun if self._has_ended(one, trace)]:
                begun.remove(trace)
                self._end(one, trace)
            traces[:] = begun

    def go_on(self, version: int | None) -> None:
        """Asks for the rest of what was cut, with the weights that the engine has by now."""
        cancelled, self._cancelled = self._cancelled, []
        for one, traces in cancelled:
            one.cut = True
            self._ask_rest(one, {trace.sample_index: self._told(one, trace) for trace in traces})
        self._version = version

    def fail(self, error: BaseException) -> None:
        """Every ticket that has not ended ends with the error."""
        for one in self._requests:
            if not one.ticket.future.done():
                one.ticket.future.set_exception(error)

    def _look(self) -> None:
        if self._cut() and not self._cancelled:
            running = [at for at, one in enumerate(self._requests) if not one.cut and len(one.ended) < one.params.n]
            self._cancelled = [(self._requests[number], self._stream.cancel(number)) for number in running]

    def _has_ended(self, asked: _Request, trace: Trace) -> bool:
        """Whether there is nothing to go on with in a trace that was cancelled: vLLM may have ended it just before."""
        if trace.finish_reason != "cancelled":
            return True
        ends = {*getattr(self._engine, "eos_token_ids", ()), *asked.params.stop_token_ids}
        if trace.token_ids[-1] in ends:
            trace.finish_reason = "stop"
        elif trace.num_tokens >= asked.params.max_tokens:
            trace.finish_reason = "length"
        return trace.finish_reason != "cancelled"

    def _ask(self, asked: _Request) -> None:
        self._requests.append(asked)
        self._stream.add(asked.prompt, asked.params)

    def _ask_rest(self, cut: _Request, begun: dict[int, Trace]) -> None:
        """begun: by the request's own numbers, those of its traces that have tokens and go on; the others that are left
        start anew, together where that is all of them, so that they share a prefill."""
        ticket = cut.ticket
        for trace in begun.values():
            parts = len(trace.versions or ())
            prompt, params = request(ticket.prompt, trace, parts, ticket.params, ticket.params.max_tokens)
            self._ask(_Request(ticket, prompt, params, trace.sample_index, trace))
        left = [number for number in range(cut.params.n) if number not in cut.ended and number not in begun]
        if len(left) == cut.params.n:
            self._ask(_Request(ticket, cut.prompt, cut.params, cut.first, cut.before))
            return
        for number in left:
            alone = replace(cut.params, n=1, seed=cut.params.seed + number)
            self._ask(_Request(ticket, cut.prompt, alone, cut.first + number))

    def _told(self, asked: _Request, trace: Trace) -> Trace:
        """The trace of the ticket that a trace of the engine is, or ends with: without what RL does not read."""
        trace.logprobs, trace.confidences = [], []
        trace.sample_index += asked.first
        if self._version is not None:
            trace.versions = [[self._version, trace.num_tokens]]
        return trace if asked.before is None else joined(asked.before, trace, "", self._tokenizer)

    def _end(self, asked: _Request, trace: Trace) -> None:
        asked.ended.add(trace.sample_index)
        ticket = asked.ticket
        ticket.traces.append(self._told(asked, trace))
        if len(ticket.traces) == ticket.params.n:
            ticket.traces.sort(key=lambda one: one.sample_index)
            ticket.future.set_result(packed(ticket.traces))
