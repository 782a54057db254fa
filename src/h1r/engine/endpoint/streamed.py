"""Chat completions that are streamed token by token from any OpenAI-compatible servers, for requests that come and go.

One request is one trace, read by a thread of its own. What a server tells of each token decides what can be done:

* top log-probabilities: confidences, hence DeepConf. A trace whose window falls below `confidence_threshold` ends
  by closing its stream, at which servers stop generating.
* the confidence of each token (`h1r serve`): the same, and exactly what the engine there has; with the whole seed.
* a server that can end a doubtful trace itself (`h1r serve`, vLLM with our plugin) is told to, so that nothing is drawn
  after the token at which the trace is closed here. Which token that is, is decided here in any case: the server's
  threshold is lower by `_MARGIN`, more than what its sums and the ones of printed numbers can differ by.
* none: the text alone, without confidences; `confidence_threshold` is refused.

Servers of one model are balanced by the tokens that their requests may still have, passed over while they fail, and
asked in one another's place: a trace whose server dies is begun anew on another, with the same seed, and what the first
one gave is counted nowhere. Which tokens they were, servers do not say: a trace has text, confidences and their number.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from h1r.common.servers import Server, Servers, failure_of, was_cut
from h1r.engine.connections import hang_up
from h1r.engine.endpoint.thinking import Thinking
from h1r.engine.protocol import ChatPrompt, Prompt, Running, SamplingParams, is_doubtful
from h1r.engine.requests import NO_LOOPS, failed
from h1r.engine.server.events import UNKNOWN_ARGUMENT, UNREADABLE, Refused, ServerRequest, get_json
from h1r.errors import UserError
from h1r.records import FinishReason, Trace
from h1r.response.extract import THINK_OPEN

ATTEMPTS = 4
"""Tries of one trace, on as many servers."""
GIVEN_UP = 16
"""Requests that failed one after the other, of every server: traces are tried once then, so that thousands of them do
not wait for servers that are gone."""
_SEEDS = 1 << 31
_PATIENCE_S = 60.0
"""For an answer to what is asked of a server at first, which may still be loading its model."""
_MARGIN = 1e-4
"""Nats."""
_WIDEST = 8192
"""Tokens: the longest window that our plugin of vLLM takes."""
USUAL_TOKENS = 4096
"""What a request that does not say how long its answer may be counts with where servers are balanced."""
_USAGE = ("prompt_tokens", "completion_tokens", "reasoning_tokens")
_RANKS = (20, 10, 5)
"""How many of the likeliest tokens are asked for, the most that a server allows; OpenAI's limit is 20."""


@dataclass(eq=False)
class _Live:
    """One trace. What it has so far is written by its thread."""

    index: int
    sample: int
    messages: Sequence[dict[str, str]]
    params: SamplingParams
    request: ServerRequest | None = None
    cancelled: bool = False
    reason: FinishReason = "length"
    error: str | None = None
    thinking: str = ""
    answer: str = ""
    content: bytearray = field(default_factory=bytearray)
    """Of the tokens, where a server of ours tells them."""
    logprobs: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    counted: Thinking = field(default_factory=Thinking)
    pieces: int = 0
    """Of text, which count as tokens where a server states no number and breaks off."""
    usage: dict[str, int] = field(default_factory=dict)

    def begin_anew(self) -> None:
        """What a server that failed has given is forgotten."""
        self.thinking = self.answer = ""
        self.content, self.counted = bytearray(), Thinking()
        self.logprobs, self.confidences, self.pieces, self.usage = [], [], 0, {}
        self.reason, self.error = "length", None

    @property
    def weight(self) -> int:
        """In the balance of servers."""
        return min(self.params.max_tokens, USUAL_TOKENS) if self.params.fit else self.params.max_tokens

    @property
    def num_tokens(self) -> int:
        return self.usage.get("completion_tokens") or len(self.logprobs) or self.pieces


