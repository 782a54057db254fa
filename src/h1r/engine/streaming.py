"""What the engines over vLLM share (`vllm/` runs it, `server/` asks a server): requests are refused
by the same rules, and one loop turns a stream of theirs into the protocol's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.engine.requests import NO_LOOPS, NO_STREAM, ONE_STREAM, ONE_TOP_K, Rooms, failed, one_per_prompt, refusal
from h1r.records import Trace

LOOK_SECONDS = 0.1
"""Longest time between two calls of `look`, where the engine waits for somebody else."""


class TraceStream(Protocol):
    """One `stream` call in progress."""

    @property
    def busy(self) -> bool:
        """Whether a trace has not been handed out yet."""
        ...

    def submit(self, index: int, prompt: list[int], params: SamplingParams, ends: list[int]) -> None:
        """Starts the traces of one prompt. ends: token ids that end them."""
        ...

    def step(self, wait: float | None) -> list[Trace]:
        """Traces that ended since the last call; it may wait for one, at most `wait` seconds (None: until it ends)."""
        ...

    def cancel(self, prompt_index: int) -> list[Trace]:
        """Ends the traces of one prompt; those that had begun to answer are returned as they stand."""
        ...

    def progress(self) -> list[Running]:
        """The traces that have begun and were not handed out yet."""
        ...

    def close(self) -> None:
        """Ends whatever still runs."""
        ...


class StreamingEngine(ABC):
    """`Engine` but for `load_weights`, over a `TraceStream`.

    tokenizer: as in `NativeEngine`. eos_token_ids: what ends a trace. positions: longest prompt and answer together.
    """

    def __init__(self, tokenizer: Any, eos_token_ids: Sequence[int], vocab_size: int, positions: int) -> None:
        self.tokenizer = tokenizer
        self.eos_token_ids = tuple(eos_token_ids)
        self.vocab_size = vocab_size
        self.max_model_len = positions
        self._stream: TraceStream | None = None
        self._count = 0
        self._confidence_top_k: int | None = None
        self._rooms = Rooms()
        self._refused: list[Trace] = []
        """Traces of requests that cannot be met, until the stream hands them out."""
        self._look: Callable[[], None] | None = None

    @abstractmethod
    def _open(self) -> TraceStream:
        """A stream of its own for one call."""

    def _cannot(self, params: SamplingParams) -> str | None:
        """Why this engine in particular cannot meet these parameters."""
        return None

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The same traces, each as soon as it ends. Raises `ValueError` when params do not match prompts in number, or
        differ in `confidence_top_k`, `RuntimeError` while another stream of this engine is in progress. A request that
        cannot be met gives traces that say why (`Trace.error`)."""
        each = one_per_prompt(prompts, params)
        if len({one.confidence_top_k for one in each}) > 1:
            raise ValueError(ONE_TOP_K)
        if self._stream is not None:
            raise RuntimeError(ONE_STREAM)
        stream = self._stream = self._open()
        self._restart()
        try:
            for prompt, one in zip(prompts, each, strict=True):
                self.add(prompt, one)
            while stream.busy or self._refused:
                refused, self._refused = self._refused, []
                yield from refused
                if stream.busy:
                    yield from self._told(stream.step(None if self._look is None else LOOK_SECONDS))
                if self._look is not None:
                    self._look()
        finally:
            self._stream = None
            stream.close()

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """See `Engine.add`."""
        if self._stream is None:
            raise RuntimeError(NO_STREAM)
        if self._confidence_top_k not in (None, params.confidence_top_k):
            raise ValueError(ONE_TOP_K)
        self._confidence_top_k = params.confidence_top_k
        index, self._count = self._count, self._count + 1
        params = self._rooms.fitted(index, prompt, params, self.max_model_len)
        if why := self._refusal(prompt, params):
            self._refused += failed(index, params, why)
        else:
            self._stream.submit(index, [int(token) for token in prompt], params, self._ends(params))
        return index

    def begin(self) -> None:
        """Opens a stream of requests that come and go, by `add` and `step`; until `end`."""
        if self._stream is not None:
            raise RuntimeError(ONE_STREAM)
        self._stream = self._open()
        self._restart()

    @property
    def busy(self) -> bool:
        """Whether a trace of the stream has not been handed out yet."""
        return bool(self._refused) or (self._stream is not None and self._stream.busy)

    def step(self, wait: float) -> list[Trace]:
        """Traces that ended since the last step; waits for one, at most so many seconds. For streams of `begin`."""
        if self._stream is None:
            raise RuntimeError(NO_STREAM)
        refused, self._refused = self._refused, []
        return refused + (self._told(self._stream.step(0.0 if refused else wait)) if self._stream.busy else [])

    def end(self) -> None:
        """Ends the stream of `begin`, with whatever still runs."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Without a stream in progress there is nothing to cancel."""
        return self._told(self._stream.cancel(prompt_index)) if self._stream is not None else []

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._look = look

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        return self._stream.progress() if self._stream is not None else []

    def _restart(self) -> None:
        self._count, self._refused, self._confidence_top_k = 0, [], None
        self._rooms.clear()

    def _told(self, traces: list[Trace]) -> list[Trace]:
        self._rooms.tell(traces)
        return traces

    def _refusal(self, prompt: Prompt, params: SamplingParams) -> str | None:
        if why := refusal(prompt, params, self.tokenizer, self.vocab_size, self.max_model_len):
            return why
        if why := self._cannot(params):
            return why
        if params.confidence_threshold is not None and not self._ends(params):
            return "confidence_threshold needs an end token, which vLLM is made to end the trace with"
        if params.loop is not None:
            return NO_LOOPS
        return None

    def _ends(self, params: SamplingParams) -> list[int]:
        return [t for t in (*self.eos_token_ids, *params.stop_token_ids) if t < self.vocab_size]
