"""The client of a running `vllm serve`: the protocol of `protocol.py` over its completions API, token ids both ways.

    VLLM_USE_V2_MODEL_RUNNER=0 vllm serve CHECKPOINT --host 127.0.0.1 \
        --logits-processors h1r.engine.vllm_worker:SeededSampler

One request is one trace, read token by token, so that stop strings, cancelling and progress work while it runs; at most
`max_sequences` run at a time. What a server offers is asked for at the start:

* With `SeededSampler` tokens are drawn by `engine/sampling.py`: the same seeds give the tokens of the other engines.
  Without it vLLM samples, with seeds of its own that repeat on one server.
* With the DeepConf plugin (there when this package is installed beside the server) traces stop early.

Left out: `load_weights`, which a server does not take; log-probabilities under the temperature (`sampling_logprobs` are
not a number but at temperature 0 and 1), so no RL; `confidence_top_k` beyond the server's `--max-logprobs` (20).
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from h1r.config import EngineSection
from h1r.engine.protocol import Prompt, Running, SamplingParams, one_per_prompt
from h1r.engine.sampling import stream_key
from h1r.engine.server_sent import Refused, Request, get_json
from h1r.errors import UserError
from h1r.model.checkpoint import read_config
from h1r.records import FinishReason, Trace

if TYPE_CHECKING:
    from torch import Tensor

_TOLERANCE = 1e-5
"""Nats: the server's fp32 mean and the one taken here of what it printed may differ by this much at a threshold."""


@dataclass(eq=False)
class _Live:
    """One trace, from its submission on. Its lists grow in a thread of its own."""

    index: int
    sample: int
    prompt: list[int]
    params: SamplingParams
    ends: list[int]
    followers: list[_Live] = field(default_factory=list)
    """Traces of the same prompt that start at this one's first token, when its prefill can be shared."""
    request: Request | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    cancelled: bool = False
    error: str | None = None
    reason: FinishReason = "length"


