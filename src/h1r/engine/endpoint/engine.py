"""Chat completions of any OpenAI-compatible API as an engine: messages in, texts out, over the one HTTP client
(`common/http.py`), which balances servers, waits where they ask for it and tries again.

One request is one trace. As many as `max_sequences` are on their way or not yet taken by the caller, so that whoever
keeps each trace before asking for the next loses no more than these to a kill. A trace has no tokens but their number
(`Trace.usage`), so neither log-probabilities nor confidences.

Left out: token ids, hence prompts without messages, conversations with an environment, RL, DeepConf; streamed replies.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from h1r.common.finish_reasons import BROKEN, finish_reason
from h1r.common.http import EndpointError, Endpoints, RefusedError, Reply
from h1r.common.progress import note
from h1r.common.prose import counted
from h1r.common.servers import api_key
from h1r.config import EngineSection
from h1r.engine.endpoint.limits import Limits
from h1r.engine.protocol import ChatPrompt, Prompt, Running, SamplingParams
from h1r.engine.requests import NO_STREAM, ONE_STREAM, one_per_prompt
from h1r.engine.streaming import LOOK_SECONDS
from h1r.errors import UserError
from h1r.records import FinishReason, Trace

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
HOPELESS = 16
"""So many failures before the first answer, and the rest is not asked."""
ONLY_BENCHMARKS = (
    'engine.kind = "endpoint" answers the problems of `h1r eval` alone: a chat API takes no token ids and gives no '
    "log-probabilities, which RL, DeepConf, conversations with an environment and curation by the engine need"
)
_SEEDS = 1 << 31
"""Servers take seeds of 32 bits, and some no larger ones."""


@dataclass(eq=False, slots=True)
class _Live:
    """A request that was sent and whose trace the caller has not taken."""

    index: int
    sample: int
    params: SamplingParams
    future: Future[Trace] | None = None
    cancelled: bool = False
    room: int | None = None
    """Tokens that the answer may have, where these are fewer than were asked for."""


class EndpointEngine:
    """The model `section.endpoint.model` at `section.addresses`. Raises `UserError` for a key that is not set, or is
    refused, and for a model that is not named. Belongs to one thread; `close` ends its connections."""

    def __init__(self, section: EngineSection) -> None:
        self.section = section
        own = section.endpoint
        self._endpoints = Endpoints(
            section.addresses,
            own.model or "unnamed",
            api_key(section.key_variable),
            concurrency=section.max_sequences,
            timeout_s=own.timeout_s,
            attempts=own.attempts,
            max_wait_s=max(own.patience_s, 30.0),
            patience_s=own.patience_s,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="h1r-endpoint", daemon=True)
        self._thread.start()
        self._live: set[_Live] | None = None
        self._ended: queue.SimpleQueue[_Live] = queue.SimpleQueue()
        self._asked: list[tuple[ChatPrompt, SamplingParams]] = []
        self._place = 0, 0
        """Which prompt, and which of its samples, is sent next."""
        self._cancelled: set[int] = set()
        self._look: Callable[[], None] | None = None
        self._answered, self._failed = False, 0
        try:
            listed = {str(one.get("id")): one for one in self._run(self._endpoints.models()).result()}
            if own.model is None and len(listed) != 1:
                raise UserError(
                    f"{section.addresses[0]} lists {counted(len(listed), 'model')}; name one by engine.endpoint.model"
                )
            self.model = own.model or next(iter(listed))
        except BaseException:
            self.close()
            raise
        if why := self._endpoints.unlisted:
            note(
                f"{section.addresses[0]} lists no models ({why}); asked all the same: check the address, Ctrl-C ends it"
            )
        self._endpoints.model = self.model
        self._limits = Limits(listed.get(self.model, {}))
        root = listed.get(self.model, {}).get("root")
        self.answers_of = {"address": section.answers_of, **({"root": root} if root else {})}
        """Whose answers these are: two models may have one name. root: the weights' place, where a server tells it."""

    def close(self) -> None:
        """Ends requests and connections."""
        self._run(self._endpoints.close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """See `Engine.generate`."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """See `Engine.stream`; prompts are `ChatPrompt`s. `UserError` where a person has to mend something (the key,
        the account's credit, the name of the model), or nothing is answered at all: after the traces of what was on
        its way."""
        each = one_per_prompt(prompts, params)
        if self._live is not None:
            raise RuntimeError(ONE_STREAM)
        self._live, self._ended = set(), queue.SimpleQueue()
        self._asked, self._place, self._cancelled = [], (0, 0), set()
        stopped: UserError | None = None
        try:
            for prompt, one in zip(prompts, each, strict=True):
                self.add(prompt, one)
            while True:
                while stopped is None and len(self._live) < self.section.max_sequences:
                    if not self._start_next():
                        break
                if not self._live:
                    break
                if (ended := self._next()) is None:
                    continue
                try:
                    trace = self._taken(ended)
                except UserError as error:
                    stopped = stopped or error
                else:
                    if trace is not None:
                        yield trace
                self._live.discard(ended)
            if stopped is not None:
                raise stopped
        finally:
            left, self._live = self._live, None
            for live in left:
                if live.future is not None:
                    live.future.cancel()

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """See `Engine.add`. `UserError` for what a chat API cannot be asked."""
        if self._live is None:
            raise RuntimeError(NO_STREAM)
        if not isinstance(prompt, ChatPrompt) or not prompt.messages:
            raise UserError(ONLY_BENCHMARKS)
        if params.confidence_threshold is not None or params.loop is not None or params.stop_token_ids:
            raise UserError(ONLY_BENCHMARKS)
        self._asked.append((prompt, params))
        return len(self._asked) - 1

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. What an API has written so far it does not say."""
        self._cancelled.add(prompt_index)
        for live in self._live or ():
            if live.index == prompt_index and live.future is not None:
                live.cancelled = True
                live.future.cancel()
        return []

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._look = look

    def progress(self) -> list[Running]:
        """See `Engine.progress`. How many tokens there are is not known before the end."""
        return [Running(live.index, live.sample, 0, None) for live in self._live or ()]

    def load_weights(self, weights: Mapping[str, torch.Tensor] | str | Path) -> None:
        """Raises `UserError`: the model is somebody else's."""
        raise UserError(ONLY_BENCHMARKS)

    def _run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _start_next(self) -> bool:
        """Sends the next request; whether there was one."""
        assert self._live is not None
        index, sample = self._place
        while index < len(self._asked) and (index in self._cancelled or sample >= self._asked[index][1].n):
            index, sample = index + 1, 0
        if index >= len(self._asked):
            self._place = index, 0
            return False
        self._place = index, sample + 1
        (prompt, params), ended = self._asked[index], self._ended
        live = _Live(index, sample, params)
        live.future = self._run(self._ask(live, prompt.messages))
        live.future.add_done_callback(lambda _: ended.put(live))
        self._live.add(live)
        return True

    def _next(self) -> _Live | None:
        """The next request that ended; None when it is time to look."""
        if self._look is not None:
            self._look()
        with suppress(queue.Empty):
            return self._ended.get(timeout=None if self._look is None else LOOK_SECONDS)
        return None

    def _taken(self, live: _Live) -> Trace | None:
        """The trace of a request; None of a cancelled one. Raises `UserError` where it is no use to go on."""
        assert live.future is not None
        if live.cancelled or live.future.cancelled():
            return None
        trace = live.future.result()
        if trace.finish_reason != "error":
            self._answered = True
        elif not self._answered:
            self._failed += 1
            if self._failed >= HOPELESS:
                raise UserError(
                    f"the first {counted(self._failed, 'request')} failed, the last since {trace.error}; mend "
                    f"the recipe (a key "
                    "that the API does not know can be named in engine.endpoint.leave_out) or start the server, then "
                    "run the same command again"
                )
        return trace

    async def _ask(self, live: _Live, messages: Sequence[dict[str, str]]) -> Trace:
        try:
            while True:
                try:
                    replies = await self._endpoints.choices(messages, **self._parameters(live))
                except RefusedError as error:
                    if not self._limits.learn(live.index, error.said):
                        raise
                else:
                    if (prompt_tokens := replies[0].usage.prompt) is not None:
                        self._limits.prompt_tokens[live.index] = prompt_tokens
                    return _trace(live, replies[0])
        except (EndpointError, ValueError) as error:
            return _failed(live, str(error))

    def _parameters(self, live: _Live) -> dict[str, Any]:
        """What a request has besides model and messages. `ValueError` where there is no room for an answer."""
        params, own = live.params, self.section.endpoint
        allowed = self._limits.max_tokens(live.index, params.max_tokens)
        says_so = self._limits.key not in {*own.leave_out, *own.parameters}
        live.room = allowed if allowed < params.max_tokens and says_so else None
        found: dict[str, Any] = {
            "temperature": params.temperature,
            self._limits.key: allowed,
            "seed": (params.seed + live.sample) % _SEEDS,
        }
        optional = {"top_p": (params.top_p, 1), "top_k": (params.top_k, 0), "min_p": (params.min_p, 0)}
        found |= {key: value for key, (value, default) in optional.items() if value != default}
        if params.stop:
            found["stop"] = list(params.stop)
        return {key: value for key, value in found.items() if key not in own.leave_out} | own.parameters


def _trace(live: _Live, reply: Reply) -> Trace:
    said = finish_reason(reply.finish_reason or "stop")
    if said in BROKEN:
        return _failed(live, f"the server ended the answer with {said!r}")
    reason: FinishReason = "length" if said == "length" else "stop"
    usage = reply.usage
    counts = {
        "prompt_tokens": usage.prompt, "completion_tokens": usage.completion,
        "reasoning_tokens": usage.reasoning, "cached_tokens": usage.cached,
    }  # fmt: skip
    trace = _empty(live, reason)
    trace.text, trace.usage = reply.whole, {key: value for key, value in counts.items() if value is not None}
    return trace


def _failed(live: _Live, why: str) -> Trace:
    trace = _empty(live, "error")
    trace.error = why
    return trace


def _empty(live: _Live, reason: FinishReason) -> Trace:
    seed = live.params.seed + live.sample
    return Trace(live.index, live.sample, [], "", [], [], [], reason, seed=seed, room=live.room)
