"""One `stream` call of the vLLM engine: traces go to vLLM as requests, and come back as they end.

The leading trace of a prompt: with prefix caching, vLLM stores a prompt's prefill when its first request has run it, so
one trace goes ahead and the others of the prompt are submitted at its first token.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

from vllm import SamplingParams as VLLMSamplingParams  # type: ignore[import-not-found,unused-ignore]
from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found,unused-ignore]

from h1r.engine.protocol import Running, SamplingParams
from h1r.engine.sampling import stream_key
from h1r.engine.stop_strings import holds_stop_string, text_of
from h1r.records import FinishReason, Trace

KEY = "h1r"
"""Of a request's `extra_args`; a request without it keeps vLLM's own sampling."""
_names = (f"h1r-{number}" for number in itertools.count())


@dataclass
class _Live:
    """One trace: waiting in vLLM, running, or a follower not yet submitted."""

    name: str
    index: int
    sample: int
    prompt: list[int]
    params: SamplingParams
    ends: list[int]
    followers: list[_Live] = field(default_factory=list)
    """Traces of the same prompt that start at this one's first token."""
    ids: list[int] = field(default_factory=list)
    """Tokens so far, kept only for traces with stop strings."""


@dataclass
class _Ended:
    live: _Live
    reason: FinishReason
    by_string: bool = False


class Stream:
    """core: vLLM's `LLMEngine`. shared_block: tokens of a block of its cache; None: nothing is shared."""

    def __init__(self, core: Any, tokenizer: Any, shared_block: int | None) -> None:
        self.core = core
        self.tokenizer = tokenizer
        self.shared_block = shared_block
        self.live: dict[str, _Live] = {}

    @property
    def busy(self) -> bool:
        return bool(self.live)

    def submit(self, index: int, prompt: list[int], params: SamplingParams, ends: list[int]) -> None:
        """Starts the traces of one prompt. ends: token ids that end them."""
        traces = [_Live(next(_names), index, sample, prompt, params, ends) for sample in range(params.n)]
        if self.shared_block is not None and len(prompt) > self.shared_block:
            traces[0].followers = traces[1:]
            traces = traces[:1]
        for trace in traces:
            self._start(trace)

    def step(self, wait: float | None = None) -> list[Trace]:
        """One step of vLLM; returns the traces that ended in it. It is never long, whatever `wait` allows."""
        ended: list[_Ended] = []
        for output in self.core.step():
            live = self.live.get(output.request_id)
            if live is None:
                continue
            for follower in live.followers:
                self._start(follower)
            live.followers = []
            answer = output.outputs[0]
            if live.params.stop:
                live.ids.extend(answer.token_ids)
                if holds_stop_string(self.tokenizer, live.ids, live.params.stop):
                    self.core.abort_request([live.name])
                    ended.append(_Ended(live, "stop", by_string=True))
                    continue
            if output.finished:
                ended.append(_Ended(live, "length" if answer.finish_reason == "length" else "stop"))
        return self._leave(ended)

    def cancel(self, prompt_index: int) -> list[Trace]:
        """Ends the traces of one prompt; those that had begun to answer are returned as they stand."""
        return self._cancel([live for live in self.live.values() if live.index == prompt_index])

    def progress(self) -> list[Running]:
        """Asks the workers, where the tokens of a trace stay until it ends."""
        live = list(self.live.values())
        found = self.core.collective_rpc("h1r_progress", args=([one.name for one in live],))[0]
        return [
            Running(one.index, one.sample, said[0], said[1])
            for one, said in zip(live, found, strict=True)
            if said is not None
        ]

    def close(self) -> None:
        """Ends whatever still runs."""
        if self.live:
            self._cancel(list(self.live.values()))

    def _cancel(self, traces: list[_Live]) -> list[Trace]:
        self.core.abort_request([live.name for live in traces])
        return [trace for trace in self._leave([_Ended(live, "cancelled") for live in traces]) if trace.token_ids]

    def _start(self, live: _Live) -> None:
        params = live.params
        ours = {
            "name": live.name,
            "key": stream_key(params.seed, live.sample, live.prompt),
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "threshold": -math.inf if params.confidence_threshold is None else params.confidence_threshold,
            "window": params.confidence_window,
            "end": live.ends[0] if live.ends else None,
            "confidence_top_k": params.confidence_top_k,
        }
        theirs = VLLMSamplingParams(
            temperature=0.0,
            max_tokens=params.max_tokens,
            stop_token_ids=live.ends,
            ignore_eos=True,
            detokenize=False,
            # Python work per token only where it is needed
            output_kind=RequestOutputKind.DELTA if live.followers or params.stop else RequestOutputKind.FINAL_ONLY,
            extra_args={KEY: ours},
        )
        self.live[live.name] = live
        self.core.add_request(live.name, {"prompt_token_ids": live.prompt}, theirs)

    def _leave(self, ended: list[_Ended]) -> list[Trace]:
        if not ended:
            return []
        names = [one.live.name for one in ended]
        # Every rank samples the same; the first one's record will do.
        recorded = self.core.collective_rpc("h1r_collect", args=(names,))[0]
        for name in names:
            del self.live[name]
        return [self._trace(one, *found) for one, found in zip(ended, recorded, strict=True)]

    def _trace(
        self,
        ended: _Ended,
        ids: list[int],
        logprobs: list[float],
        sampling_logprobs: list[float],
        confidences: list[float],
        below: int,
    ) -> Trace:
        live, reason, n = ended.live, ended.reason, len(ids)
        doubtful = 0 < below <= n and ids[below - 1] not in live.ends
        if doubtful and not (ended.by_string and below == n):
            n, reason = below, "confidence"
        ids = ids[:n]
        return Trace(
            prompt_index=live.index,
            sample_index=live.sample,
            token_ids=ids,
            text=text_of(self.tokenizer, ids, bool(ids) and ids[-1] in live.ends, live.params.stop),
            logprobs=logprobs[:n],
            sampling_logprobs=sampling_logprobs[:n],
            confidences=confidences[:n],
            finish_reason=reason,
            seed=live.params.seed + live.sample,
        )
