"""One `stream` call to a vLLM server: a thread reads each trace, and the caller takes those that ended."""

from __future__ import annotations

import math
import queue
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from h1r.common.servers import Server, Servers, failure_of
from h1r.config import EngineSection
from h1r.engine.connections import hang_up
from h1r.engine.protocol import Running, SamplingParams, is_doubtful
from h1r.engine.sampling import stream_key
from h1r.engine.server.events import UNREADABLE, Refused, ServerRequest
from h1r.engine.stop_strings import holds_stop_string, text_of
from h1r.records import FinishReason, Trace

_TOLERANCE = 1e-5
"""Nats: the server's fp32 mean and the one taken here of what it printed may differ by this much at a threshold."""

_LONGEST_PAUSE = 30.0
"""Seconds that a request waits for a server that asked not to be asked, where there is no other."""


@dataclass(eq=False)
class Live:
    """One trace, from its submission on. Its lists grow in a thread of its own."""

    index: int
    sample: int
    prompt: list[int]
    params: SamplingParams
    ends: list[int]
    followers: list[Live] = field(default_factory=list)
    """Traces of the same prompt that start at this one's first token, when its prefill can be shared."""
    recorded: bool = False
    """Whether the server keeps its log-probabilities under the temperature, under `name`, until they are fetched."""
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    server: Server | None = None
    """The one that answers; of a follower at first the leader's."""
    request: ServerRequest | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    sampling_logprobs: list[float] = field(default_factory=list)
    """As fetched: of all `ids` and perhaps more, or none."""
    cancelled: bool = False
    error: str | None = None
    reason: FinishReason = "length"
    by_string: bool = False


class Client(Protocol):
    """What a stream asks of its servers; see `VLLMServer`."""

    servers: Servers
    key: str | None
    model: str
    section: EngineSection
    tokenizer: Any
    seeded: bool
    knows_sampling_logprobs: bool

    def call(self, method: str, *arguments: Any, url: str | None = None) -> list[Any]:
        """The answers of the workers of a server to a method of `WorkerExtension`. Raises `Refused`, `OSError`."""
        ...


