"""An engine in one file, without a cache: every token by a full forward pass over all that stands before it.

    h1r demo examples/own_engine.toml

Slow and obvious. It keeps every promise of `h1r.engine.protocol`; the conformance suite of engines runs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from h1r.common.engines import ENGINES
from h1r.config import EngineSection
from h1r.engine.protocol import Prompt, Running, SamplingParams
from h1r.engine.requests import NO_STREAM, ONE_STREAM, Rooms, failed, one_per_prompt, refusal
from h1r.engine.sampling import choose, stream_key, uniform
from h1r.engine.stop_strings import holds_stop_string, text_of
from h1r.models import CausalLM, load
from h1r.records import FinishReason, Trace


@dataclass
class Row:
    """A trace in progress."""

    prompt_index: int
    sample_index: int
    prompt: list[int]
    params: SamplingParams
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampling_logprobs: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)

    def group_confidence(self) -> float | None:
        recent = self.confidences[-self.params.confidence_window :]
        return sum(recent) / len(recent) if recent else None


@ENGINES.register("one_by_one")
class OneByOne:
    """Takes the model's weights as they are at each token. tokenizer: anything with `decode(ids)`, or None."""

    def __init__(self, model: CausalLM, tokenizer: Any = None, section: EngineSection | None = None) -> None:
        self.model, self.tokenizer, self.section = model, tokenizer, section or EngineSection()
        self._rows: list[Row] | None = None
        self._refused: list[Trace] = []
        self._count = 0
        self._rooms = Rooms()
        self._look: Callable[[], None] | None = None

    def generate(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> list[Trace]:
        return sorted(self.stream(prompts, params), key=lambda trace: (trace.prompt_index, trace.sample_index))

    def stream(self, prompts: Sequence[Prompt], params: SamplingParams | Sequence[SamplingParams]) -> Iterator[Trace]:
        each = one_per_prompt(prompts, params)
        if self._rows is not None:
            raise RuntimeError(ONE_STREAM)
        if len({one.confidence_top_k for one in each}) > 1:
            raise ValueError("confidence_top_k must be the same for all requests of one call")
        self._rows, self._refused, self._count = [], [], 0
        self._rooms.clear()
        try:
            for prompt, one in zip(prompts, each, strict=True):
                self.add(prompt, one)
            while self._rows or self._refused:
                while self._refused:
                    yield self._refused.pop()
                for row in list(self._rows):
                    if row in self._rows and (reason := self._step(row)):  # it may have been cancelled meanwhile
                        self._rows.remove(row)
                        yield self._trace(row, reason)
                if self._look is not None:
                    self._look()
        finally:
            self._rows = None

    def add(self, prompt: Prompt, params: SamplingParams) -> int:
        if self._rows is None:
            raise RuntimeError(NO_STREAM)
        index, self._count, config = self._count, self._count + 1, self.model.config
        params = self._rooms.fitted(index, prompt, params, config.max_position_embeddings)
        if why := refusal(prompt, params, self.tokenizer, config.vocab_size, config.max_position_embeddings):
            self._refused += failed(index, params, why)
        else:
            self._rows += [Row(index, sample, [int(t) for t in prompt], params) for sample in range(params.n)]
        return index

    def cancel(self, prompt_index: int) -> list[Trace]:
        """Ends the traces of a prompt; those that had begun are returned as they stand."""
        rows = self._rows or []
        gone = [row for row in rows if row.prompt_index == prompt_index]
        rows[:] = [row for row in rows if row.prompt_index != prompt_index]
        return [self._trace(row, "cancelled") for row in gone if row.tokens]

    def watch(self, look: Callable[[], None] | None) -> None:
        self._look = look

    def progress(self) -> list[Running]:
        return [
            Running(row.prompt_index, row.sample_index, len(row.tokens), row.group_confidence())
            for row in self._rows or []
            if row.tokens
        ]

    def load_weights(self, weights: Mapping[str, Tensor] | str | Path) -> None:
        self.model.load_state_dict(weights if isinstance(weights, Mapping) else load(weights).state_dict())

    @torch.no_grad()
    def _step(self, row: Row) -> FinishReason | None:
        """One token more; why the trace ends with it, or None."""
        params, device = row.params, self.model.device
        logits_BV = self.model(torch.tensor([row.prompt + row.tokens], device=device))[:, -1]
        key = torch.tensor([stream_key(params.seed, row.sample_index, row.prompt)], device=device)
        drawn_B = uniform(key, torch.tensor([len(row.tokens)], device=device))
        numbers = [torch.tensor([n], device=device) for n in (params.temperature, params.top_k, params.top_p)]
        min_p = torch.tensor([params.min_p], device=device) if params.min_p else None
        choice = choose(logits_BV, drawn_B, *numbers, min_p, params.confidence_top_k)
        row.tokens.append(int(choice.token))
        row.logprobs.append(float(choice.logprob))
        row.sampling_logprobs.append(float(choice.sampling_logprob))
        row.confidences.append(float(choice.confidence))
        if row.tokens[-1] in self._ends(row) or (
            params.stop and holds_stop_string(self.tokenizer, row.tokens, params.stop)
        ):
            return "stop"
        confidence, threshold = row.group_confidence(), params.confidence_threshold
        if threshold is not None and len(row.tokens) >= params.confidence_window and (confidence or 0.0) < threshold:
            return "confidence"
        return "length" if len(row.tokens) == params.max_tokens else None

    def _ends(self, row: Row) -> tuple[int, ...]:
        return (*self.model.config.eos_token_ids, *row.params.stop_token_ids)

    def _trace(self, row: Row, reason: FinishReason) -> Trace:
        ended = bool(row.tokens) and row.tokens[-1] in self._ends(row)
        return Trace(
            row.prompt_index,
            row.sample_index,
            row.tokens,
            text_of(self.tokenizer, row.tokens, ended, row.params.stop),
            row.logprobs,
            row.sampling_logprobs,
            row.confidences,
            reason,
            seed=row.params.seed + row.sample_index,
            room=self._rooms.of(row.prompt_index),
        )
