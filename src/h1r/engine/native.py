"""The native engine: continuous batching over the slots of a hybrid cache, in the trainer's own process.

One iteration of the loop:

    admit    prompts are prefilled together, each once; every trace of a prompt starts as a copy of its state
    sample   one token for each of the n running rows, with log-probability and confidence
    finish   ended rows leave, the last rows take their place, so running rows are always [0, n)
    decode   one forward pass over rows [0, n) of the cache

Sampling, confidence and stopping are tensor operations over the batch; Python touches single traces only when they
start and when they end (and at every token of a trace with stop strings).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from h1r.config import EngineSection
from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.engine.sampling import choose, stream_key, uniform
from h1r.model.cache import HybridCache
from h1r.model.checkpoint import load
from h1r.model.hybrid import HybridForCausalLM
from h1r.records import FinishReason, Trace


@dataclass
class _Request:
    index: int
    prompt: list[int]
    params: SamplingParams
    prefix: HybridCache | None = None
    """The prefilled state, in row `prefix_row`; shared by all requests of one prefill."""
    prefix_row: int = 0
    logits: Tensor | None = None
    started: int = 0

    @property
    def budget(self) -> int:
        return len(self.prompt) + self.params.max_tokens


@dataclass
class _Row:
    request: _Request
    sample_index: int
    text_ids: list[int] = field(default_factory=list)
    """Tokens so far, kept on the host only for traces with stop strings."""


class NativeEngine:
    """Generates with a `HybridForCausalLM` that may be the one in training: weights are read, never copied.

    tokenizer: anything with `decode(ids)`; None leaves `Trace.text` empty and refuses stop strings.
    eos_token_ids: what ends a trace; None takes them from the model's config.
    """

    def __init__(
        self,
        model: HybridForCausalLM,
        tokenizer: Any = None,
        section: EngineSection | None = None,
        eos_token_ids: Sequence[int] | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.section = section or EngineSection()
        self.eos_token_ids = tuple(eos_token_ids if eos_token_ids is not None else model.config.eos_token_ids)
        self._batch: _Batch | None = None
        self._look: Callable[[], None] | None = None

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        """All traces, ordered by (prompt_index, sample_index)."""
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        """The same traces, each as soon as it ends. Raises `ValueError` when params do not match prompts in number."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts came with {len(each)} SamplingParams")
        good: list[_Request] = []
        for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
            if why := self._refusal(prompt, one):
                yield from (_failed(index, sample, one.seed, why) for sample in range(one.n))
            else:
                good.append(_Request(index, [int(token) for token in prompt], one))
        if not good:
            return
        batch = self._batch = _Batch(self, good)
        try:
            while batch.busy:
                yield from batch.step()
                if self._look is not None:
                    self._look()
        finally:
            self._batch = None

    def cancel(self, prompt_index: int) -> list[Trace]:
        """See `Engine.cancel`. Without a stream in progress there is nothing to cancel."""
        return self._batch.cancel(prompt_index) if self._batch is not None else []

    def watch(self, look: Callable[[], None] | None) -> None:
        """See `Engine.watch`."""
        self._look = look

    def progress(self) -> list[Running]:
        """See `Engine.progress`."""
        return self._batch.progress() if self._batch is not None else []

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        """Takes a state dict, or a checkpoint directory of the same configuration."""
        if not isinstance(weights, Mapping):
            weights = load(weights).state_dict()
        self.model.load_state_dict(weights)

    def _refusal(self, prompt: Prompt, params: SamplingParams) -> str | None:
        config = self.model.config
        if len(prompt) == 0:
            return "the prompt is empty"
        if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            return f"the prompt holds token ids outside the vocabulary of {config.vocab_size}"
        if len(prompt) + params.max_tokens > config.max_position_embeddings:
            return (
                f"prompt ({len(prompt)}) and max_tokens ({params.max_tokens}) exceed the model's "
                f"{config.max_position_embeddings} positions"
            )
        if params.stop and self.tokenizer is None:
            return "stop strings need an engine with a tokenizer"
        return None