class Stream:
    """One `stream` call: a pool of threads reads the traces, and the caller takes those that ended."""

    def __init__(self, engine: Client) -> None:
        self.engine = engine
        self.pool = ThreadPoolExecutor(engine.section.max_sequences, thread_name_prefix="vllm-server")
        self.ended: queue.SimpleQueue[Live] = queue.SimpleQueue()
        self.live: list[Live] = []
        self.lock = threading.Lock()
        self.closed = threading.Event()

    @property
    def busy(self) -> bool:
        return bool(self.live)

    def submit(self, index: int, prompt: list[int], params: SamplingParams, ends: list[int]) -> None:
        # At temperature 0 and 1 they are those of the model itself, which every server tells.
        recorded = self.engine.knows_sampling_logprobs and params.temperature not in (0, 1)
        traces = [Live(index, sample, prompt, params, ends, recorded=recorded) for sample in range(params.n)]
        self.live += traces
        traces[0].followers = traces[1:]
        self.pool.submit(self._run, traces[0])

    def step(self, wait: float | None) -> list[Trace]:
        """The next trace that ended; empty when there was none in time, or it was cancelled before."""
        try:
            live = self.ended.get(timeout=wait)
        except queue.Empty:
            return []
        if live not in self.live:
            return []
        self.live.remove(live)
        return [self._trace(live)]

    def cancel(self, prompt_index: int) -> list[Trace]:
        found = [live for live in self.live if live.index == prompt_index]
        self.live = [live for live in self.live if live.index != prompt_index]
        hang_up(found, self.lock)
        with suppress(Refused, OSError, *UNREADABLE):
            self._fetch(found)
        return [self._trace(live, cancelled=True) for live in found if live.ids]

    def progress(self) -> list[Running]:
        running = []
        for live in self.live:
            if live.request is not None:
                n = len(live.ids)
                last = live.confidences[max(0, n - live.params.confidence_window) : n]
                running.append(Running(live.index, live.sample, n, sum(last) / len(last) if last else None))
        return running

    def written(self, prompt_index: int, sample_index: int, first: int) -> list[int]:
        for live in self.live:
            if (live.index, live.sample) == (prompt_index, sample_index):
                ids = live.ids[first:]
                return ids[:-1] if ids and ids[-1] in live.ends else ids
        return []

    def close(self) -> None:
        left, self.live = self.live, []
        self.closed.set()
        hang_up(left, self.lock)
        self.pool.shutdown(cancel_futures=True)
        with suppress(Refused, OSError, *UNREADABLE):
            self._fetch(left)

    def _run(self, live: Live) -> None:
        """Reads one trace to its end. Whatever goes wrong is this trace's error alone."""
        servers = self.engine.servers
        server = live.server = servers.take(live.server)
        failed, asked_s = False, None
        try:
            if (pause := min(server.pause_s, _LONGEST_PAUSE)) > 0:
                self.closed.wait(pause)
            with self.lock:
                if not live.cancelled:
                    live.request = ServerRequest(f"{server.url}/v1/completions", key=self.engine.key)
            if live.request is not None:
                for event in live.request.events(self._body(live)):
                    if self._take(live, event):
                        break
            if not live.cancelled:
                self._fetch([live])
        except (Refused, OSError, *UNREADABLE) as error:
            # A read that `_stop` ended fails, too.
            if not live.cancelled:
                live.error = f"the server at {server.url} failed: {error or type(error).__name__}"
                failed = not isinstance(error, Refused) or failure_of(error.status) in ("passing", "limited")
                asked_s = error.asked_s if isinstance(error, Refused) else None
        finally:
            if live.request is not None:
                live.request.close()
            servers.give_back(server, failed, asked_s)
            self._release(live)
            self.ended.put(live)

    def _fetch(self, traces: Sequence[Live]) -> None:
        """Takes over what the server recorded of these traces. Raises as `VLLMServer.call`, and `ValueError` when it is
        less than the tokens that came."""
        asked = [live for live in traces if live.recorded and live.request is not None]
        for server in {live.server for live in asked if live.server is not None}:
            here = [live for live in asked if live.server is server]
            found = self.engine.call("h1r_sampling_logprobs", [live.name for live in here], url=server.url)[0]
            for live, said in zip(here, found, strict=True):
                if len(said) < len(live.ids):
                    raise ValueError("it has lost the record of this trace")
                live.sampling_logprobs = said

    def _body(self, live: Live) -> dict[str, Any]:
        """The request of one trace."""
        params, extra = live.params, dict[str, Any]()
        body: dict[str, Any] = {
            "model": self.engine.model, "prompt": live.prompt, "max_tokens": params.max_tokens, "stream": True,
            "logprobs": params.confidence_top_k, "return_token_ids": True, "return_tokens_as_token_ids": True,
            "stop_token_ids": live.ends, "ignore_eos": True, "skip_special_tokens": False,
        }  # fmt: skip
        key = stream_key(params.seed, live.sample, live.prompt)
        if self.engine.seeded:
            own = {"key": str(key), "temperature": params.temperature, "top_k": params.top_k}
            own |= {"top_p": params.top_p, "min_p": params.min_p}
            extra |= {f"h1r_{name}": value for name, value in own.items()}
            if live.recorded:
                extra["h1r_name"] = live.name
            body["temperature"] = 0.0
        else:
            body |= {"temperature": params.temperature, "top_p": params.top_p, "min_p": params.min_p}
            body |= {"top_k": params.top_k or -1}
            if params.temperature > 0:
                body["seed"] = key & (2**31 - 1)
        if params.confidence_threshold is not None:
            asks: dict[str, Any] = {"threshold": params.confidence_threshold, "window": params.confidence_window}
            asks |= {"top_k": params.confidence_top_k, "end_token_ids": live.ends[:1]}
            extra |= {f"deepconf_{name}": value for name, value in asks.items()}
        return {**body, "vllm_xargs": extra} if extra else body

    def _take(self, live: Live, event: Any) -> bool:
        """One chunk of a trace; whether it is the last that counts."""
        for choice in event["choices"]:
            said = choice.get("logprobs") or {"token_logprobs": [], "top_logprobs": []}
            for token, logprob, top in zip(
                choice.get("token_ids") or [], said["token_logprobs"], said["top_logprobs"], strict=True
            ):
                k = live.params.confidence_top_k
                if live.cancelled:
                    return True
                best = sorted(top.values(), reverse=True)[:k]
                live.logprobs.append(float(logprob))
                live.confidences.append(-sum(best) / len(best))
                live.ids.append(int(token))
                if live.params.stop and holds_stop_string(self.engine.tokenizer, live.ids, live.params.stop):
                    live.reason, live.by_string = "stop", True
                    return True
            if live.ids:
                self._release(live)
            if choice.get("finish_reason"):
                live.reason = "length" if choice["finish_reason"] == "length" else "stop"
        return False

    def _release(self, live: Live) -> None:
        with self.lock:
            followers, live.followers = live.followers, []
        for follower in followers:
            if not follower.cancelled:
                follower.server = live.server
                try:
                    self.pool.submit(self._run, follower)
                except RuntimeError:  # the pool was closed meanwhile
                    return

    def _trace(self, live: Live, cancelled: bool = False) -> Trace:
        # Its thread may be adding a token of a cancelled trace, whose id comes last.
        n, reason = len(live.ids), live.reason
        low = _low(live, n)
        if cancelled:
            reason = "cancelled"
        elif low is not None and live.ids[low - 1] not in live.ends and not (live.by_string and low == n):
            n, reason = low, "confidence"
        ids, logprobs = live.ids[:n], live.logprobs[:n]
        sampling = logprobs if live.params.temperature in (0, 1) else live.sampling_logprobs[:n]
        return Trace(
            prompt_index=live.index,
            sample_index=live.sample,
            token_ids=ids,
            text=text_of(self.engine.tokenizer, ids, bool(ids) and ids[-1] in live.ends, live.params.stop),
            logprobs=logprobs,
            sampling_logprobs=sampling[:] or [math.nan] * n,
            confidences=live.confidences[:n],
            finish_reason="error" if live.error and not cancelled else reason,
            seed=live.params.seed + live.sample,
            error=None if cancelled else live.error,
        )


def _low(live: Live, n: int) -> int | None:
    """After how many tokens the threshold was first missed; the token after them is the end that was forced."""
    threshold, window = live.params.confidence_threshold, live.params.confidence_window
    if threshold is None or not n:
        return None
    for count in (n - 1, n):
        mean = sum(live.confidences[max(0, count - window) : count]) / window
        if is_doubtful(mean, count, window, threshold + _TOLERANCE) and (count == n or live.ids[-1] == live.ends[0]):
            return count
    return None