class StreamedChats:
    """The model at `urls` (with their `/v1`). Prompts are `ChatPrompt`s. extra: further keys of every request.

    Asks each server once for one token, to know what it tells. Raises `UserError` where none answers.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str | None = None,
        key: str | None = None,
        at_once: int = 64,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self.servers = Servers(urls)
        self.key, self.extra = key, extra or {}
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="h1r-chat")
        self._ended: queue.SimpleQueue[_Live] = queue.SimpleQueue()
        self._live: list[_Live] = []
        self._refused: list[Trace] = []
        self._count = 0
        self._lock = threading.Lock()
        self.listed: list[tuple[str, dict[str, Any]]] = []
        """The address of each server that answers, and the model as it lists it."""
        self.model = self._look_up(model)
        self.ours = False
        """Whether the servers tell the confidence of each token, as `h1r serve` does."""
        self.ranks = self._known_ranks()
        """How many likeliest tokens the servers tell of each token; 0: none."""
        self.stops_early = self.knows_confidences and self._know_thresholds()
        """Whether the servers can end a doubtful trace themselves."""

    @property
    def busy(self) -> bool:
        """Whether a trace has not been handed out yet."""
        return bool(self._live or self._refused)

    @property
    def positions(self) -> int | None:
        """Tokens of prompt and answer together, the fewest that a server tells; None where none does."""
        told = [one.get("max_model_len") for _, one in self.listed]
        return min((one for one in told if type(one) is int and one > 0), default=None)

    @property
    def knows_confidences(self) -> bool:
        """Whether traces have any, so that a doubtful one can be stopped."""
        return self.ours or self.ranks > 0

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        """The number of the request."""
        index, self._count = self._count, self._count + 1
        why = None
        if not isinstance(prompt, ChatPrompt) or not prompt.messages:
            why = "a chat server takes messages, and no token ids"
        elif params.confidence_threshold is not None and not self.knows_confidences:
            why = "the servers tell no log-probabilities, which confidence_threshold needs"
        elif params.loop is not None:
            why = NO_LOOPS
        if why is not None:
            self._refused += failed(index, params, why)
            return index
        assert isinstance(prompt, ChatPrompt)
        for sample in range(params.n):
            live = _Live(index, sample, prompt.messages, params)
            self._live.append(live)
            self._pool.submit(self._run, live)
        return index

    def step(self, wait: float) -> list[Trace]:
        """Traces that ended since the last step; waits for one, at most so many seconds."""
        found, self._refused = self._refused, []
        while True:
            try:
                live = self._ended.get(timeout=0.0 if found else wait) if wait or found else self._ended.get_nowait()
            except queue.Empty:
                return found
            if live in self._live:
                self._live.remove(live)
                found.append(_trace(live))

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`."""
        gone = [live for live in self._live if live.index == prompt_index]
        self._live = [live for live in self._live if live.index != prompt_index]
        hang_up(gone, self._lock)
        return [_trace(live, cancelled=True) for live in gone if live.num_tokens]

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        found = []
        for live in self._live:
            if live.request is not None:
                last = live.confidences[-live.params.confidence_window :]
                mean = sum(last) / len(last) if last else None
                found.append(Running(live.index, live.sample, live.num_tokens, mean))
        return found

    def close(self) -> None:
        """Ends every connection."""
        gone, self._live = self._live, []
        hang_up(gone, self._lock)
        self._pool.shutdown(cancel_futures=True)

    def _run(self, live: _Live) -> None:
        """Reads one trace to its end, whatever that is: somebody waits for it."""
        try:
            self._tried(live)
        except Exception as error:
            live.error = f"reading a server's stream failed ({type(error).__name__})"
            raise
        finally:
            self._ended.put(live)

    def _tried(self, live: _Live) -> None:
        """Asks for a trace, on another server where one fails."""
        tried: list[Server] = []
        for attempt in range(1, ATTEMPTS + 1):
            if live.cancelled or (attempt > 1 and all(one.failures >= GIVEN_UP for one in self.servers.all)):
                break
            if attempt > 1:
                live.begin_anew()
                if len({*tried}) == len(self.servers.all):
                    time.sleep(min(0.1 * 2**attempt, 2.0))
            tried.append(self.servers.take(weight=live.weight, tried=tried))
            passing = self._ask(live, tried[-1])
            if live.error is None or not passing:
                break

    def _ask(self, live: _Live, server: Server) -> bool:
        """One try; whether its error may pass."""
        passing, asked_s = False, None
        try:
            if server.pause_s:
                time.sleep(min(server.pause_s, 30.0))
            with self._lock:
                if live.cancelled:
                    return False
                url = f"{server.url}/chat/completions"
                live.request = ServerRequest(url, key=self.key, headers=self.servers.headers)
            for event in live.request.events(self._body(live)):
                if self._take(live, event):
                    break
        except (Refused, OSError, *UNREADABLE) as error:
            if not live.cancelled:
                live.error = f"{server.url} failed: {error or type(error).__name__}"
                passing = not isinstance(error, Refused) or failure_of(error.status) in ("passing", "limited")
                asked_s = error.asked_s if isinstance(error, Refused) else None
        finally:
            if live.request is not None:
                live.request.close()
            failed = None if live.cancelled else passing
            self.servers.give_back(server, failed, asked_s, weight=live.weight)
        return passing

    def _body(self, live: _Live) -> dict[str, Any]:
        params, seed = live.params, live.params.seed + live.sample
        body: dict[str, Any] = {
            "model": self.model, "messages": list(live.messages), "stream": True, "temperature": params.temperature,
            "top_p": params.top_p, "seed": seed if self.ours else seed % _SEEDS,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        # How long the prompt is nobody knows here: where it may leave fewer, a server that is told none gives these.
        if not params.fit or not self.positions or params.max_tokens <= self.positions // 2:
            body["max_tokens"] = params.max_tokens
        if params.stop:
            body["stop"] = list(params.stop)
        if params.top_k:
            body["top_k"] = params.top_k
        if params.min_p:
            body["min_p"] = params.min_p
        if self.knows_confidences:
            body |= {"logprobs": True, "top_logprobs": self.ranks}
        if params.confidence_threshold is not None and self.stops_early and params.confidence_window <= _WIDEST:
            body["vllm_xargs"] = {
                "deepconf_threshold": params.confidence_threshold - _MARGIN,
                "deepconf_window": params.confidence_window,
                **({} if self.ours else {"deepconf_top_k": params.confidence_top_k}),
            }
        return {**body, **self.extra}

    def _take(self, live: _Live, event: Any) -> bool:
        """One chunk; whether the trace ends here, by its confidence or because nobody waits for it."""
        if live.cancelled:
            return True
        usage = event.get("usage") or {}
        stated = {**(usage.get("completion_tokens_details") or {}), **usage}
        live.usage.update((key, n) for key in _USAGE if type(n := stated.get(key)) is int and 0 <= n < 1 << 53)
        for choice in event.get("choices") or ():
            delta = choice.get("delta") or {}
            thought, said = delta.get("reasoning_content") or delta.get("reasoning") or "", delta.get("content") or ""
            live.thinking += thought
            live.answer += said
            live.pieces += bool(thought or said)
            for token in (choice.get("logprobs") or {}).get("content") or ():
                best = sorted((float(one["logprob"]) for one in token.get("top_logprobs") or ()), reverse=True)
                live.logprobs.append(float(token["logprob"]))
                live.counted.push(_bytes_of(token))
                if self.ours:
                    live.confidences.append(float(token["confidence"]))
                    live.content += bytes(token["bytes"])
                elif best := best[: live.params.confidence_top_k]:
                    live.confidences.append(-sum(best) / len(best))
                if _is_low(live):
                    live.reason = "confidence"
                    return True
            if was_cut(choice):
                if len(self.servers.all) > 1:
                    raise OSError("it stopped in the middle of an answer")
                live.reason = "cancelled"
            elif reason := choice.get("finish_reason"):
                live.reason = "length" if reason == "length" else "stop"
        return False

    def _look_up(self, name: str | None) -> str:
        """The model of that name, or the first one that a server lists, and what each server says of it."""
        said: Exception | None = None
        for server in self.servers.all:
            try:
                models = get_json(f"{server.url}/models", timeout=_PATIENCE_S, key=self.key)["data"]
                name = name or str(models[0]["id"])
                self.listed += [(server.url, one) for one in models if one["id"] == name][:1]
            except (Refused, OSError, *UNREADABLE) as error:
                said = error
        if name is None:
            url = self.servers.all[0].url
            mend = "start it, or mend its address" if urlsplit(url).path else "give its address with /v1"
            raise UserError(f"no server answers at {url}/models ({said}); {mend}")
        return name

    def _known_ranks(self) -> int:
        """What the first server that answers tells."""
        said = None
        for server in self.servers.all:
            for ranks, self.ours in (*((ranks, False) for ranks in _RANKS), (0, True), (0, False)):
                found, said = self._probe(server, ranks)
                if found is not None:
                    return found
        raise UserError(f"no server answers at {self.servers.all[-1].url}/chat/completions ({said}); see its log")

    def _know_thresholds(self) -> bool:
        """Whether all servers that answer do."""
        found = {self._knows_threshold(server) for server in self.servers.all}
        return True in found and False not in found

    def _knows_threshold(self, server: Server) -> bool | None:
        """Whether it refuses, by its name, a threshold that is no number. Others pass it over, or refuse `vllm_xargs`
        as a whole, some with all that it holds: those name an argument that nobody knows, too. None: it does not
        answer."""
        live = _Live(0, 0, ({"role": "user", "content": "1"},), SamplingParams(max_tokens=1))
        body = {**self._body(live), "stream": False}
        del body["stream_options"]
        named = []
        for argument in ("deepconf_threshold", UNKNOWN_ARGUMENT):
            try:
                asked = {**body, "vllm_xargs": {argument: "none"}}
                get_json(f"{server.url}/chat/completions", asked, _PATIENCE_S, self.key)
                named.append(False)
            except Refused as refused:
                if failure_of(refused.status) in ("passing", "limited"):
                    return None
                named.append(argument in str(refused))
            except (OSError, *UNREADABLE):
                return None
        return named == [True, False]

    def _probe(self, server: Server, ranks: int) -> tuple[int | None, str]:
        """How many ranks come where so many are asked for; None where the request fails, or the confidences that a
        server of ours would tell do not come."""
        live = _Live(
            0, 0, ({"role": "user", "content": "1"},), SamplingParams(max_tokens=2, confidence_top_k=max(1, ranks))
        )
        self.ranks = ranks
        most, confident, body = 0, False, self._body(live)
        request = ServerRequest(f"{server.url}/chat/completions", _PATIENCE_S, self.key)
        try:
            for event in request.events(body):
                for choice in event.get("choices") or ():
                    for token in (choice.get("logprobs") or {}).get("content") or ():
                        most = max(most, len(token.get("top_logprobs") or ()))
                        confident = "confidence" in token and "bytes" in token
        except (Refused, OSError, *UNREADABLE) as error:
            return None, str(error)
        finally:
            request.close()
        if self.ours and not confident:
            return None, ""
        return (most if most > 1 else 0), ""


def _is_low(live: _Live) -> bool:
    params, n = live.params, len(live.confidences)
    if params.confidence_threshold is None or n < params.confidence_window:
        return False
    mean = sum(live.confidences[-params.confidence_window :]) / params.confidence_window
    return bool(is_doubtful(mean, n, params.confidence_window, params.confidence_threshold))


def _bytes_of(token: dict[str, Any]) -> bytes:
    given = token.get("bytes")
    return bytes(given) if isinstance(given, list) else str(token.get("token", "")).encode(errors="replace")


def _trace(live: _Live, cancelled: bool = False) -> Trace:
    text = live.answer
    if live.thinking:
        text = f"<think>\n{live.thinking}" + (f"\n</think>\n\n{text}" if text else "")
    if live.content and (cancelled or live.reason == "confidence"):
        written = live.content.decode(errors="replace")  # to the token at which it ended, and the chunk went on
        text = written if not live.thinking or THINK_OPEN in written else f"<think>\n{written}"
    broken = live.error is not None and not cancelled
    n, count = len(live.confidences), 0 if broken else live.num_tokens
    thinking = min(live.usage.get("reasoning_tokens", live.counted.tokens(text, count)), count)
    return Trace(
        live.index, live.sample, [], text, live.logprobs[:n], [], live.confidences[:n],
        "error" if broken else "cancelled" if cancelled else live.reason,
        seed=live.params.seed + live.sample, error=live.error if broken else None,
        usage={**live.usage, "completion_tokens": count, "reasoning_tokens": thinking},
    )  # fmt: skip