class _Batch:
    """One `stream` call in progress."""

    def __init__(self, engine: NativeEngine, requests: list[_Request]) -> None:
        self.engine, self.model = engine, engine.model
        self.waiting: deque[_Request] = deque(requests)
        self.rows: list[_Row] = []
        slots = min(engine.section.max_sequences, sum(request.params.n for request in requests))
        longest = max(request.budget for request in requests)
        new = max(request.params.max_tokens for request in requests)
        model, device = self.model, self.model.device
        self.cache = HybridCache.allocate(model.config, slots, longest, model.dtype, device)
        self.logits = torch.zeros(slots, model.config.vocab_size, device=device)
        self.ends = torch.zeros(slots, model.config.vocab_size, dtype=torch.bool, device=device)
        self.tokens = torch.zeros(slots, new, dtype=torch.long, device=device)
        self.logprobs, self.sampling_logprobs, self.confidences = (
            torch.zeros(slots, new, device=device) for _ in range(3)
        )
        self.group_sum = torch.zeros(slots, dtype=torch.float64, device=device)
        whole = {"count", "max_tokens", "window", "key", "top_k"}
        fields = (*whole, "temperature", "top_p", "min_p", "threshold")
        self.state = {
            name: torch.zeros(slots, dtype=torch.long if name in whole else torch.float64, device=device)
            for name in fields
        }
        self.top_k_confidence = max(request.params.confidence_top_k for request in requests)
        if any(request.params.confidence_top_k != self.top_k_confidence for request in requests):
            raise ValueError("confidence_top_k must be the same for all requests of one call")
        self.filtered = [any(getattr(r.params, name) != off for r in requests) for name, off in _FILTERS]
        self.may_stop_early = any(request.params.confidence_threshold is not None for request in requests)
        self.has_stop_strings = any(request.params.stop for request in requests)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.rows)

    @torch.inference_mode()
    def step(self) -> list[Trace]:
        """One iteration of the loop; returns the traces that ended in it."""
        self._admit()
        finished = self._sample()
        n = len(self.rows)
        if n:
            column = self.state["count"][:n, None] - 1
            last_B1 = self.tokens[:n].gather(1, column)
            hidden = self.model.model.cached(last_B1, self.cache.rows(n), None)
            self.logits[:n] = self.model.logits(hidden[:, 0]).float()
        return finished

    @torch.inference_mode()
    def cancel(self, prompt_index: int) -> list[Trace]:
        self.waiting = deque(request for request in self.waiting if request.index != prompt_index)
        rows = [i for i, row in enumerate(self.rows) if row.request.index == prompt_index]
        return self._remove(rows, ["cancelled"] * len(rows))

    @torch.inference_mode()
    def progress(self) -> list[Running]:
        n = len(self.rows)
        if not n:
            return []
        count_B, window_B = self.state["count"][:n], self.state["window"][:n]
        kept_B = torch.minimum(count_B, window_B)
        back_W = torch.arange(int(kept_B.max()), device=count_B.device)
        place_BW = (count_B[:, None] - 1 - back_W).clamp_min(0)
        recent_BW = self.confidences[:n].gather(1, place_BW) * (back_W < kept_B[:, None])
        mean_B = recent_BW.sum(1, dtype=torch.float64) / kept_B
        return [
            Running(row.request.index, row.sample_index, count, mean if count else None)
            for row, count, mean in zip(self.rows, count_B.tolist(), mean_B.tolist(), strict=True)
        ]

    def _admit(self) -> None:
        """Starts waiting traces while slots are free; prompts are prefilled in batches of `prefill_tokens`."""
        while self.waiting and len(self.rows) < self.cache.lengths.shape[0]:
            request = self.waiting[0]
            if request.prefix is None:
                self._prefill()
            assert request.prefix is not None
            free = self.cache.lengths.shape[0] - len(self.rows)
            count = min(free, request.params.n - request.started)
            self._start(request, count)
            if request.started == request.params.n:
                self.waiting.popleft()
                request.prefix = request.logits = None

    def _prefill(self) -> None:
        """Prefills the first waiting prompts: as many as free slots may need and `prefill_tokens` allows."""
        free = self.cache.lengths.shape[0] - len(self.rows)
        batch: list[_Request] = []
        traces = 0
        longest = 0
        for request in self.waiting:
            longest = max(longest, len(request.prompt))
            if batch and (traces >= free or longest * (len(batch) + 1) > self.engine.section.prefill_tokens):
                break
            batch.append(request)
            traces += request.params.n
        longest = max(len(request.prompt) for request in batch)
        device = self.model.device
        prefix = HybridCache.allocate(self.model.config, len(batch), longest, self.model.dtype, device)
        ids_BT = torch.zeros(len(batch), longest, dtype=torch.long, device=device)
        lengths_B = torch.tensor([len(request.prompt) for request in batch], device=device)
        for row, request in enumerate(batch):
            ids_BT[row, : len(request.prompt)] = torch.tensor(request.prompt, device=device)
        hidden = self.model.model.cached(ids_BT, prefix, lengths_B)
        last = hidden[torch.arange(len(batch), device=device), lengths_B - 1]
        logits = self.model.logits(last).float()
        for row, request in enumerate(batch):
            request.prefix, request.prefix_row, request.logits = prefix, row, logits[row]

    def _start(self, request: _Request, count: int) -> None:
        params, first = request.params, len(self.rows)
        assert request.prefix is not None
        assert request.logits is not None
        target = torch.arange(first, first + count, device=self.model.device)
        self.cache.copy_rows_(target, request.prefix, torch.full_like(target, request.prefix_row), len(request.prompt))
        self.logits[target] = request.logits
        samples = range(request.started, request.started + count)
        values = {
            "count": 0,
            "max_tokens": params.max_tokens,
            "window": params.confidence_window,
            "top_k": params.top_k,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "threshold": -torch.inf if params.confidence_threshold is None else params.confidence_threshold,
        }
        for name, value in values.items():
            self.state[name][target] = value
        keys = [stream_key(params.seed, sample, request.prompt) for sample in samples]
        self.state["key"][target] = torch.tensor(keys, device=self.model.device)
        self.group_sum[target] = 0
        self.ends[target] = False
        ends = [token for token in (*self.engine.eos_token_ids, *params.stop_token_ids) if token < self.ends.shape[1]]
        if ends:
            self.ends[first : first + count, ends] = True
        self.rows.extend(_Row(request, sample) for sample in samples)
        request.started += count

    def _sample(self) -> list[Trace]:
        n = len(self.rows)
        state = {name: tensor[:n] for name, tensor in self.state.items()}
        count = state["count"]
        top_k, top_p, min_p = (
            state[name] if on else None for (name, _), on in zip(_FILTERS, self.filtered, strict=True)
        )
        draw = uniform(state["key"], count)
        choice = choose(self.logits[:n], draw, state["temperature"].float(), top_k, top_p, min_p, self.top_k_confidence)
        column = count[:, None]
        for buffer, value in (
            (self.tokens, choice.token),
            (self.logprobs, choice.logprob),
            (self.sampling_logprobs, choice.sampling_logprob),
            (self.confidences, choice.confidence),
        ):
            buffer[:n].scatter_(1, column, value[:, None])
        ended = self.ends[:n].gather(1, choice.token[:, None]).squeeze(1)
        doubtful = torch.zeros_like(ended)
        if self.may_stop_early:
            doubtful = self._below_threshold(choice.confidence.double(), state) & ~ended
        count += 1
        full = count >= state["max_tokens"]
        stopped = [False] * n
        if self.has_stop_strings:
            stopped = self._stop_strings(choice.token.tolist())
        done = ended | doubtful | full
        if not (bool(done.any()) or any(stopped)):
            return []
        reasons: list[FinishReason] = []
        leaving = []
        for i, flags in enumerate(zip(ended.tolist(), stopped, doubtful.tolist(), full.tolist(), strict=True)):
            if any(flags):
                leaving.append(i)
                reasons.append(next(r for r, flag in zip(_REASONS, flags, strict=True) if flag))
        return self._remove(leaving, reasons)

    def _below_threshold(self, confidence_B: Tensor, state: dict[str, Tensor]) -> Tensor:
        """Whether the mean of the last `window` confidences, once there are so many, lies below the threshold."""
        n = confidence_B.shape[0]
        count, window = state["count"], state["window"]
        leaving = count - window
        old = self.confidences[:n].gather(1, leaving.clamp_min(0)[:, None]).squeeze(1).double()
        self.group_sum[:n] += confidence_B - torch.where(leaving >= 0, old, torch.zeros_like(old))
        return (count + 1 >= window) & (self.group_sum[:n] / window < state["threshold"])

    def _stop_strings(self, tokens: list[int]) -> list[bool]:
        found = []
        for row, token in zip(self.rows, tokens, strict=True):
            if not row.request.params.stop:
                found.append(False)
                continue
            row.text_ids.append(token)
            # A stop string of c characters spans at most the last 4 c byte-level tokens (UTF-8).
            reach = 4 * max(len(stop) for stop in row.request.params.stop)
            tail = self.engine.tokenizer.decode(row.text_ids[-reach:])
            found.append(any(stop in tail for stop in row.request.params.stop))
        return found

    def _remove(self, leaving: list[int], reasons: Sequence[FinishReason]) -> list[Trace]:
        """Takes rows out as traces and closes the gaps with the last rows."""
        traces = [self._trace(i, reason) for i, reason in zip(leaving, reasons, strict=True)]
        n = len(self.rows) - len(leaving)
        gone = set(leaving)
        holes = [i for i in leaving if i < n]
        movers = [i for i in range(n, len(self.rows)) if i not in gone]
        if holes:
            target = torch.tensor(holes, device=self.model.device)
            source = torch.tensor(movers, device=self.model.device)
            self.cache.copy_rows_(target, self.cache, source, int(self.cache.lengths[source].max()))
            moved = [self.logits, self.ends, self.tokens, self.logprobs, self.sampling_logprobs, self.confidences]
            for tensor in (*moved, self.group_sum, *self.state.values()):
                tensor[target] = tensor[source]
            for hole, mover in zip(holes, movers, strict=True):
                self.rows[hole] = self.rows[mover]
        del self.rows[n:]
        return traces

    def _trace(self, i: int, reason: FinishReason) -> Trace:
        row, n = self.rows[i], int(self.state["count"][i])
        ids = self.tokens[i, :n].tolist()
        request = row.request
        return Trace(
            prompt_index=request.index,
            sample_index=row.sample_index,
            token_ids=ids,
            text=self._text(ids, bool(n and self.ends[i, ids[-1]]), request.params.stop),
            logprobs=self.logprobs[i, :n].tolist(),
            sampling_logprobs=self.sampling_logprobs[i, :n].tolist(),
            confidences=self.confidences[i, :n].tolist(),
            finish_reason=reason,
            seed=request.params.seed + row.sample_index,
        )

    def _text(self, ids: list[int], ended: bool, stops: tuple[str, ...]) -> str:
        if self.engine.tokenizer is None:
            return ""
        text: str = self.engine.tokenizer.decode(ids[:-1] if ended else ids)
        cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text


_FILTERS = (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0))
_REASONS: tuple[FinishReason, ...] = ("stop", "stop", "confidence", "length")


def _failed(prompt_index: int, sample_index: int, seed: int, why: str) -> Trace:
    return Trace(prompt_index, sample_index, [], "", [], [], [], "error", seed=seed + sample_index, error=why)