class VLLMServer:
    """Generates with the server at `url` ("http://127.0.0.1:8000").

    tokenizer: as in `NativeEngine`. eos_token_ids, vocab_size: None takes them from the served checkpoint where its
        directory can be read here. section: `max_sequences` requests at a time.

    Raises `UserError` when no server answers, or it does not say what is needed.
    """

    knows_sampling_logprobs = False
    """At temperatures other than 0 and 1."""

    def __init__(
        self,
        url: str,
        tokenizer: Any = None,
        section: EngineSection | None = None,
        eos_token_ids: Sequence[int] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.tokenizer = tokenizer
        self.section = section or EngineSection()
        try:
            served = get_json(f"{self.url}/v1/models")["data"][0]
            self.model, self.max_model_len = str(served["id"]), int(served["max_model_len"])
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"no vLLM server answers at {self.url} ({error}); start one with `vllm serve`") from None
        self.root = str(served.get("root", ""))
        """The checkpoint it serves, as it was named when it was started."""
        root = Path(self.root)
        config = read_config(root) if (root / "config.json").exists() else None
        if config is None and (eos_token_ids is None or vocab_size is None):
            raise UserError(f"{self.url} serves {root}, which is not here; give eos_token_ids and vocab_size")
        self.eos_token_ids = tuple(
            eos_token_ids if eos_token_ids is not None else config.eos_token_ids if config else ()
        )
        self.vocab_size = vocab_size or (config.vocab_size if config else 0)
        self.seeded = self._refuses({"h1r_key": "none"})
        """Whether the server draws with our sampler."""
        self.stops_early = self._refuses({"deepconf_threshold": "none"})
        self._stream: _Stream | None = None
        self._look: Callable[[], None] | None = None

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The same traces, each as soon as it ends. Raises `ValueError` when params do not match prompts in number, or
        differ in `confidence_top_k`."""
        each = one_per_prompt(prompts, params)
        if len({one.confidence_top_k for one in each}) > 1:
            raise ValueError("confidence_top_k must be the same for all requests of one call")
        stream = self._stream = _Stream(self)
        try:
            for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
                if why := self._refusal(prompt, one):
                    for sample in range(one.n):
                        seed = one.seed + sample
                        yield Trace(index, sample, [], "", [], [], [], "error", seed=seed, error=why)
                else:
                    stream.submit(index, [int(token) for token in prompt], one, self._ends(one))
            while stream.busy:
                yield from stream.next(self._look)
        finally:
            self._stream = None
            stream.close()

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Without a stream in progress there is nothing to cancel."""
        return self._stream.cancel(prompt_index) if self._stream is not None else []

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`: called ten times a second."""
        self._look = look

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        return self._stream.progress() if self._stream is not None else []

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Refused: raises `UserError`."""
        raise UserError(
            f"the server at {self.url} takes no weights from here; start it on the new checkpoint, or let "
            '[engine] kind = "vllm" run vLLM itself'
        )

    def body(self, live: _Live) -> dict[str, Any]:
        """The request of one trace."""
        params, extra = live.params, dict[str, Any]()
        body: dict[str, Any] = {
            "model": self.model, "prompt": live.prompt, "max_tokens": params.max_tokens, "stream": True,
            "logprobs": params.confidence_top_k, "return_token_ids": True, "return_tokens_as_token_ids": True,
            "stop_token_ids": live.ends, "ignore_eos": True, "skip_special_tokens": False,
        }  # fmt: skip
        key = stream_key(params.seed, live.sample, live.prompt)
        if self.seeded:
            own = {"key": str(key), "temperature": params.temperature, "top_k": params.top_k}
            own |= {"top_p": params.top_p, "min_p": params.min_p}
            extra |= {f"h1r_{name}": value for name, value in own.items()}
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

    def _refuses(self, extra: dict[str, Any]) -> bool:
        """Whether a processor of the server knows these arguments, which cannot work. Unknown ones are ignored."""
        body = {"model": self.model, "prompt": [0], "max_tokens": 1, "temperature": 0.0, "vllm_xargs": extra}
        try:
            get_json(f"{self.url}/v1/completions", body)
        except Refused as refused:
            return next(iter(extra)) in str(refused)
        except (OSError, ValueError) as error:
            raise UserError(f"the server at {self.url} does not answer completions ({error})") from None
        return False

    def _refusal(self, prompt: Prompt, params: SamplingParams) -> str | None:
        if len(prompt) == 0:
            return "the prompt is empty"
        if not 0 <= min(prompt) <= max(prompt) < self.vocab_size:
            return f"the prompt holds token ids outside the vocabulary of {self.vocab_size}"
        if len(prompt) + params.max_tokens > self.max_model_len:
            return (
                f"prompt ({len(prompt)}) and max_tokens ({params.max_tokens}) exceed the server's "
                f"{self.max_model_len} positions"
            )
        if params.stop and self.tokenizer is None:
            return "stop strings need an engine with a tokenizer"
        if params.confidence_threshold is not None and not self.stops_early:
            return "confidence_threshold needs a server that has this package installed, for its DeepConf plugin"
        if params.confidence_threshold is not None and not self._ends(params):
            return "confidence_threshold needs an end token, which vLLM is made to end the trace with"
        return None

    def _ends(self, params: SamplingParams) -> list[int]:
        return [t for t in (*self.eos_token_ids, *params.stop_token_ids) if t < self.vocab_size]


class _Stream:
    """One `stream` call: a pool of threads reads the traces, and the caller takes those that ended."""

    def __init__(self, engine: VLLMServer) -> None:
        self.engine = engine
        self.pool = ThreadPoolExecutor(engine.section.max_sequences, thread_name_prefix="vllm-server")
        self.ended: queue.SimpleQueue[_Live] = queue.SimpleQueue()
        self.live: list[_Live] = []
        self.lock = threading.Lock()

    @property
    def busy(self) -> bool:
        return bool(self.live)

    def submit(self, index: int, prompt: list[int], params: SamplingParams, ends: list[int]) -> None:
        traces = [_Live(index, sample, prompt, params, ends) for sample in range(params.n)]
        self.live += traces
        traces[0].followers = traces[1:]
        self.pool.submit(self._run, traces[0])

    def next(self, look: Callable[[], None] | None) -> list[Trace]:
        """The next trace that ended; empty when one that ended was cancelled before, or after a call of `look`."""
        try:
            live = self.ended.get(timeout=None if look is None else 0.1)
        except queue.Empty:
            if look is not None:
                look()
            return []
        if live not in self.live:
            return []
        self.live.remove(live)
        return [self._trace(live)]

    def cancel(self, prompt_index: int) -> list[Trace]:
        found = [live for live in self.live if live.index == prompt_index]
        self.live = [live for live in self.live if live.index != prompt_index]
        self._stop(found)
        return [self._trace(live, cancelled=True) for live in found if live.ids]

    def progress(self) -> list[Running]:
        running = []
        for live in self.live:
            last = live.confidences[-live.params.confidence_window :]
            if live.request is not None:
                mean = sum(last) / len(last) if last else None
                running.append(Running(live.index, live.sample, len(live.ids), mean))
        return running

    def close(self) -> None:
        self._stop(self.live)
        self.pool.shutdown(cancel_futures=True)

    def _stop(self, traces: Sequence[_Live]) -> None:
        """Ends their connections, at which the server ends their requests."""
        with self.lock:
            for live in traces:
                live.cancelled = True
                if live.request is not None:
                    live.request.close()

    def _run(self, live: _Live) -> None:
        """Reads one trace to its end. Whatever goes wrong is this trace's error alone."""
        try:
            with self.lock:
                if not live.cancelled:
                    live.request = Request(f"{self.engine.url}/v1/completions")
            if live.request is not None:
                for event in live.request.events(self.engine.body(live)):
                    if self._take(live, event):
                        break
        except (Refused, OSError, ValueError, KeyError, TypeError) as error:
            # A read that `_stop` ended fails, too.
            if not live.cancelled:
                live.error = f"the server at {self.engine.url} failed: {error or type(error).__name__}"
        finally:
            if live.request is not None:
                live.request.close()
            self._release(live)
            self.ended.put(live)

    def _take(self, live: _Live, event: Any) -> bool:
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
                if live.params.stop and self._holds_stop_string(live):
                    live.reason = "stop"
                    return True
            if live.ids:
                self._release(live)
            if choice.get("finish_reason"):
                live.reason = "length" if choice["finish_reason"] == "length" else "stop"
        return False

    def _release(self, live: _Live) -> None:
        with self.lock:
            followers, live.followers = live.followers, []
        for follower in followers:
            if not follower.cancelled:
                try:
                    self.pool.submit(self._run, follower)
                except RuntimeError:  # the pool was closed meanwhile
                    return

    def _holds_stop_string(self, live: _Live) -> bool:
        # A stop string of c characters spans at most the last 4 c byte-level tokens (UTF-8).
        reach = 4 * max(len(stop) for stop in live.params.stop)
        tail = self.engine.tokenizer.decode(live.ids[-reach:])
        return any(stop in tail for stop in live.params.stop)

    def _trace(self, live: _Live, cancelled: bool = False) -> Trace:
        # Its thread may be adding a token of a cancelled trace, whose id comes last.
        n, reason = len(live.ids), live.reason
        low = self._low(live, n)
        if cancelled:
            reason = "cancelled"
        elif low is not None and live.ids[low - 1] not in live.ends:
            n, reason = low, "confidence"
        ids, logprobs = live.ids[:n], live.logprobs[:n]
        exact = live.params.temperature in (0, 1)
        return Trace(
            prompt_index=live.index,
            sample_index=live.sample,
            token_ids=ids,
            text=self._text(ids, live),
            logprobs=logprobs,
            sampling_logprobs=logprobs[:] if exact else [math.nan] * n,
            confidences=live.confidences[:n],
            finish_reason="error" if live.error and not cancelled else reason,
            seed=live.params.seed + live.sample,
            error=None if cancelled else live.error,
        )

    def _low(self, live: _Live, n: int) -> int | None:
        """After how many tokens the threshold was first missed; the token after them is the end that was forced."""
        params = live.params
        if params.confidence_threshold is None or not n:
            return None
        for count in (n - 1, n):
            window = live.confidences[max(0, count - params.confidence_window) : count]
            low = len(window) == params.confidence_window and (
                sum(window) / len(window) < params.confidence_threshold + _TOLERANCE
            )
            if low and (count == n or live.ids[-1] == live.ends[0]):
                return count
        return None

    def _text(self, ids: list[int], live: _Live) -> str:
        if self.engine.tokenizer is None:
            return ""
        ended = bool(ids) and ids[-1] in live.ends
        text: str = self.engine.tokenizer.decode(ids[:-1] if ended else ids)
        cuts = [at for stop in live.params.stop if (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text
