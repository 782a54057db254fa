"""What the native engine knows of the traces in progress, as tensors with one row per slot; running rows are [0, n)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from h1r.engine.protocol import SamplingParams
from h1r.engine.sampling import stream_key
from h1r.models.cache import KVCache
from h1r.response.loops import LoopWatch

INTEGERS = ("count", "max_tokens", "window", "key", "top_k", "last")
FLOATS = ("temperature", "top_p", "min_p", "threshold", "group_sum")
_TOKEN_BYTES = 8 + 3 * 4


@dataclass(eq=False)
class Request:
    index: int
    prompt: list[int]
    params: SamplingParams
    listen: bool = False
    """Whether somebody reads its tokens as they are drawn."""
    prefix: KVCache | None = None
    """The prefilled state, in row `prefix_row`; shared by all requests of one prefill."""
    prefix_row: int = 0
    logits: Tensor | None = None
    started: int = 0

    @property
    def budget(self) -> int:
        return len(self.prompt) + self.params.max_tokens


@dataclass(eq=False)
class Row:
    request: Request
    sample_index: int
    base: int
    """Tokens it holds in the cache, less the steps that the batch has decoded."""
    told: int = 0
    """How many of its tokens somebody who listens has."""
    text_ids: list[int] = field(default_factory=list)
    """Tokens so far, kept on the host only for traces with stop strings."""
    watch: LoopWatch | None = None
    """Of a trace that a loop is to end."""


class Slots:
    """logits [slots, V], ends [slots, V] (tokens that end the trace), tokens and log-probabilities and confidences
    [slots, new], and numbers [slots] by name in `state`."""

    def __init__(self, slots: int, vocab: int, new_tokens: int, device: torch.device | str = "cpu") -> None:
        self.logits = torch.zeros(slots, vocab, device=device)
        self.ends = torch.zeros(slots, vocab, dtype=torch.bool, device=device)
        self.tokens = torch.zeros(slots, new_tokens, dtype=torch.long, device=device)
        self.logprobs, self.sampling_logprobs, self.confidences = (
            torch.zeros(slots, new_tokens, device=device) for _ in range(3)
        )
        self.reason = torch.zeros(slots, dtype=torch.uint8, device=device)
        kinds = dict.fromkeys(INTEGERS, torch.long) | dict.fromkeys(FLOATS, torch.float64)
        self.state = {name: torch.zeros(slots, dtype=kind, device=device) for name, kind in kinds.items()}

    @staticmethod
    def bytes_per_slot(vocab: int, new_tokens: int) -> int:
        """Memory of one slot."""
        return vocab * (4 + 1) + new_tokens * _TOKEN_BYTES + 8 * len(INTEGERS + FLOATS) + 1

    def start(self, first: int, request: Request, samples: range, end_tokens: Sequence[int]) -> None:
        """Traces `samples` of a prefilled request take the slots from `first` on."""
        assert request.logits is not None
        params, end = request.params, first + len(samples)
        self.logits[first:end] = request.logits
        values = {
            "count": 0,
            "max_tokens": params.max_tokens,
            "window": params.confidence_window,
            "top_k": params.top_k,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "threshold": -torch.inf if params.confidence_threshold is None else params.confidence_threshold,
            "group_sum": 0.0,
        }
        for name, value in values.items():
            self.state[name][first:end] = value
        keys = [stream_key(params.seed, sample, request.prompt) for sample in samples]
        self.state["key"][first:end] = torch.tensor(keys, device=self.tokens.device)
        self.ends[first:end] = False
        inside = [token for token in end_tokens if token < self.ends.shape[1]]
        if inside:
            self.ends[first:end, inside] = True

    def take_over(self, other: Slots, n: int) -> None:
        """Copies the first n rows of `other`; the tokens in use fit into both."""
        width = min(self.tokens.shape[1], other.tokens.shape[1])
        for name in ("tokens", "logprobs", "sampling_logprobs", "confidences"):
            getattr(self, name)[:n, :width] = getattr(other, name)[:n, :width]
        for mine, theirs in ((self.logits, other.logits), (self.ends, other.ends)):
            mine[:n] = theirs[:n]
        for name, tensor in self.state.items():
            tensor[:n] = other.state[name][:n]

    def move(self, target: Tensor, source: Tensor) -> None:
        """Copies rows `source` over rows `target`."""
        moved = (self.logits, self.ends, self.tokens, self.logprobs, self.sampling_logprobs, self.confidences)
        for tensor in (*moved, *self.state.values()):
            tensor[target] = tensor[source]
